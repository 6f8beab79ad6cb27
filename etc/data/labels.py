"""Label values on disk -> train ids, by one lookup table; class names and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from etc.config import find_file
from etc.config.schema import Settings
from etc.data.images import read_label
from etc.errors import UserError

IGNORE = 255
INVALID = 254  # marks, inside a table only, values that must not occur

# Cityscapes labelIds of the 19 train ids, in their order (cityscapesScripts, labels.py).
CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def label_table(label_map: Literal["cityscapes", "none"], classes: int, ignore_label: int) -> np.ndarray:
    """Lookup table from stored label values to train ids, uint8 ``[256]``.

    Train ids are 0..classes-1 and 255 (ignore). With ``"cityscapes"`` every labelId outside the 19 classes is
    ignored; with ``"none"`` values are train ids already, ``ignore_label`` and 255 are ignored, and the others
    are errors when they occur.

    Raises:
        UserError: ``"cityscapes"`` with another number of classes than 19.
    """
    if label_map == "cityscapes":
        if classes != len(CITYSCAPES_LABEL_IDS):
            raise UserError(f"DATA.label_map cityscapes has 19 classes, DATA.classes is {classes}")
        table = np.full(256, IGNORE, np.uint8)
        table[list(CITYSCAPES_LABEL_IDS)] = np.arange(classes)
        # Above 33 there is no Cityscapes label id: a colour image or train ids were given by mistake.
        table[34:255] = INVALID
        return table
    table = np.full(256, INVALID, np.uint8)
    table[:classes] = np.arange(classes)
    table[[ignore_label, IGNORE]] = IGNORE
    return table


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
    ids = table[label]
    wrong = ids == INVALID
    if wrong.any():
        raise UserError(f"{path}: label value {int(label[wrong][0])} is outside the classes")
    return ids


def read_names(path: str | Path, classes: int) -> list[str]:
    """Class names, one a line.

    Raises:
        UserError: the file is missing or has not one name a class.
    """
    names = [line.strip() for line in _lines(path)]
    if len(names) != classes:
        raise UserError(f"{path} has {len(names)} names, DATA.classes is {classes}")
    return names


def read_colors(path: str | Path, classes: int) -> np.ndarray:
    """Palette, uint8 ``[256, 3]`` RGB; ids without a class are black.

    Raises:
        UserError: the file is missing or has not one ``R G B`` line a class.
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


def _lines(path: str | Path) -> list[str]:
    try:
        return [line for line in find_file(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', 'not a text file')}") from None


def class_names(settings: Settings) -> list[str]:
    """Names of the classes of the settings."""
    return read_names(settings.DATA.names_path, settings.DATA.classes)
