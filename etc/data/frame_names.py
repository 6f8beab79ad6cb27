"""Frame numbers in file names, and the neighbours of a frame."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from etc.data.folders import check_name, folders_below
from etc.data.masks import are_deep_label_maps, mask_folders, split_masks
from etc.errors import UserError

_LONGEST = 240  # bytes of a name; file systems allow 255, with hash and suffix
_CUT = 48  # characters, of up to 4 bytes, that are kept of a longer one
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".webp", ".tif", ".tiff")  # in any case
SUFFIXES_ON_DISK = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))  # to look for a file by its stem

logger = logging.getLogger(__name__)

_FLOW_FILE = re.compile(r"_to_\w+_flow$")


class Layout(NamedTuple):
    """How a data set names its files. All layouts are listed in :mod:`etc.data.layouts`.

    Attributes:
        name: the value of ``DATA.layout``.
        description: one or more lines for ``tool/make_lists.py --help``: the folders expected, the lists written.
        frame_name: matches the stem of a frame, with groups ``head``, ``number`` and ``tail``; ``None``: names hold no
            frame numbers, and the frames of a folder follow each other in natural order.
        make_lists: folder of the data set -> its list files, name -> text; raises ``UserError`` for another folder.
        label_ids: the value that stands for each train id in label files, in the order of the train ids; every other
            value up to the highest of them is ignored. The layout's name is then a value of ``DATA.label_map`` too.
            ``None``: label files hold train ids.
    """

    name: str
    description: str
    frame_name: re.Pattern[str] | None
    make_lists: Callable[[Path], dict[str, str]]
    label_ids: tuple[int, ...] | None = None


class FrameNumber(NamedTuple):
    """The parts of a file name: frames of one sequence share ``head`` and ``tail``; ``width`` counts the digits."""

    head: str
    number: int
    tail: str
    width: int


def folder_key(path: Path) -> str:
    """A unique name for the folder of a frame, for use in a cache: folders of different clips may share a name."""
    digest = hashlib.sha256(str(path.parent.resolve()).encode()).hexdigest()[:8]
    name = path.parent.name
    return f"{name if len(name.encode()) <= _LONGEST else name[:_CUT]}-{digest}"


def pair_name(path_t: Path, path_k: Path) -> str:
    """A name without suffix for a file that belongs to two frames of one folder: their stems.

    Stems that would be too long together for a file name are cut, with a hash that tells them apart.
    """
    name = f"{path_t.stem}__{path_k.stem}"
    if len(name.encode()) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{path_t.stem[:_CUT]}__{digest}"


def frame_number(path: str | Path, layout: Layout) -> FrameNumber | None:
    """The frame number in a file name; ``None`` if the name does not match, or the layout has no frame numbers."""
    match = layout.frame_name.match(Path(path).stem) if layout.frame_name else None
    if match is None:
        return None
    return FrameNumber(match["head"], int(match["number"]), match["tail"], len(match["number"]))


def neighbour(path: Path, offset: int, *, layout: Layout, frame_step: int = 1) -> Path | None:
    """The frame ``offset`` frames after ``path`` (before it when negative); it need not exist.

    Args:
        path: a frame, with its folder.
        offset: distance in frames, not in frame numbers.
        layout: how frame numbers are read; without numbers, frames are counted in the order of :func:`frames_in`.
        frame_step: difference of the numbers of consecutive frames.

    Returns:
        The neighbour's path; ``None`` if it would come before the first frame or, in a layout without numbers, after
        the last one.

    Raises:
        UserError: the name does not follow the layout, or the picture is a mask of another one in its folder.
    """
    if layout.frame_name is None:
        names, index_of = _listing(path.parent)
        if path.name not in index_of and path.is_file():
            raise UserError(
                f"{path} is listed as a frame, but seems to be a mask of another picture in its folder: list the "
                "frame, or move masks to a folder of their own"
            )
        if path.name not in index_of:
            return None
        index = index_of[path.name] + offset
        return path.parent / names[index] if 0 <= index < len(names) else None
    parsed = frame_number(path, layout)
    if parsed is None:
        raise UserError(f"{path.name} does not follow the {layout.name} naming (DATA.layout)")
    number = parsed.number + offset * frame_step
    if number < 0:
        return None
    return path.with_name(f"{parsed.head}{number:0{parsed.width}d}{parsed.tail}{path.suffix}")


def follows(path: str, previous: str, *, layout: Layout, frame_step: int = 1) -> bool:
    """Whether one listed frame is the next frame of another; without numbers: whether they share the folder."""
    if Path(path).parent != Path(previous).parent:
        return False
    if layout.frame_name is None:
        return True
    later, earlier = frame_number(path, layout), frame_number(previous, layout)
    if later is None or earlier is None:
        return False
    return (later.head, later.tail) == (earlier.head, earlier.tail) and (later.number - earlier.number == frame_step)


def starts_after_gaps(images: Sequence[str]) -> list[int]:
    """Index of every frame of a clip that begins after a gap in the numbers of the frames before.

    The usual step is the most frequent difference of consecutive numbers, so that every fifth frame has no gap; twice
    the step or more is a gap. Where no difference makes up half of all (time stamps, frames picked by hand), the
    numbers tell nothing of gaps. Neither do frames of two folders, or whose names differ in more than one number.

    Args:
        images: paths of the frames, in order.
    """
    steps = [_step(before, after) for before, after in pairwise(images)]
    counts = Counter(step for step in steps if step is not None and step > 0)
    if not counts:
        return []
    usual = min(counts, key=lambda step: (-counts[step], step))
    if 2 * counts[usual] < counts.total():
        return []
    return [index for index, step in enumerate(steps, 1) if step is not None and step >= 2 * usual]


def _step(before: str, after: str) -> int | None:
    """The difference of the only number in which two names differ; ``None`` if anything else differs."""
    if os.path.dirname(before) != os.path.dirname(after):
        return None
    words, others = (re.split(r"([0-9]+)", Path(path).stem) for path in (before, after))
    if len(words) != len(others):
        return None
    different = [(a, b) for a, b in zip(words, others, strict=True) if a != b]
    if len(different) != 1 or not all(word.isdecimal() for word in different[0]):
        return None
    return int(different[0][1]) - int(different[0][0])


def starts_of_sequences(names: Sequence[str]) -> list[int]:
    """Index of every image of a folder that begins another sequence: several may share a folder.

    One begins where the words of the names change (``mon_003``, ``tue_000``), or where the number that counts the
    frames begins again and an earlier one changes (``1_003``, ``2_000``).

    Args:
        names: names of the images, in natural order.
    """
    split = [re.split(r"([0-9]+)", Path(name).stem) for name in names]
    found, first = [], 0
    for index in range(1, len(split)):
        before, after = split[index - 1], split[index]
        changed = [place for place in range(1, min(len(before), len(after)), 2) if before[place] != after[place]]
        again = len(changed) > 1 and int(after[changed[-1]]) <= int(split[first][changed[-1]])
        if before[::2] != after[::2] or again:
            found.append(index)
            first = index
    return found


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order, ``frame_2`` before ``frame_10``; hidden files are left out.

    Raises:
        UserError: the name of an image, or of its folder, is not UTF-8.
    """
    if not folder.is_dir():
        return []
    images = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    for path in images:
        check_name(path)
    return sorted(images, key=natural_order)


