"""Label values on disk -> train ids, by one lookup table; class names and colours."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from etc.config import find_file
from etc.config.schema import Settings
from etc.data.images import read_label
from etc.data.layouts import label_ids_of
from etc.errors import UserError
from utils.files import regular_file

IGNORE = 255
INVALID = 254  # inside a table only: marks values that must not occur


def label_table(label_map: str, classes: int, ignore_label: int) -> np.ndarray:
    """Lookup table from the label values in files to train ids, uint8 ``[256]``.

    Train ids are 0..classes-1 and 255 (ignore). With a label map (``DATA.label_map``, see
    :data:`etc.data.layouts.LABEL_MAPS`) every value up to its highest one that stands for no class is ignored, and so
    is 255; with ``"none"`` values are train ids already, ``ignore_label`` and 255 are ignored. All other values are
    errors when they occur.

    Raises:
        ConfigError: there is no such label map.
        UserError: the label map has another number of classes.
    """
    label_ids, table = label_ids_of(label_map), np.full(256, INVALID, np.uint8)
    if label_ids is None:
        table[:classes] = np.arange(classes)
        table[[ignore_label, IGNORE]] = IGNORE
        return table
    if classes != len(label_ids):
        raise UserError(f"DATA.label_map {label_map} has {len(label_ids)} classes, DATA.classes is {classes}")
    # Above the highest id there is no label: a colour image or train ids were given by mistake.
    table[: max(label_ids) + 1] = IGNORE
    table[IGNORE] = IGNORE
    table[list(label_ids)] = np.arange(classes)
    return table


def to_train_ids(label: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Label values of a file -> train ids, and the first value outside the classes.

    Args:
        label: as :func:`~etc.data.images.read_label` gives it. Of 16-bit values only 0..255 can be in the table;
            65535, all bits set as in an 8-bit 255, is ignored.
        table: as :func:`label_table` makes it.

    Returns:
        Train ids, uint8 ``[H, W]``, which are valid only if the second value is ``None``.
    """
    if label.dtype == np.uint16:
        table = np.concatenate([table, np.full(65535 - len(table), INVALID, np.uint8), [np.uint8(IGNORE)]])
    ids = table[label]
    wrong = ids == INVALID
    return ids, int(label[wrong][0]) if wrong.any() else None


def read_train_ids(path: str | Path, table: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """A label map as train ids, uint8 ``[H, W]``.

    Args:
        path: the label map.
        table: as :func:`label_table` makes it.
        shape: height and width that the label must have (those of its frame).

    Raises:
        UserError: as :func:`~etc.data.images.read_label`, another size, or a value outside the classes.
    """
    label = read_label(path)
    if shape is not None and label.shape != tuple(shape):
        raise UserError(f"{path}: label is {label.shape[1]}x{label.shape[0]}, its frame is {shape[1]}x{shape[0]}")
    ids, wrong = to_train_ids(label, table)
    if wrong is not None:
        raise UserError(f"{path}: label value {wrong} is outside the classes (DATA.classes, DATA.label_map)")
    return ids


def read_names(path: str | Path, classes: int) -> list[str]:
    """Class names, one per line.

    Raises:
        UserError: the file is missing, or does not have one name per class.
    """
    names = [line.strip() for line in _lines(path)]
    if len(names) != classes:
        raise UserError(f"{path} has {len(names)} names, DATA.classes is {classes}")
    return names


def read_colors(path: str | Path, classes: int) -> np.ndarray:
    """Colours of the classes, uint8 ``[256, 3]`` RGB; ids without a class are black.

    Raises:
        UserError: the file is missing, or does not have one ``R G B`` line per class.
    """
    palette = np.zeros((256, 3), np.uint8)
    rows = [line.split() for line in _lines(path)]
    if len(rows) != classes or any(len(row) != 3 for row in rows):
        raise UserError(f"{path}: expected {classes} lines 'R G B', found {len(rows)} lines")
    try:
        values = np.array(rows, dtype=np.int64)
    except ValueError:
        raise UserError(f"{path}: expected {classes} lines 'R G B' of whole numbers") from None
    if values.min() < 0 or values.max() > 255:
        raise UserError(f"{path}: colours lie in 0..255, found {values.min()}..{values.max()}")
    palette[:classes] = values
    return palette


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
        return [line for line in regular_file(find_file(path)).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', 'not a text file')}") from None


def class_names(settings: Settings) -> list[str]:
    """Names of the classes of the settings."""
    return read_names(settings.DATA.names_path, settings.DATA.classes)
