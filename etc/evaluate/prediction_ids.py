"""What the values in prediction files mean: train ids, the label ids of a data set, or the colours of the classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from etc.data.images import LabelFile, read_label_file
from etc.data.labels import IGNORE, label_table, read_colors, to_train_ids
from etc.data.layouts import label_ids_of
from etc.errors import UserError

logger = logging.getLogger(__name__)

Kind = Literal["train", "label", "color"]

_IGNORED = (IGNORE, 65535)  # in files of 8 and of 16 bits
_SAMPLE = 24  # number of files that are looked at to tell the kind of all


@dataclass(frozen=True)
class ClassValues:
    """The values that may stand for the classes in prediction files.

    Attributes:
        classes: number of classes K.
        ignore_label: a train id that is ignored, as 255 is.
        label_map: which label ids there may be, one of :data:`etc.data.layouts.LABEL_MAPS`; ``none``: no label ids.
        colors_path: file with the colours of the classes. It is read only if a prediction may hold colours.
    """

    classes: int
    ignore_label: int
    label_map: str
    colors_path: str | Path


class PredictionReader:
    """Reads prediction files of one kind as train ids.

    Args:
        kind: what the files hold.
        values: the values of the classes.

    Raises:
        UserError: label ids of another number of classes, or colours that cannot be read.
    """

    def __init__(self, kind: Kind, values: ClassValues) -> None:
        self.kind, self.values = kind, values
        self._table = label_table(values.label_map if kind == "label" else "none", values.classes, values.ignore_label)
        self._colors = read_colors(values.colors_path, values.classes) if kind == "color" else None

    def __call__(self, path: Path) -> np.ndarray:
        """A prediction as train ids, uint8 ``[H, W]``; 255 is no class.

        Raises:
            UserError: the file cannot be read, or holds a value that its kind does not allow.
        """
        file = read_label_file(path)
        if self._colors is not None:
            return _ids_of_colors(file.colors(), self._colors, self.values.classes, path)
        ids, wrong = to_train_ids(file.ids(), self._table)
        if wrong is None:
            return ids
        label_ids = label_ids_of(self.values.label_map)
        if self.kind == "label" and label_ids is not None:
            raise UserError(f"{path}: {wrong} is no {self.values.label_map} label id (0..{max(label_ids)})")
        raise UserError(
            f"{path}: id {wrong} is outside the {self.values.classes} classes (DATA.classes; TEST.prediction_ids says "
            "what predictions hold: train ids, label ids or colours)"
        )


def detect_kind(files: Sequence[Path], values: ClassValues) -> Kind:
    """What prediction files hold, told from the values in some of them; the result is logged in one line.

    Args:
        files: the files, at least one.
        values: the values of the classes.

    Raises:
        UserError: a file cannot be read, or the values fit no kind or two kinds.
    """
    every = sorted(set(files))
    chosen = every[:: max(1, len(every) // _SAMPLE)]
    kind, reason = _kind([read_label_file(file) for file in chosen], values)
    names = {"train": "train ids", "label": f"{values.label_map} label ids", "color": "class colours"}
    logger.info(
        "predictions: %s (%s in %d of %d files; set TEST.prediction_ids if this is wrong)",
        names[kind],
        reason,
        len(chosen),
        len(every),
    )
    return kind


def _kind(files: list[LabelFile], values: ClassValues) -> tuple[Kind, str]:
    """The kind, and the values that show it."""
    if all(file.palette is not None or file.pixels.ndim == 3 for file in files):
        count = _count_class_colors(files, values)
        if count:
            return "color", f"{count} colours, all of DATA.colors_path,"
    found = np.unique(np.concatenate([np.unique(file.ids()) for file in files]))
    found = found[~np.isin(found, _IGNORED)]
    if not len(found):
        raise UserError(f"{files[0].path.parent}: the predictions hold only 255 (ignore), expected ids of classes")
    span = f"values {found[0]}..{found[-1]}"
    # Only label maps of as many classes can be meant: no other could be scored.
    label_ids = label_ids_of(values.label_map) or ()
    can_be_label = len(label_ids) == values.classes
    can_be_train = np.isin(found, (*range(values.classes), values.ignore_label)).all()
    if can_be_label and can_be_train and np.isin(found, label_ids).all():
        raise UserError(
            f"{files[0].path.parent}: {span} can be train ids or {values.label_map} label ids: say which by "
            "TEST.prediction_ids train or label"
        )
    if can_be_train:
        return "train", span
    if can_be_label and found[-1] <= max(label_ids):
        return "label", span
    raise UserError(
        f"{files[0].path.parent}: {span} are neither ids of the {values.classes} classes nor label ids of "
        f"DATA.label_map {values.label_map}: set DATA.classes, or TEST.prediction_ids"
    )


def _count_class_colors(files: list[LabelFile], values: ClassValues) -> int:
    """The number of different colours, black left out, if all of them are colours of classes; otherwise 0."""
    used = np.unique(np.concatenate([np.unique(_codes(file.colors())) for file in files]))
    classes = _codes(read_colors(values.colors_path, values.classes)[: values.classes])
    used = used[used != 0] if 0 not in classes else used
    return len(used) if np.isin(used, classes).all() else 0


def _codes(colors: np.ndarray) -> np.ndarray:
    """One number per colour, int32 ``[...]``, of uint8 ``[..., 3]``."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _ids_of_colors(colors: np.ndarray, palette: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """The class of each colour; black is no class, unless a class has that colour."""
    known, first = np.unique(_codes(np.concatenate([palette[:classes], palette[-1:]])), return_index=True)
    ids = np.where(first < classes, first, IGNORE).astype(np.uint8)
    codes = _codes(colors)
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    wrong = known[place] != codes
    if wrong.any():
        color = colors[wrong][0].tolist()
        raise UserError(f"{path}: {color} is the colour of no class of DATA.colors_path")
    return ids[place]
