"""Label values on disk -> train ids, by one lookup table; class names and colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from etc.config import find_file
from etc.config.fields import LabelMap
from etc.config.schema import Settings
from etc.config.yaml_reader import YamlError, parse
from etc.data.images import LabelFile, check_lossless, read_label_file
from etc.data.layouts import COLOR, RED, VOID_ZERO, is_mapping_file, label_ids_of
from etc.data.lists import reason_unread
from etc.errors import UserError
from utils.files import regular_file

CITYSCAPES = 19  # classes; without a file of names or colours, so many are taken for those of Cityscapes
CITYSCAPES_NAMES, CITYSCAPES_COLORS = (f"data/palettes/cityscapes_{what}.txt" for what in ("names", "colors"))
IGNORE = 255
INVALID = 254  # inside a table only: marks values that must not occur


def label_table(
    label_map: LabelMap, classes: int, ignore_label: int | Sequence[int], *, setting: str = "DATA.label_map"
) -> np.ndarray:
    """Lookup table from the label values in files to train ids, uint8 ``[256]``, or ``[65536]`` for larger values.

    Train ids are 0..classes-1 and 255 (ignore). ``label_map`` is a value of ``DATA.label_map``:

    - ``"none"``: values are train ids already; those of ``ignore_label`` are ignored,
    - ``"red"``: the same, of the red channel,
    - ``"void_zero"``: 0 is ignored, the values 1..classes are the classes, 254 is ignored if it is none,
    - a name in :data:`etc.data.layouts.LABEL_MAPS`: every value up to its highest one that stands for no class is
      ignored,
    - a mapping from values to train ids, 255 for those to ignore, or a YAML file that holds one.

    255 is ignored unless a mapping says otherwise. All other values are errors when they occur. ``setting`` is what
    errors call a mapping.

    Raises:
        ConfigError: there is no such label map.
        UserError: the label map has another number of classes, or ids that are no train ids.
    """
    if label_map == VOID_ZERO:
        void = {0: IGNORE, 254: IGNORE}  # VSPW has 254 where its 255 was shifted
        return _mapped(void | {value + 1: value for value in range(classes)}, classes, setting)
    if isinstance(label_map, dict):
        return _mapped(label_map, classes, setting)
    if is_mapping_file(label_map):
        return _mapped(read_label_map(label_map), classes, setting)
    label_ids = None if label_map == RED else label_ids_of(label_map)
    table = np.full(256, INVALID, np.uint8)
    if label_ids is None:
        table[:classes] = np.arange(classes)
        table[np.append(ignore_label, IGNORE)] = IGNORE
        return table
    if classes != len(label_ids):
        raise UserError(
            f"DATA.label_map {label_map} has {len(label_ids)} classes, DATA.classes is {classes}: set DATA.label_map "
            f"none where labels hold 0..{classes - 1}, or to a mapping from what they hold"
        )
    # Above the highest id there is no label: a colour image or train ids were given by mistake.
    table[: max(label_ids) + 1] = IGNORE
    table[IGNORE] = IGNORE
    table[list(label_ids)] = np.arange(classes)
    return table


def label_table_of(settings: Settings) -> LabelTable:
    """The table of the label files of the settings, for :func:`read_train_ids`.

    Raises:
        ConfigError: as :func:`label_table`.
        UserError: as :func:`label_table`, or ``DATA.label_map color`` without a usable ``DATA.colors_path``.
    """
    data = settings.DATA
    if data.label_map == COLOR:
        return color_table(data.colors_path, data.classes)
    table = label_table(data.label_map, data.classes, settings.TRAIN.ignore_label)
    return RedTable(table) if data.label_map == RED else table


def read_label_map(path: str | Path) -> dict[int, int]:
    """The mapping from label values to train ids in a YAML file: one ``value: train id`` per line.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    try:
        mapping = parse("\n".join(_lines(path)))
    except (YamlError, yaml.YAMLError) as error:
        raise UserError(f"DATA.label_map {path} is not a YAML file: {' '.join(str(error).split())}") from error
    numbers = [*mapping, *mapping.values()] if isinstance(mapping, dict) else []
    if not numbers or not all(type(number) is int for number in numbers):
        raise UserError(f"DATA.label_map {path}: expected lines 'label value: train id' of whole numbers")
    return mapping


