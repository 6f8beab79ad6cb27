"""What the values in prediction files mean: train ids, the label ids of a data set, or the colours of the classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from etc.config.fields import LabelMap
from etc.data.images import LabelFile, read_label_file
from etc.data.label_values import explanation, span_of, spread
from etc.data.labels import (
    IGNORE,
    INVALID,
    LabelTable,
    color_codes,
    color_table,
    label_table,
    read_colors,
    to_train_ids,
)
from etc.data.layouts import VOID_ZERO, is_mapping_file, label_ids_of
from etc.errors import UserError

logger = logging.getLogger(__name__)

Kind = Literal["train", "label", "color"]

_IGNORED = (IGNORE, 65535)  # in files of 8 and of 16 bits


@dataclass(frozen=True)
class ClassValues:
    """The values that may stand for the classes in prediction files.

    Attributes:
        classes: number of classes K.
        ignore_label: train ids that are ignored, as 255 is.
        label_map: which label ids there may be, a value of ``DATA.label_map``; ``none``: no label ids.
        colors_path: file with the colours of the classes, as ``DATA.colors_path``. It is read only if a prediction may
            hold colours.
        setting: the one that ``label_map`` comes from, for messages.
    """

    classes: int
    ignore_label: int | Sequence[int]
    label_map: LabelMap
    colors_path: str | Path | None
    setting: str = "DATA.label_map"


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
        self._table: LabelTable = label_table(
            values.label_map if kind == "label" else "none",
            values.classes,
            values.ignore_label,
            setting=values.setting,
        )
        if kind == "color":
            self._table = color_table(values.colors_path, values.classes)

    def __call__(self, path: Path) -> np.ndarray:
        """A prediction as train ids, uint8 ``[H, W]``; 255 is no class.

        Raises:
            UserError: the file cannot be read, or holds a value that its kind does not allow.
        """
        file = read_label_file(path)
        if not isinstance(self._table, np.ndarray):
            return self._table.train_ids(file)
        ids, wrong = to_train_ids(file.ids(), self._table)
        if wrong is None:
            return ids
        if self.kind == "label":
            stated = np.flatnonzero(self._table != INVALID)
            known = [value for value in stated if value not in _IGNORED or self._table[value] != IGNORE]
            raise UserError(f"{path}: {wrong} is no {_map_name(self.values)} label id ({known[0]}..{known[-1]})")
        raise _outside(path, np.unique(file.ids()), self.values)


def detect_kind(files: Sequence[Path], values: ClassValues) -> Kind:
    """What prediction files hold, told from the values in some of them; the result is logged in one line.

    Args:
        files: the files, at least one.
        values: the values of the classes.

    Raises:
        UserError: a file cannot be read, or the values fit no kind or two kinds.
    """
    every = sorted(set(files))
    chosen = spread(every)
    kind, reason = _kind([read_label_file(file) for file in chosen], values)
    names = {"train": "train ids", "label": f"{_map_name(values)} label ids", "color": "class colours"}
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
    raw = np.unique(np.concatenate([np.unique(file.ids()) for file in files]))
    train, label = label_table("none", values.classes, values.ignore_label), _label_table(values)
    # 255 is no class, unless DATA.label_map makes it one.
    void = [value for value in _IGNORED if label is None or value >= len(label) or label[value] == IGNORE]
    found, folder = raw[~np.isin(raw, void)], files[0].path.parent
    if not len(found):
        raise UserError(f"{folder}: the predictions hold only 255 (ignore), expected ids of classes")
    span = f"values {found[0]}..{found[-1]}"
    can_be_train = to_train_ids(found, train)[1] is None and not np.isin(found, _IGNORED).any()
    can_be_label = label is not None and to_train_ids(found, label)[1] is None
    if label is not None and can_be_label and can_be_train:
        # Predictions hardly hold the label ids that stand for no class.
        classes = to_train_ids(found, label)[0]
        if (classes < INVALID).all() and (classes != to_train_ids(found, train)[0]).any():
            raise UserError(
                f"{folder}: {span} can be train ids or {_map_name(values)} label ids: say which by "
                "TEST.prediction_ids train or label"
            )
    if can_be_train:
        _check_one_class(raw, found, folder, values.classes)
        return "train", span
    if can_be_label:
        return "label", span
    raise _outside(folder, raw, values)


def _outside(place: Path, raw: np.ndarray, values: ClassValues) -> UserError:
    """The error of predictions with values that are no train ids: which these are, and why that may be.

    255 is named with them: what is no class among train ids may be one here.
    """
    label = _label_table(values)
    outside = raw[~np.isin(raw, np.append(values.ignore_label, np.arange(values.classes))) | np.isin(raw, _IGNORED)]
    neither = f" and the label ids of DATA.label_map {_map_name(values)}"
    if label is not None and to_train_ids(raw, label)[1] is None:
        neither, why = "", f"they can be {_map_name(values)} label ids: then set TEST.prediction_ids label"
    else:
        why = explanation(raw, values.classes, values.label_map, "TEST.prediction_ids")
    return UserError(
        f"{place}: the predictions hold {span_of(outside)} outside the {values.classes} classes"
        f"{neither if label is not None else ''}: {why}"
    )


def _label_table(values: ClassValues) -> np.ndarray | None:
    """The table of label ids; ``None`` where predictions cannot hold any that could be scored."""
    label_map = values.label_map
    if label_map == "none":
        return None
    named = isinstance(label_map, str) and label_map != VOID_ZERO and not is_mapping_file(label_map)
    # Only named label maps of as many classes can be meant.
    if named and len(label_ids_of(str(label_map)) or ()) != values.classes:
        return None
    return label_table(label_map, values.classes, values.ignore_label)


def _map_name(values: ClassValues) -> str:
    return values.label_map if isinstance(values.label_map, str) else values.setting


def _check_one_class(raw: np.ndarray, found: np.ndarray, folder: Path, classes: int) -> None:
    """Refuse masks of 0 and 255, where 255 is usually meant as a class; warn where there is a single class.

    Either would score a temporal consistency of 100.
    """
    if len(found) > 1:
        return
    if len(raw) > len(found):
        one, white = int(found[0]), int(raw[-1])
        raise UserError(
            f"{folder}: the predictions hold the values {one} and {white} alone, and {white} is no class unless "
            "TEST.prediction_ids says otherwise: if it is a class, set TEST.prediction_ids "
            f"'{{{one}: {one}, {white}: {int(one == 0)}}}'; if it is none, TEST.prediction_ids train"
        )
    logger.warning(
        "%s: all pixels looked at are of class %d of %d: a constant prediction is consistent whatever it shows",
        folder,
        found[0],
        classes,
    )


def _count_class_colors(files: list[LabelFile], values: ClassValues) -> int:
    """The number of different colours, black left out, if all of them are colours of classes; otherwise 0."""
    used = np.unique(np.concatenate([np.unique(color_codes(file.colors())) for file in files]))
    try:
        classes = color_codes(read_colors(values.colors_path, values.classes)[: values.classes])
    except UserError:
        gray = color_codes(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1))
        if np.isin(used, gray).all():  # masks of black and white, or ids in three channels: no colours are needed
            return 0
        raise
    used = used[used != 0] if 0 not in classes else used
    return len(used) if np.isin(used, classes).all() else 0
