"""Labels of frames that no list names: a folder of label maps, found by the names of the frames."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from etc.config import is_given, with_changes
from etc.config.schema import Settings
from etc.data.files_by_name import files_by_name
from etc.data.folders import files_below
from etc.data.images import image_size, read_label
from etc.data.labels import CITYSCAPES, IGNORE
from etc.data.lists import Clip
from etc.errors import UserError

logger = logging.getLogger(__name__)

_LOOKED_AT = 20  # labels


def labels_as_given(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The settings with ``DATA.label_map`` for the labels of one's own frames, where nobody said how they are read.

    Args:
        settings: of frames that no settings file describes.
        overrides: as :func:`etc.config.load_settings` takes them.

    Raises:
        UserError: labels of 19 classes without any value beyond 18: hardly the label ids of Cityscapes, in which trees,
            sky and cars have such values.
    """
    if is_given("DATA.label_map", overrides) or settings.TEST.labels is None:
        return settings
    if settings.DATA.classes != CITYSCAPES:
        return with_changes(settings, DATA={"label_map": "none"})
    looked_at = files_below(settings.TEST.labels, ".png")[:_LOOKED_AT] if Path(settings.TEST.labels).is_dir() else []
    values = {int(value) for path in looked_at for value in np.unique(read_label(path))} - {IGNORE}
    if values and max(values) < CITYSCAPES:
        raise UserError(
            f"--labels {settings.TEST.labels}: labels of 19 classes are read as label ids of Cityscapes (7 is road), "
            "but no value there is beyond 18: give DATA.label_map none for ids 0..18, DATA.label_map cityscapes for "
            "label ids all the same, or DATA.classes for another number of classes"
        )
    return settings


def with_labels(clips: list[Clip], folder: Path, data_root: Path) -> list[Clip]:
    """The clips with the labels that a folder holds, in place of any that they had; frames may lack one.

    Args:
        clips: frames, relative to ``data_root``.
        folder: PNG files, found as :func:`etc.data.files_by_name.files_by_name` does.
        data_root: folder of the frames.

    Raises:
        UserError: no file that is named like a frame, several for one frame, or a label of another
            size than its frame.
    """
    images = [data_root / frame.image for clip in clips for frame in clip]
    found = files_by_name(clips, folder, [None] * len(images), data_root=data_root, what="label")
    if not any(found):
        count = len(files_below(folder, ".png"))
        raise UserError(
            f"TEST.labels {folder}: none of its {count} PNG files is named like one of the {len(images)} frames: "
            f"expected {images[0].stem}.png for {images[0]}, or {images[0].stem}_<word>.png, or one file per frame"
        )
    known = {label for label in found if label is not None}
    surplus = [path for path in files_below(folder, ".png") if path not in known]
    if surplus and None in found:
        logger.warning(
            "TEST.labels %s: %d of its PNG files are named like no frame (%s), and %d frames have no label (%s): if "
            "they belong together, rename them",
            *(folder, len(surplus), surplus[0].name, found.count(None), images[found.index(None)].name),
        )
    for image, label in zip(images, found, strict=True):
        if label is not None and image_size(label) != image_size(image):
            (width, height), (wide, high) = image_size(label), image_size(image)
            raise UserError(f"TEST.labels: {label} is {width}x{height}, its frame {image} is {wide}x{high}")
    rest = iter(found)
    return [[frame._replace(label=_absolute(next(rest))) for frame in clip] for clip in clips]


def _absolute(label: Path | None) -> str | None:
    """Frames may be relative to another folder than the labels."""
    return None if label is None else os.path.abspath(label)
