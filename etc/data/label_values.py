"""What the values in label files can mean: looked at in a sample of the files, before work starts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from etc.config.fields import LabelMap
from etc.config.schema import Settings
from etc.data.cityscapes import CITYSCAPES, LABEL_IDS
from etc.data.images import check_lossless, image_size, read_label_file
from etc.data.labels import (
    IGNORE,
    INVALID,
    LabelTable,
    color_codes,
    label_table_of,
    read_colors,
)
from etc.data.lists import Frame
from etc.errors import UserError

logger = logging.getLogger(__name__)

SAMPLE = 24  # number of files that are looked at
_VOID = (IGNORE, 65535)  # in files of 8 and of 16 bits
_MANY_VALUES = 64  # different ones, beyond which files without fitting classes are taken for pictures
_INSTANCES = 1000  # Cityscapes and others: 1000 x label id + number of the instance
_MOSTLY = 0.5  # share of the pixels

LABELS = "DATA.label_map"

_Item = TypeVar("_Item")


def spread(items: Sequence[_Item], count: int = SAMPLE) -> list[_Item]:
    """At most ``count`` of the items, evenly spread."""
    return [items[len(items) * i // count] for i in range(count)] if len(items) > count else list(items)


def check_labels(settings: Settings, frames: Sequence[Frame], source: str) -> None:
    """Look at a sample of the labels of frames; classes that have no pixel there are logged.

    More labels than the sample are read only if it holds nothing but void.

    Args:
        settings: sections ``DATA`` and ``TRAIN``.
        frames: the frames of a list, with or without labels; the files are known to exist.
        source: the list file or setting that names them, for messages.

    Raises:
        UserError: a value or colour outside the classes; no label has a pixel of a class; a value that can mean two
            things (0 and 255 alone, train ids or label ids, gray values of fewer bits, a palette in another order); a
            label of another size than its frame. The message says which setting decides.
    """
    labelled = list({frame.label: frame for frame in frames if frame.label is not None}.values())
    if not labelled:
        return
    table = label_table_of(settings)
    found = _Found(source, len(labelled))
    for frame in _sample_first(labelled):
        if found.looked_at >= SAMPLE and found.has_class(table):
            break
        found.add(frame, Path(settings.DATA.data_root), table)
    if isinstance(table, np.ndarray):
        _check_outside(found, settings)
    _check_void(found, table, settings)
    if isinstance(table, np.ndarray):
        _check_meaning(found, table, settings)
        _check_palettes(found, settings)
    _log_classes(found, table, settings)


def explanation(values: np.ndarray, classes: int, label_map: LabelMap, setting: str = LABELS) -> str:
    """The likely cause of values that are outside the classes, and the setting that cures it.

    Args:
        values: the different values in the files, ascending.
        classes: ``DATA.classes``.
        label_map: ``DATA.label_map``.
        setting: the one that takes a mapping from the values: ``DATA.label_map``, or ``TEST.prediction_ids``.
    """
    ids = values[~np.isin(values, _VOID)].astype(np.int64)
    highest = int(ids[-1]) if len(ids) else 0
    train_ids = label_map == "none" or setting != LABELS  # that the values should be
    if label_map == "none" and classes == len(LABEL_IDS) and highest <= max(LABEL_IDS):
        return "they can be Cityscapes label ids: then set DATA.label_map cityscapes"
    if train_ids and highest == classes:
        shifted = f"'{{0: 255, {', '.join(f'{value + 1}: {value}' for value in range(classes))}}}'"
        return (
            f"if 0 is void and 1..{classes} are the classes, set {setting} "
            f"{'void_zero' if setting == LABELS else shifted}; if {classes} is void, TRAIN.ignore_label {classes}; "
            f"if there are {classes + 1} classes, DATA.classes {classes + 1}"
        )
    if train_ids and len(values) == classes:
        mapping = ", ".join(f"{value}: {number}" for number, value in enumerate(values.tolist()))
        return f"if they stand for the {classes} classes in this order, set {setting} '{{{mapping}}}'"
    if len(ids) and ids[ids > 0].min(initial=65535) >= _INSTANCES:
        return "they can be instance ids (1000 x label id + instance): use the files of label ids"
    if len(ids) > max(classes, _MANY_VALUES):
        return f"these are {len(ids)} different values, as in a picture; a label map has one per class"
    return (
        f"set DATA.classes, or give {setting} a mapping from the values in the files to 0..{classes - 1} (255: ignore)"
    )


class _Found:
    """The values in the labels that were looked at.

    Attributes:
        source: the list file or setting.
        total: number of labels.
        looked_at: number of labels that were read.
        pixels: number of pixels of each gray value, int64 ``[65536]``; of files in colours: of each train id.
        first: the first file that holds a value outside the classes, and that value.
        depths: bits per gray value.
        palettes: files with a palette whose colours are used.
    """

    def __init__(self, source: str, total: int) -> None:
        self.source, self.total, self.looked_at = source, total, 0
        self.pixels = np.zeros(65536, np.int64)
        self.first: tuple[Path, int] | None = None
        self.depths: dict[int, Path] = {}
        self.palettes: list[_Palette] = []

    def add(self, frame: Frame, root: Path, table: LabelTable) -> None:
        assert frame.label is not None, "only labelled frames are looked at"
        path = root / frame.label
        check_lossless(path)
        file = read_label_file(path)
        size, wanted = file.pixels.shape[1::-1], image_size(root / frame.image)
        if size != wanted:
            raise UserError(f"{path}: label is {size[0]}x{size[1]}, its frame is {wanted[0]}x{wanted[1]}")
        self.looked_at += 1
        if not isinstance(table, np.ndarray):
            self.pixels[:256] += np.bincount(table.train_ids(file).ravel(), minlength=256)
            return
        ids = file.ids()
        counts = np.bincount(ids.ravel(), minlength=65536)
        self.pixels += counts
        values = np.flatnonzero(counts)
        wrong = values[_train_ids(values, table) == INVALID]
        if len(wrong) and self.first is None:
            self.first = path, int(wrong[0])
        self.depths.setdefault(file.depth, path)
        if file.palette is not None:
            self.palettes.append(_Palette(path, file.palette, values))

    @property
    def values(self) -> np.ndarray:
        return np.flatnonzero(self.pixels)

    def has_class(self, table: LabelTable) -> bool:
        return bool((self.train_ids(table) < INVALID).any())

    def train_ids(self, table: LabelTable) -> np.ndarray:
        """The train id of each value."""
        return _train_ids(self.values, table) if isinstance(table, np.ndarray) else self.values

    def __str__(self) -> str:
        return f"{self.source}: the {self.looked_at} labels looked at (of {self.total})"


class _Palette(NamedTuple):
    path: Path
    colors: np.ndarray
    values: np.ndarray


def _sample_first(frames: list[Frame]) -> Iterator[Frame]:
    chosen = spread(frames)
    yield from chosen
    known = set(chosen)
    yield from (frame for frame in frames if frame not in known)


def _train_ids(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    whole = np.full(65536, INVALID, np.uint8)
    whole[-1] = IGNORE
    whole[: len(table)] = table
    return whole[values]


def _check_outside(found: _Found, settings: Settings) -> None:
    data = settings.DATA
    if found.first is not None:
        path, value = found.first
        raise UserError(
            f"{path}: label value {value} is outside the classes (DATA.classes {data.classes}, DATA.label_map "
            f"{data.label_map}). The labels of {found.source} hold {span_of(found.values)}: "
            f"{explanation(found.values, data.classes, data.label_map)}"
        )


def _check_void(found: _Found, table: LabelTable, settings: Settings) -> None:
    if not found.has_class(table):
        raise UserError(
            f"{found} have no pixel of a class: {span_of(found.values)} is all void with DATA.label_map "
            f"{settings.DATA.label_map}; give DATA.label_map the mapping of the files "
            "(none: train ids), or list other labels"
        )


def _check_meaning(found: _Found, table: np.ndarray, settings: Settings) -> None:
    """Refuse gray values that can mean two things."""
    data, values = settings.DATA, found.values
    if data.label_map == "none":
        _check_white(found, table, data.classes)
        _check_depths(found, data.classes)
    ids = values[~np.isin(values, _VOID)]
    void = found.pixels[values][_train_ids(values, table) == IGNORE].sum()
    can_be_train_ids = data.label_map == CITYSCAPES.name and len(ids) and ids[-1] < data.classes
    if can_be_train_ids and void >= _MOSTLY * found.pixels.sum():
        raise UserError(
            f"{found} hold {span_of(values)}, most of it void under DATA.label_map cityscapes: if these are train ids, "
            "set DATA.label_map none; if they are label ids, list labels with more of the classes"
        )


def _check_white(found: _Found, table: np.ndarray, classes: int) -> None:
    """Refuse masks of 0 and 255, where 255 is usually meant as a class."""
    values = found.values
    classes_found = values[_train_ids(values, table) < INVALID]
    white = [value for value in _VOID if found.pixels[value]]
    if not white or len(classes_found) != 1 or (classes > 2 and classes_found[0] != 0):
        return
    one, other = classes_found[0], white[0]
    raise UserError(
        f"{found} hold the values {one} and {other} alone, and {other} is void unless DATA.label_map says otherwise: "
        f"if it is a class, set DATA.label_map '{{{one}: {one}, {other}: {int(one == 0)}}}'; if it is void, "
        f"'{{{one}: {one}, {other}: 255}}'"
    )


def _check_depths(found: _Found, classes: int) -> None:
    """Refuse gray PNGs of 1, 2 or 4 bits where their highest value may stand for the 255 of 8 bits."""
    few = [depth for depth in found.depths if depth < 8]
    if not few:
        return
    path, depth = found.depths[min(few)], min(few)
    mapping = ", ".join(f"{value}: {value}" for value in range(min(classes, 2**depth)))
    answer = (
        f"if its values are train ids, set DATA.label_map '{{{mapping}}}' (all values that occur), otherwise save the "
        "labels with 8 bits"
    )
    if len(found.depths) > 1:
        raise UserError(
            f"{path} is a gray PNG of {depth} bits, other labels of {found.source} have {max(found.depths)}: its value "
            f"{2**depth - 1}, white, can be a class or the 255 of the others; {answer}"
        )
    if classes > 2**depth:
        raise UserError(
            f"{path} is a gray PNG of {depth} bits, as are the other labels of {found.source}: they hold {2**depth} "
            f"different values at most, and DATA.classes is {classes}; set DATA.classes {2**depth}, or {answer}"
        )


def _check_palettes(found: _Found, settings: Settings) -> None:
    """Refuse palette PNGs whose colours are those of classes, but not of the classes that their indices name."""
    data = settings.DATA
    if data.label_map != "none" or not found.palettes:
        return
    try:
        classes = color_codes(read_colors(data.colors_path, data.classes)[: data.classes])
    except UserError:  # colours that do not fit are an error of the commands that use them
        return
    for path, palette, values in found.palettes:
        used = values[values < data.classes]
        codes = color_codes(palette[used])
        if (
            len(set(codes.tolist()) - {0}) > 1
            and np.isin(codes, [0, *classes]).all()
            and (codes != classes[used]).any()
        ):
            raise UserError(
                f"{path} has a palette with the colours of DATA.colors_path in another order: if its colours tell the "
                f"class, set DATA.label_map color; if its indices do, DATA.label_map "
                f"'{{{', '.join(f'{value}: {value}' for value in range(data.classes))}}}'"
            )


def _log_classes(found: _Found, table: LabelTable, settings: Settings) -> None:
    """Log the classes without a pixel."""
    data = settings.DATA
    ids = found.train_ids(table)
    lacking = [number for number in range(data.classes) if number not in ids]
    if not lacking:
        return
    shown = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
    hint = ""
    if data.label_map == "none" and lacking[0] == 0:
        hint = "; if the classes are 1..K and 0 is void, set DATA.label_map void_zero"
    level = logging.WARNING if hint or len(lacking) == data.classes - 1 else logging.INFO
    logger.log(level, "%s have no pixel of %d of %d classes: %s%s", found, len(lacking), data.classes, shown, hint)


def span_of(values: np.ndarray) -> str:
    """The different values for a message: all of a few, the range of many."""
    if len(values) <= 6:
        return f"the values {', '.join(map(str, values.tolist()))}" if len(values) > 1 else f"the value {values[0]}"
    return f"values {values[0]}..{values[-1]}"
