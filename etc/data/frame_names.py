"""Frame numbers in file names, and the neighbours of a frame."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from etc.errors import UserError

Layout = Literal["cityscapes", "camvid", "folder"]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".ppm", ".bmp", ".webp")

_PATTERNS = {
    # {city}_{seq}_{frame}_leftImg8bit; the city's name may hold hyphens
    "cityscapes": re.compile(r"^(?P<head>.+_\d+_)(?P<number>\d+)(?P<tail>_leftImg8bit)$"),
    # {seq}_{number}, or {seq}_f{number} in Seq05VD and 0006R0; the number keeps its own width
    "camvid": re.compile(r"^(?P<head>.+_f?)(?P<number>\d+)(?P<tail>)$"),
}


def folder_key(path: Path) -> str:
    """A name for the folder of a frame in a store: folders of different clips may bear the same name."""
    digest = hashlib.sha256(str(path.parent.resolve()).encode()).hexdigest()[:8]
    return f"{path.parent.name}-{digest}"


class FrameNumber(NamedTuple):
    """A file name taken apart: frames of one sequence share ``head`` and ``tail``."""

    head: str
    number: int
    tail: str
    width: int


def frame_number(path: str | Path, layout: Layout) -> FrameNumber | None:
    """The frame number in a file name; ``None`` where the layout has none (``folder``) or it does not match."""
    pattern = _PATTERNS.get(layout)
    match = pattern.match(Path(path).stem) if pattern else None
    if match is None:
        return None
    return FrameNumber(match["head"], int(match["number"]), match["tail"], len(match["number"]))


def neighbour(path: Path, offset: int, *, layout: Layout, frame_step: int = 1) -> Path | None:
    """The frame ``offset`` frames after ``path`` (before it when negative); it need not exist.

    Args:
        path: a frame, in the folder where it lies.
        offset: distance in frames, not in frame numbers.
        layout: how numbers are read; ``folder`` counts in the order of :func:`images_in`.
        frame_step: difference of the numbers of consecutive frames.

    Returns:
        The neighbour's path; ``None`` where it would lie before the first or (``folder``) after the last frame.

    Raises:
        UserError: the name does not follow the layout.
    """
    if layout == "folder":
        siblings = _indices_of(path.parent)
        if path.name not in siblings:
            return None
        index = siblings[path.name] + offset
        names = list(siblings)
        return path.parent / names[index] if 0 <= index < len(names) else None
    parsed = frame_number(path, layout)
    if parsed is None:
        raise UserError(f"{path.name} does not follow the {layout} naming (DATA.layout)")
    number = parsed.number + offset * frame_step
    if number < 0:
        return None
    return path.with_name(f"{parsed.head}{number:0{parsed.width}d}{parsed.tail}{path.suffix}")


def follows(path: str, previous: str, *, layout: Layout, frame_step: int = 1) -> bool:
    """Whether one listed frame is the next frame of another; ``folder``: whether they share the folder."""
    if Path(path).parent != Path(previous).parent:
        return False
    if layout == "folder":
        return True
    later, earlier = frame_number(path, layout), frame_number(previous, layout)
    if later is None or earlier is None:
        return False
    return (later.head, later.tail) == (earlier.head, earlier.tail) and (later.number - earlier.number == frame_step)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, ``frame_2`` before ``frame_10``; hidden files are none of them."""
    if not folder.is_dir():
        return []
    images = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(images, key=_natural_order)


def _natural_order(path: Path) -> tuple[list[tuple[int, int | str]], str]:
    """Numbers in a name by value, not by digits: ffmpeg and others write them without leading zeros."""
    words = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(word)) if word[0] in "0123456789" else (1, word) for word in words], path.name


@lru_cache(maxsize=4096)
def _indices_of(folder: Path) -> dict[str, int]:
    """The images of a folder -> their index; listed once, as folders can be large."""
    return {path.name: index for index, path in enumerate(images_in(folder))}
