"""The list of all data layouts: the values of ``DATA.layout`` and ``DATA.label_map``, and what they mean.

To add a layout, write its :class:`~etc.data.frame_names.Layout` as the modules here do, and add it to the list.
"""

from __future__ import annotations

from pathlib import Path

from etc.config.fields import LabelMap
from etc.config.schema import Settings
from etc.data.cityscapes import CITYSCAPES
from etc.data.davis import DAVIS
from etc.data.frame_names import Layout
from etc.data.kitti_step import KITTI_STEP
from etc.data.make_lists import CAMVID, FOLDER
from etc.data.vspw import VSPW
from etc.errors import ConfigError

LAYOUTS = {layout.name: layout for layout in (CITYSCAPES, CAMVID, VSPW, KITTI_STEP, DAVIS, FOLDER)}
# Values of DATA.label_map that belong to no layout. VOID_ZERO: 0 is ignored, 1..K are the classes; COLOR: label files
# hold the colours of DATA.colors_path; RED: train ids in the red channel, and instances in the others.
VOID_ZERO, COLOR, RED = NAMED_MAPS = "void_zero", "color", "red"
LABEL_MAPS = {name: layout.label_ids for name, layout in LAYOUTS.items() if layout.label_ids} | {"none": None}


def layout_named(name: str) -> Layout:
    """The layout of a value of ``DATA.layout``.

    Raises:
        ConfigError: there is no such layout; the message names those that there are.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"DATA.layout {name!r} is unknown: expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def label_ids_of(label_map: str) -> tuple[int, ...] | None:
    """The values that stand for the train ids in label files, by a value of ``DATA.label_map``; ``None``: train ids.

    Raises:
        ConfigError: there is no such label map; the message names those that there are.
    """
    if label_map not in LABEL_MAPS:
        known = ", ".join([*LABEL_MAPS, *NAMED_MAPS])
        raise ConfigError(
            f"DATA.label_map {label_map!r} is unknown: expected one of {known}, a mapping such as '{{0: 255, 1: 0}}', "
            "or a .yaml file that holds one"
        )
    return LABEL_MAPS[label_map]


def is_mapping_file(label_map: LabelMap) -> bool:
    """Whether a value of ``DATA.label_map`` names a YAML file with a mapping."""
    return isinstance(label_map, str) and Path(label_map).suffix.lower() in (".yaml", ".yml")


def check_layout(settings: Settings) -> Settings:
    """The settings, if their ``DATA.layout`` and ``DATA.label_map`` are known.

    Raises:
        ConfigError: one of them is not.
    """
    layout_named(settings.DATA.layout)
    label_map = settings.DATA.label_map
    if isinstance(label_map, str) and label_map not in NAMED_MAPS and not is_mapping_file(label_map):
        label_ids_of(label_map)
    return settings