def frames_in(folder: Path) -> list[Path]:
    """The frames of a folder in natural order: its images without the masks among them, which are logged once.

    Raises:
        UserError: as :func:`images_in`.
    """
    frames, masks = split_masks(images_in(folder))
    if masks:
        _log_masks(folder, len(masks), masks[0].name)
    return frames


def frame_folders(root: Path, *, leave_out: Callable[[Path], bool] = lambda folder: False) -> dict[Path, list[Path]]:
    """Every folder in and below ``root`` with its frames, of which there is at least one; folders of masks are logged.

    Args:
        root: where to start.
        leave_out: as :func:`etc.data.folders.folders_below` takes it.

    Raises:
        UserError: all folders seem to hold masks; or as :func:`images_in`.
    """
    found = {folder: frames_in(folder) for folder in folders_below(root, leave_out=leave_out)}
    # Flow files of a data set lie in a folder of this name, see etc.flow.files.data_set_flow.
    found = {
        folder: frames
        for folder, frames in found.items()
        if frames and not (folder.name == "flow" and all(_FLOW_FILE.search(path.stem) for path in frames))
    }
    masks = mask_folders(found, root)
    if not masks:
        return found
    first, frames = next(iter(masks.items()))
    what = "masks (label maps of 16 bits)" if are_deep_label_maps(found[first]) else "masks"
    beside = "" if frames is None else f", whose frames are in {frames.relative_to(root)}"
    if len(masks) == len(found):
        raise UserError(
            f"{root} holds only folders that seem to hold {what}, the first is {first.relative_to(root)}: give the "
            "folder of the frames"
        )
    logger.warning("%s: %d folders of %s are left out: %s%s", root, len(masks), what, first.relative_to(root), beside)
    return {folder: own for folder, own in found.items() if folder not in masks}


def warn_of_single_frames(folders: dict[Path, list[Path]]) -> None:
    """Name the folders that are no clips, as they hold one frame alone."""
    single = [images[0] for images in folders.values() if len(images) == 1]
    if single:
        logger.warning("%d folders hold one image alone and are left out, the first is %s", len(single), single[0])


def natural_order(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """The key that sorts numbers in a name by their value: ffmpeg and others write them without leading zeros."""
    words = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(word)) if word[0] in "0123456789" else (1, word) for word in words], path.name


def _listing(folder: Path) -> tuple[list[str], dict[str, int]]:
    """The frames of a folder in order, and the index of each; listed again only when the folder has changed."""
    return _listed(folder, os.path.abspath(folder), folder.stat().st_mtime_ns if folder.is_dir() else 0)


@lru_cache(maxsize=4096)
def _listed(folder: Path, place: str, changed: int) -> tuple[list[str], dict[str, int]]:
    names = [path.name for path in frames_in(folder)]
    return names, {name: index for index, name in enumerate(names)}


@lru_cache(maxsize=4096)
def _log_masks(folder: Path, count: int, first: str) -> None:
    """Once per folder and process: the frames of one folder are asked for several times."""
    logger.warning("%s: %d masks beside the frames are left out, the first is %s", folder, count, first)
