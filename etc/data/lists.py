"""List files: which frames to train on, to test on and to score; and the check that all of them exist."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from etc.config import find_file
from etc.data.frame_names import Layout, follows, neighbour
from etc.errors import UserError


class Frame(NamedTuple):
    """One line of a list file; paths are relative to ``DATA.data_root``."""

    image: str
    label: str | None = None


Clip = list[Frame]
Lists = dict[str, str]  # name of a list file -> its text


def read_frames(path: str | Path) -> list[Frame]:
    """The frames of a list file, ``image label`` or ``image`` per line; blank lines and ``#`` lines are skipped.

    Raises:
        UserError: the file is missing, empty, or a line has more than two words.
    """
    frames = [frame for clip in _blocks(path) for frame in clip]
    if not frames:
        raise UserError(f"{path} lists no frame")
    return frames


def read_clips(path: str | Path, *, layout: Layout, frame_step: int = 1) -> list[Clip]:
    """The clips of a list file of frames.

    A blank line ends a clip. A file without blank lines (the published ones have none) is cut where the
    sequence or the folder changes or a frame number is skipped.

    Raises:
        UserError: as :func:`read_frames`, or a clip of one frame: temporal consistency needs pairs.
    """
    clips = _blocks(path)
    if len(clips) == 1:
        clips = group_clips(clips[0], layout=layout, frame_step=frame_step)
    if not clips:
        raise UserError(f"{path} lists no frame")
    for clip in clips:
        if len(clip) < 2:
            raise UserError(f"{path}: the clip of {clip[0].image} has one frame, temporal consistency needs two")
    return clips


def group_clips(frames: Iterable[Frame], *, layout: Layout, frame_step: int = 1) -> list[Clip]:
    """Cut a list of frames into clips of consecutive frames."""
    clips: list[Clip] = []
    for frame in frames:
        if clips and follows(frame.image, clips[-1][-1].image, layout=layout, frame_step=frame_step):
            clips[-1].append(frame)
        else:
            clips.append([frame])
    return clips


def format_frames(frames: Iterable[Frame]) -> str:
    """The text of a list file.

    Raises:
        UserError: a path with white space, which a list file cannot hold.
    """
    lines = []
    for frame in frames:
        parts = [part for part in frame if part]
        spaced = next((part for part in parts if len(part.split()) > 1), None)
        if spaced is not None:
            raise UserError(f"{spaced!r} holds white space, which separates image and label in a list: rename it")
        lines.append(" ".join(parts) + "\n")
    return "".join(lines)


def format_clips(clips: Iterable[Clip]) -> str:
    """The text of a list file of clips: a blank line between clips."""
    return "\n".join(format_frames(clip) for clip in clips)


def prediction_names(frames: list[Frame]) -> list[str]:
    """Where the prediction of each frame lies below ``<save_folder>/video/gray``, without suffix.

    The frame's stem; where different images share a stem (clips in folders of their own), the folder stands
    before it. An image that is listed twice (clips that overlap) has one prediction.

    Raises:
        UserError: different images share folder and stem too.
    """
    paths = [Path(frame.image) for frame in frames]
    names = [path.stem for path in paths]
    if _shared(names, paths) is not None:
        names = [f"{path.parent.name}/{path.stem}" for path in paths]
    twice = _shared(names, paths)
    if twice is not None:
        raise UserError(f"two listed images would have the same prediction file {twice}.png")
    return names


def check_files(frames: Iterable[Frame], data_root: str | Path, *, source: str) -> None:
    """Check that every listed frame and label is there.

    Raises:
        UserError: one message with the number of missing files and the first few.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"DATA.data_root {root} does not exist: put or link the data set there")
    wanted = [root / name for frame in frames for name in frame if name is not None]
    raise_missing([path for path in wanted if not path.is_file()], len(wanted), source)


def existing_neighbours(
    frames: list[Frame], data_root: str | Path, offsets: list[int], *, layout: Layout, frame_step: int = 1
) -> list[list[int]]:
    """For every frame, those of ``offsets`` at which a neighbour lies on disk."""
    root, found = Path(data_root), []
    for frame in frames:
        paths = [neighbour(root / frame.image, o, layout=layout, frame_step=frame_step) for o in offsets]
        pairs = zip(offsets, paths, strict=True)
        found.append([offset for offset, path in pairs if path is not None and path.is_file()])
    return found


def raise_missing(missing: list[Path], total: int, source: str) -> None:
    """One error for all missing files; nothing when there are none."""
    if missing:
        first = ", ".join(str(path) for path in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        raise UserError(f"{source}: {len(missing)} of {total} files are missing: {first}{more}")


def _shared(names: list[str], paths: list[Path]) -> str | None:
    """The first name that two different images have."""
    owners: dict[str, Path] = {}
    return next((n for n, path in zip(names, paths, strict=True) if owners.setdefault(n, path) != path), None)


def _blocks(path: str | Path) -> list[list[Frame]]:
    """Frames of a list file, cut at blank lines."""
    try:
        text = find_file(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not a text file")
        raise UserError(f"cannot read the list file {path}: {reason}") from None
    blocks: list[list[Frame]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise UserError(f"{path}:{number}: expected 'image label' or 'image', found {len(words)} words")
        if words:
            # os.path.normpath: published lists hold doubled slashes
            blocks[-1].append(Frame(*(os.path.normpath(word) for word in words)))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]