def _mapped(mapping: dict[int, int], classes: int, setting: str) -> np.ndarray:
    outside = [value for value in mapping if not 0 <= value <= 65535]
    if outside:
        raise UserError(f"{setting}: {outside[0]} is no value of a label file, which are 0..65535")
    wrong = {value: number for value, number in mapping.items() if number != IGNORE and not 0 <= number < classes}
    if wrong:
        value, number = next(iter(wrong.items()))
        raise UserError(
            f"{setting} gives the value {value} the train id {number}: expected 0..{classes - 1} "
            f"(DATA.classes {classes}), or 255 for values to ignore"
        )
    table = np.full(256 if max(mapping, default=0) < 256 else 65536, INVALID, np.uint8)
    # In 16 bits, 65535 is what 255 is in 8: all bits set.
    table[[IGNORE, len(table) - 1]] = IGNORE
    table[list(mapping)] = list(mapping.values())
    return table


class ColorTable(NamedTuple):
    """Label files in the colours of the classes.

    Attributes:
        colors: RGB of each class, uint8 ``[K, 3]``. Black is no class, unless a class has that colour.
    """

    colors: np.ndarray

    def train_ids(self, file: LabelFile) -> np.ndarray:
        """The class of each colour, uint8 ``[H, W]``; 255 is no class.

        Raises:
            UserError: the file is gray, or has a colour of no class.
        """
        black = np.zeros((1, 3), np.uint8)
        known, first = np.unique(color_codes(np.concatenate([self.colors, black])), return_index=True)
        ids = np.where(first < len(self.colors), first, IGNORE).astype(np.uint8)
        colors = file.colors()
        codes = color_codes(colors)
        place = np.searchsorted(known, codes).clip(max=len(known) - 1)
        wrong = known[place] != codes
        if wrong.any():
            color = colors[wrong][0].tolist()
            raise UserError(f"{file.path}: {color} is the colour of no class of DATA.colors_path")
        return ids[place]


def color_table(colors_path: str | Path | None, classes: int) -> ColorTable:
    """The table of files in the colours of a file, or of ``None``, see :func:`read_colors`.

    Raises:
        UserError: as :func:`read_colors`; two classes of one colour, which a file cannot tell apart.
    """
    colors = read_colors(colors_path, classes)[:classes]
    different, first = np.unique(color_codes(colors), return_index=True)
    if len(different) < classes:
        second = next(number for number in range(classes) if number not in first)
        one = int(np.flatnonzero(color_codes(colors) == color_codes(colors[second]))[0])
        color = colors[second].tolist()
        raise UserError(
            f"DATA.colors_path {colors_path}: the classes {one} and {second} have one colour, {color}, so that "
            "pictures in these colours do not say which is meant"
        )
    return ColorTable(colors)


class RedTable(NamedTuple):
    """Label files with train ids in the red channel; green and blue hold the number of the instance.

    Attributes:
        table: as :func:`label_table` makes it.
    """

    table: np.ndarray

    def train_ids(self, file: LabelFile) -> np.ndarray:
        """The class of each pixel, uint8 ``[H, W]``; 255 is no class.

        Raises:
            UserError: a value outside the classes.
        """
        ids, wrong = to_train_ids(file.red(), self.table)
        if wrong is not None:
            raise UserError(
                f"{file.path}: the value {wrong} of the red channel is outside the classes (DATA.classes; with "
                "DATA.label_map red it holds train ids, and 255 where there is no class)"
            )
        return ids


LabelTable = np.ndarray | ColorTable | RedTable


def color_codes(colors: np.ndarray) -> np.ndarray:
    """One number per colour, int32 ``[...]``, of uint8 ``[..., 3]``."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def to_train_ids(label: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Label values of a file -> train ids, and the first value outside the classes.

    Args:
        label: as :func:`~etc.data.images.read_label` gives it. A table of 256 values holds none of the 16-bit values
            above, but 65535, all bits set as in an 8-bit 255, is then ignored.
        table: as :func:`label_table` makes it.

    Returns:
        Train ids, uint8 ``[H, W]``, which are valid only if the second value is ``None``.
    """
    if label.dtype == np.uint16 and len(table) == 256:
        table = np.concatenate([table, np.full(65535 - len(table), INVALID, np.uint8), [np.uint8(IGNORE)]])
    ids = table[label]
    wrong = ids == INVALID
    return ids, int(label[wrong][0]) if wrong.any() else None


