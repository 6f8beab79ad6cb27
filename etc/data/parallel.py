"""Lists of frames and labels that lie in parallel folders, found by two patterns.

A pattern is a path below the folder of the data set: ``{clip}/origin/{frame}.jpg`` for the frames,
``{clip}/mask/{frame}.png`` for the labels. Frame and label of the same clip and frame belong together.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from etc.data.folders import check_name, files_below
from etc.data.frame_names import IMAGE_SUFFIXES, natural_order
from etc.data.lists import Clip, Frame, Lists, format_clips, format_frames
from etc.errors import UserError
from utils.files import regular_file

logger = logging.getLogger(__name__)

DESCRIPTION = """frames and labels of any data set, found by the patterns of --frames and --labels: {clip} stands for
one or more folders, {frame} for (a part of) the file's name, * for anything within a name; {split} for the part of the
data set, or else --splits names text files of clips; for each part P it writes P.lst (frames with a label) and
P_clips.lst (clips), for a data set without parts all.lst and all_clips.lst; the layout to train with is folder"""

_PLACES = {"split": "[^/]+", "clip": ".+", "frame": "[^/]+"}
_WHOLE = "all"  # the part of a data set without parts


class Key(NamedTuple):
    """What the places of a pattern stand for in one path; empty where the pattern has no such place."""

    split: str
    clip: str
    frame: str


class Pattern:
    """Paths with the places ``{split}``, ``{clip}``, ``{frame}`` and ``*``; the case of the ending does not matter.

    Args:
        text: the pattern.
        option: what to call it in messages.

    Raises:
        UserError: a place of another name, no ``{frame}``, or a path that leads out of the folder of the data set.
    """

    def __init__(self, text: str, option: str) -> None:
        self.text, self.option = PurePosixPath(os.path.normpath(text)).as_posix(), option
        if PurePosixPath(self.text).is_absolute() or PurePosixPath(self.text).parts[:1] in ((), ("..",)):
            raise UserError(f"{option} {text!r} leads out of the data set: expected a path below its folder")
        self.places: set[str] = set()
        pieces = []
        for piece in re.split(r"(\{[^{}]*\}|\*)", self.text):
            name = piece[1:-1] if piece.startswith("{") else ""
            if piece == "*":
                pieces.append("[^/]*")
            elif not name:
                pieces.append(re.escape(piece))
            elif name not in _PLACES:
                raise UserError(f"{option} {text!r}: {piece} is unknown, expected {{clip}}, {{frame}} or {{split}}")
            else:
                pieces.append(f"(?P={name})" if name in self.places else f"(?P<{name}>{_PLACES[name]})")
                self.places.add(name)
        if "frame" not in self.places:
            raise UserError(f"{option} {text!r} has no {{frame}}: expected a pattern such as '{{clip}}/{{frame}}.png'")
        # .JPG is .jpg; the last piece holds the ending.
        beginning, dot, ending = pieces[-1].rpartition(r"\.")
        self.path = re.compile("".join(pieces[:-1]) + (f"{beginning}(?i:{dot}{ending})" if dot else pieces[-1]))

    def of(self, key: Key) -> str:
        """The path of one frame."""
        return self.text.replace("{split}", key.split).replace("{clip}", key.clip).replace("{frame}", key.frame)

    def find(self, root: Path) -> dict[Key, str]:
        """The images that fit, as paths relative to ``root``.

        Raises:
            UserError: two files of one frame, or a name that is not UTF-8.
        """
        fixed = []  # the folders before the first place: nothing else needs to be looked at
        for part in PurePosixPath(self.text).parts[:-1]:
            if "{" in part or "*" in part:
                break
            fixed.append(part)
        start = root.joinpath(*fixed)
        found: dict[Key, str] = {}
        # A clip may be in one split by itself, and in another one by a link.
        for file in files_below(start, *IMAGE_SUFFIXES, all_paths="split" in self.places):
            name = PurePosixPath(*fixed, file.relative_to(start).as_posix()).as_posix()
            match = self.path.fullmatch(name)
            if match is None or file.name.startswith("."):
                continue
            check_name(file)
            key = Key(*(match.groupdict().get(place, "") for place in Key._fields))
            if found.setdefault(key, name) != name:
                raise UserError(
                    f"{root}: {found[key]} and {name} both fit {self.option} {self.text!r} as the same frame: give a "
                    "pattern that fits one of them"
                )
        return found


def parallel_lists(root: Path, frames: str, labels: str | None, splits: Mapping[str, Sequence[str]] | None) -> Lists:
    """Lists of the frames and labels that fit two patterns.

    Args:
        root: folder of the data set.
        frames: pattern of the frames.
        labels: pattern of the labels; ``None``: there are none.
        splits: name of each part of the data set -> its clips; ``None``: as the patterns say by ``{split}``.

    Returns:
        For each part ``<part>.lst``, its frames with a label, and ``<part>_clips.lst``, its clips of two frames or
        more; either only if there are any. Without ``splits`` and ``{split}`` the part is called ``all``.

    Raises:
        UserError: no file fits a pattern; no label belongs to a frame; a part has none of its clips; ``splits`` for
            a clip that two parts of ``{split}`` have.
    """
    clips = clips_of_patterns(root, Pattern(frames, "--frames"), Pattern(labels, "--labels") if labels else None)
    if splits is not None:
        by_name: dict[str, Clip] = {}
        for (split, name), own in clips.items():
            if by_name.setdefault(name, own) is not own:
                raise UserError(
                    f"{root}: the clip {name} of the part {split} is in another part, too, so that --splits cannot say "
                    "which is meant: leave out --splits, or name one part in place of {split}"
                )
        return lists_of_splits(root, by_name, splits)
    parts: dict[str, list[Clip]] = {}
    for (split, _), clip in clips.items():
        parts.setdefault(split or _WHOLE, []).append(clip)
    return {name: text for split, own in parts.items() for name, text in lists_of_clips(split, own).items()}


def clips_of_patterns(root: Path, frames: Pattern, labels: Pattern | None) -> dict[tuple[str, str], Clip]:
    """Split and clip -> its frames in natural order, each with its label if it has one.

    Raises:
        UserError: as :func:`parallel_lists`; ``{split}`` or ``{clip}`` in one pattern alone.
    """
    marks = labels.find(root) if labels else {}
    masks = set(marks.values())  # {clip}/{frame}.png fits x/0_mask.png too
    images = {key: name for key, name in frames.find(root).items() if name not in masks}
    if not images:
        raise UserError(f"{root}: no image fits {frames.option} {frames.text!r}{_example(root)}")
    if labels:
        alone = (frames.places ^ labels.places) & {"split", "clip"}
        if alone:
            raise UserError(
                f"{frames.option} {frames.text!r} and {labels.option} {labels.text!r}: {{{min(alone)}}} stands in one "
                "of them alone, expected it in both"
            )
        if not images.keys() & marks.keys():
            key, label = min(images), min(marks, default=None)
            raise UserError(
                f"{root}: no label fits {labels.option} {labels.text!r}: {images[key]} would have {labels.of(key)}"
                + (f", and {marks[label]} is that of {frames.of(label)}" if label else _example(root))
            )
        lonely = marks.keys() - images.keys()
        if lonely:
            logger.warning(
                "%s: %d labels have no frame and are left out, the first is %s",
                *(root, len(lonely), marks[min(lonely)]),
            )
    found: dict[tuple[str, str], Clip] = {}
    for key in sorted(images, key=_place):
        found.setdefault((key.split, key.clip), []).append(Frame(images[key], marks.get(key)))
    return found


def _place(key: Key) -> tuple[Any, ...]:
    return key.split, natural_order(Path(key.clip)), key.clip, natural_order(Path(key.frame))


def lists_of_splits(root: Path, clips: Mapping[str, Clip], splits: Mapping[str, Sequence[str]]) -> Lists:
    """The lists of :func:`parallel_lists`, for parts given by the names of their clips.

    Raises:
        UserError: no clip of a part is here.
    """
    lists: Lists = {}
    for split, names in splits.items():
        own = [clips[name] for name in names if name in clips]
        if not own:
            raise UserError(
                f"{root}: none of the {len(names)} clips of {split} is here"
                + (f", the first would be {names[0]}; found are {', '.join(sorted(clips)[:3])}" if names else "")
            )
        if len(own) < len(names):
            lacking = [name for name in names if name not in clips]
            logger.warning(
                "%s: %d of the %d clips of %s are not here and are left out, the first is %s",
                *(root, len(lacking), len(names), split, lacking[0]),
            )
        lists |= lists_of_clips(split, own)
    return lists


def lists_of_clips(split: str, clips: Sequence[Clip]) -> Lists:
    """``<split>.lst`` and ``<split>_clips.lst``, each only if there is something to list."""
    lists = {}
    labelled = [frame for clip in clips for frame in clip if frame.label is not None]
    if labelled:
        lists[f"{split}.lst"] = format_frames(labelled)
        bare = [frame.image for clip in clips for frame in clip if frame.label is None]
        if bare:
            logger.warning(
                "%s: %d of %d frames have no label and are in %s_clips.lst alone, the first is %s",
                *(split, len(bare), len(bare) + len(labelled), split, bare[0]),
            )
    else:
        logger.info("%s: no frame has a label, so there is no %s.lst", split, split)
    long = [clip for clip in clips if len(clip) > 1]
    if len(long) < len(clips):
        logger.warning("%s: %d clips have one frame alone and are no clips to score", split, len(clips) - len(long))
    if long:
        lists[f"{split}_clips.lst"] = format_clips(long)
    return lists


def clip_names_in(path: Path) -> list[str]:
    """The names of clips in a text file, one per line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        lines = regular_file(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not a text file")
        raise UserError(
            f"cannot read {path}: {reason}; expected a text file with the name of a clip per line"
        ) from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _example(root: Path) -> str:
    """An image that is there, for the message that others are not."""
    first = next(iter(files_below(root, *IMAGE_SUFFIXES)), None)
    return f"; the first image there is {first.relative_to(root).as_posix()}" if first else "; there is no image at all"