def read_train_ids(path: str | Path, table: LabelTable, shape: tuple[int, int] | None = None) -> np.ndarray:
    """A label map as train ids, uint8 ``[H, W]``.

    Args:
        path: the label map.
        table: as :func:`label_table_of` makes it.
        shape: height and width that the label must have (those of its frame).

    Raises:
        UserError: as :func:`~etc.data.images.read_label`, a JPEG, another size, or a value outside the classes.
    """
    check_lossless(path)
    file = read_label_file(path)
    height, width = file.pixels.shape[:2]
    if shape is not None and (height, width) != tuple(shape):
        raise UserError(f"{path}: label is {width}x{height}, its frame is {shape[1]}x{shape[0]}")
    if not isinstance(table, np.ndarray):
        return table.train_ids(file)
    ids, wrong = to_train_ids(file.ids(), table)
    if wrong is not None:
        raise UserError(f"{path}: label value {wrong} is outside the classes (DATA.classes, DATA.label_map)")
    return ids


def read_names(path: str | Path | None, classes: int) -> list[str]:
    """Class names, one per line of a file; ``None``: those of Cityscapes for 19 classes, else ``class 0`` and so on.

    Raises:
        UserError: the file is missing, or does not have one name per class.
    """
    if path is None and classes != CITYSCAPES:
        return [f"class {number}" for number in range(classes)]
    path = path or CITYSCAPES_NAMES
    names = [line.strip() for line in _lines(path)]
    if len(names) != classes:
        raise UserError(
            f"{path} has {len(names)} names, DATA.classes is {classes}: set DATA.names_path to a text file with one "
            f"name per line, {classes} in all"
        )
    return names


def read_colors(path: str | Path | None, classes: int) -> np.ndarray:
    """Colours of the classes, uint8 ``[256, 3]`` RGB; ids without a class are black.

    ``None`` is not a file, but the colours of Cityscapes for 19 classes, and else those of PASCAL VOC.

    Raises:
        UserError: the file is missing, or does not have one ``R G B`` line per class.
    """
    palette = np.zeros((256, 3), np.uint8)
    if path is None and classes != CITYSCAPES:
        palette[:classes] = voc_colors(classes)
        return palette
    path = path or CITYSCAPES_COLORS
    rows = [line.split() for line in _lines(path)]
    if len(rows) != classes or any(len(row) != 3 for row in rows):
        raise UserError(
            f"{path}: expected {classes} lines 'R G B', found {len(rows)} lines: set DATA.colors_path to a text file "
            f"with one such line for each of the {classes} classes (DATA.classes)"
        )
    try:
        values = np.array(rows, dtype=np.int64)
    except ValueError as error:
        raise UserError(f"{path}: expected {classes} lines 'R G B' of whole numbers") from error
    if values.min() < 0 or values.max() > 255:
        raise UserError(f"{path}: colours lie in 0..255, found {values.min()}..{values.max()}")
    palette[:classes] = values
    return palette


def voc_colors(classes: int) -> list[tuple[int, int, int]]:
    """Distinct colours, those of PASCAL VOC: the bits of a class are the high bits of red, green and blue in turn."""
    colors = []
    for class_id in range(classes):
        bits = [(class_id >> i & 1) << (7 - i // 3) for i in range(8)]
        colors.append((sum(bits[0::3]), sum(bits[1::3]), sum(bits[2::3])))
    return colors


def read_weights(path: str | Path) -> list[float]:
    """Class weights, one per line.

    Raises:
        UserError: the file is missing, or a line is no finite number of 0 or more.
    """
    weights = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            weights.append(float(line))
        except ValueError:
            weights.append(math.nan)
        if not 0 <= weights[-1] < math.inf:
            raise UserError(f"{path}, line {number}: expected the weight of a class, 0 or more, found {line[:40]!r}")
    return weights


def _lines(path: str | Path) -> list[str]:
    try:
        return [
            line for line in regular_file(find_file(path)).read_text(encoding="utf-8-sig").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {reason_unread(path, error)}") from error


def class_names(settings: Settings) -> list[str]:
    """Names of the classes of the settings."""
    return read_names(settings.DATA.names_path, settings.DATA.classes)
