"""List files: which frames to train on, to test on and to score; and the check that all of them exist."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from etc.config import find_file
from etc.data.frame_names import Layout, folder_key, follows, frame_number, natural_order, neighbour
from etc.errors import UserError
from utils.files import regular_file

logger = logging.getLogger(__name__)


class Frame(NamedTuple):
    """One line of a list file; paths are relative to ``DATA.data_root``.

    ``name`` says what to call its predictions, where no list names the frame (see :func:`prediction_names`).
    """

    image: str
    label: str | None = None
    name: str | None = None


class _Line(NamedTuple):
    """A frame, and the number of its line in the list file."""

    number: int
    frame: Frame


# The name of a frame of Cityscapes says by itself which one it is, with the city's folder to confirm it.
_NAMED_UNIQUELY = re.compile(
    r"((leftImg8bit(_sequence)?/)?(train(_extra)?|val|test)/)?(?P<city>[^/]+)/(?P=city)_\d+_\d+_leftImg8bit"
)

Clip = list[Frame]
Lists = dict[str, str]  # name of a list file -> its text


def read_frames(path: str | Path) -> list[Frame]:
    """The frames of a list file, ``image label`` or ``image`` per line; blank lines and ``#`` lines are skipped.

    Raises:
        UserError: the file is missing, empty, or a line has more than two words.
    """
    frames = [line.frame for block in _blocks(path) for line in block]
    if not frames:
        raise UserError(f"{path} lists no frame")
    return frames


def read_clips(path: str | Path, *, layout: Layout, frame_step: int = 1) -> list[Clip]:
    """The clips of a list file of frames.

    A blank line ends a clip. A file without blank lines (the published ones have none) is cut where the
    sequence or the folder changes or a frame number is skipped. Clips may share frames if blank lines separate them.

    Raises:
        UserError: as :func:`read_frames`; a clip of one frame, because temporal consistency needs pairs; lines that are
            repeated, or in another order than their frame numbers; a clip of two sequences; without blank lines, a clip
            that goes on after frames of another one.
    """
    blocks = _blocks(path)
    for block in blocks:
        _check_order(path, block, layout, one_clip=len(blocks) > 1)
    _check_repeated_clips(path, blocks)
    clips = [[line.frame for line in block] for block in blocks]
    why = ""
    if len(clips) == 1:
        _check_torn(path, blocks[0], layout, frame_step)
        clips = group_clips(clips[0], layout=layout, frame_step=frame_step)
        if layout.frame_name is not None:
            why = (
                "; without a blank line in the list, a clip ends where the number in the names of DATA.layout "
                f"{layout.name} does not grow by DATA.frame_step {frame_step}: set these (folder takes any names)"
            )
    if not clips:
        raise UserError(f"{path} lists no frame")
    for clip in clips:
        if len(clip) < 2:
            alone = f"{path}: the clip of {clip[0].image} has one frame, temporal consistency needs two"
            raise UserError(alone + why)
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
        parts = [part for part in (frame.image, frame.label) if part]
        spaced = next((part for part in parts if len(part.split()) > 1), None)
        if spaced is not None:
            raise UserError(f"{spaced!r} holds white space, which separates image and label in a list: rename it")
        # A line that begins with # would be a comment.
        lines.append(("./" if parts[0].startswith("#") else "") + " ".join(parts) + "\n")
    return "".join(lines)


def format_clips(clips: Iterable[Clip]) -> str:
    """The text of a list file of clips: a blank line between clips."""
    return "\n".join(format_frames(clip) for clip in clips)


def prediction_names(frames: Sequence[Frame], data_root: str | Path = ".") -> list[str]:
    """Where the prediction of each frame lies below ``<save_folder>/video/gray``, without suffix.

    The name of a frame does not depend on the other frames. It is the path in the list, or the stem alone where that
    names a single frame (``leftImg8bit/val/<city>/<city>_<sequence>_<frame>_leftImg8bit``). A path that leads out of
    ``DATA.data_root`` is named by its folder with a hash of where that is.

    Raises:
        UserError: different images differ in nothing but the suffix, or are the same frame of Cityscapes.
    """
    names = [frame.name or _own_name(frame.image, Path(data_root)) for frame in frames]
    twice = _shared(names, [Path(frame.image) for frame in frames])
    if twice is not None:
        same = sorted({frame.image for frame, name in zip(frames, names, strict=True) if name == twice})
        raise UserError(
            f"two listed images would have the same prediction file {twice}.png: {same[0]} and {same[1]}; list one of "
            "them"
        )
    return names


def earlier_names(frames: Sequence[Frame]) -> list[str | None]:
    """What versions up to 1.1 called the predictions: the stem, with the folder before it where frames share stems.

    ``None`` where they had no name for a frame, because frames shared the folder too.
    """
    paths = [Path(frame.image) for frame in frames]
    for depth in (1, 2):
        names = [_tail(path, depth) for path in paths]
        if _shared(names, paths) is None:
            return [*names]
    return [None] * len(paths)


def clip_names(clips: Sequence[Clip]) -> list[str]:
    """What to call clips in results: by their first frames, with as many folders as tell the clips apart."""
    paths = [Path(clip[0].image) for clip in clips]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [_tail(path, depth) for path in paths]
        if _shared(names, paths) is None:
            return names
    return [path.as_posix() for path in paths]


def check_files(frames: Iterable[Frame], data_root: str | Path, *, source: str) -> None:
    """Check that every listed frame and label is there.

    Raises:
        UserError: one message with the number of missing files and the first few.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"DATA.data_root {root} does not exist: put or link the data set there")
    wanted = [root / name for frame in frames for name in (frame.image, frame.label) if name is not None]
    raise_missing([path for path in wanted if not path.is_file()], len(wanted), source)


def frames_sha256(frames: Iterable[Frame], data_root: str | Path, *, named: bool = False) -> str:
    """A hash that tells frames and their labels from others: of the sizes of their files in bytes, in order.

    Copies of a data set have the same. It costs a look at each file, not its content.

    Args:
        frames: frames, with or without labels; they exist.
        data_root: the folder that they are relative to.
        named: take in their names, as the list has them.
    """
    digest, root = hashlib.sha256(), Path(data_root)
    for frame in frames:
        sizes = [None if path is None else (root / path).stat().st_size for path in (frame.image, frame.label)]
        digest.update(os.fsencode(f"{sizes} {(frame.image, frame.label) if named else ''}\n"))
    return digest.hexdigest()


def existing_neighbours(
    frames: list[Frame],
    data_root: str | Path,
    offsets: list[int],
    *,
    layout: Layout,
    frame_step: int = 1,
    runs: dict[Path, int] | None = None,
) -> list[list[int]]:
    """For every frame, those of ``offsets`` at which a neighbour lies on disk.

    With ``runs``, as :func:`etc.data.breaks.runs_in_folders` gives them, a neighbour is of the same run as its frame.
    """
    root, found = Path(data_root), []
    for frame in frames:
        paths = [neighbour(root / frame.image, o, layout=layout, frame_step=frame_step) for o in offsets]
        if runs is not None:
            own = runs.get(root / frame.image)
            paths = [path if path is not None and runs.get(path) == own else None for path in paths]
        pairs = zip(offsets, paths, strict=True)
        found.append([offset for offset, path in pairs if path is not None and path.is_file()])
    return found


def raise_missing(missing: list[Path], total: int, source: str) -> None:
    """One error for all missing files; nothing when there are none."""
    if missing:
        first = ", ".join(str(path) for path in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        raise UserError(f"{source}: {len(missing)} of {total} files are missing: {first}{more}")


def _own_name(image: str, data_root: Path) -> str:
    """:func:`prediction_names` of one frame."""
    path = Path(image)
    if path.is_absolute():
        root = data_root.resolve()
        path = path.relative_to(root) if path.is_relative_to(root) else path
    if path.is_absolute() or ".." in path.parts:
        return f"{folder_key(Path(os.path.abspath(data_root / path)))}/{path.stem}"
    name = path.with_suffix("").as_posix()
    return path.stem if _NAMED_UNIQUELY.fullmatch(name) else name


def _tail(path: Path, depth: int) -> str:
    """The stem with ``depth - 1`` folders before it; neither "" nor ".." is one, as both lead elsewhere."""
    folders = [part for part in path.parent.parts[::-1][: depth - 1][::-1] if part not in ("..", path.anchor)]
    return "/".join([*folders, path.stem])


def _shared(names: list[str], paths: list[Path]) -> str | None:
    """The first name that two different images have."""
    owners: dict[str, Path] = {}
    return next((n for n, path in zip(names, paths, strict=True) if owners.setdefault(n, path) != path), None)


def _check_order(path: str | Path, block: list[_Line], layout: Layout, *, one_clip: bool) -> None:
    """Refuse repeated, shuffled and mixed lines between two blank lines of a list of clips.

    Without frame numbers (``DATA.layout folder``), the order of the list is taken as it is, with a warning where it is
    not the order of the folder.

    Args:
        path: the list file.
        block: the lines.
        layout: how frame numbers are read.
        one_clip: whether the lines are one clip; otherwise they are cut into clips where sequences change.
    """
    seen: dict[str, int] = {}
    for number, frame in block:
        if seen.setdefault(frame.image, number) != number:
            raise UserError(
                f"{path}:{number}: {frame.image} is in line {seen[frame.image]} already: remove one of them, or put a "
                "blank line between clips that share frames"
            )
    if layout.frame_name is None:
        _warn_of_order(path, block)
        return
    _check_numbers(path, block, layout, one_clip=one_clip)


def _check_numbers(path: str | Path, block: list[_Line], layout: Layout, *, one_clip: bool) -> None:
    """:func:`_check_order` by frame numbers, which must rise in each sequence; names without one are not compared."""
    latest: dict[tuple[Path, str, str], tuple[int, int]] = {}  # sequence -> number of its last frame, and of its line
    for line_number, frame in block:
        found = frame_number(frame.image, layout)
        if found is None:
            continue
        sequence = Path(frame.image).parent, found.head, found.tail
        if one_clip and latest and sequence not in latest:
            _, line_before = next(iter(latest.values()))
            raise UserError(
                f"{path}:{line_number}: {frame.image} is of another sequence than line {line_before}: expected a blank "
                "line between clips"
            )
        before, line_before = latest.get(sequence, (-1, 0))
        if found.number <= before:
            # Also of names that differ only in leading zeros or in the suffix: one frame, listed twice.
            raise UserError(
                f"{path}:{line_number}: frame {found.number} comes after frame {before} of line {line_before}: list "
                "the frames of a clip in the order of their numbers, with a blank line between clips that share frames"
            )
        latest[sequence] = found.number, line_number


def _check_torn(path: str | Path, block: list[_Line], layout: Layout, frame_step: int) -> None:
    """Refuse a clip that goes on after frames of another one: cut there, it would lose a pair in silence.

    A sequence that returns after a gap in its numbers begins another clip.
    """
    latest: dict[tuple[Path, str, str], _Line] = {}
    for index, line in enumerate(block):
        found = frame_number(line.frame.image, layout)
        sequence = Path(line.frame.image).parent, found.head if found else "", found.tail if found else ""
        before = latest.get(sequence)
        apart = before is not None and before is not block[index - 1]
        if before and apart and follows(line.frame.image, before.frame.image, layout=layout, frame_step=frame_step):
            raise UserError(
                f"{path}:{line.number}: {line.frame.image} continues the clip of line {before.number}, but frames of "
                "another clip stand between them: list the frames of a clip one after another, or, if these are "
                "separate clips, put a blank line between clips"
            )
        latest[sequence] = line


def _warn_of_order(path: str | Path, block: list[_Line]) -> None:
    """Say where a list without frame numbers is not in the order of the folder, by which training finds neighbours."""
    for above, line in pairwise(block):
        first, second = Path(above.frame.image), Path(line.frame.image)
        if first.parent == second.parent and natural_order(second) < natural_order(first):
            logger.warning(
                "%s:%d: %s comes after %s, other than in their folder: the order of the list is used",
                *(path, line.number, second.name, first.name),
            )
            return


def _check_repeated_clips(path: str | Path, blocks: list[list[_Line]]) -> None:
    """Refuse a clip that is listed twice: it would count twice in every figure."""
    seen: dict[tuple[str, ...], int] = {}
    for block in blocks:
        images = tuple(line.frame.image for line in block)
        number = block[0].number
        if seen.setdefault(images, number) != number:
            raise UserError(f"{path}:{number}: this clip is in line {seen[images]} already: remove one of them")


def reason_unread(path: str | Path, error: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read; for one that does not exist in ``data/lists``, with the command that writes it."""
    reason: str = getattr(error, "strerror", "not a text file")
    if isinstance(error, FileNotFoundError) and Path(path).parent.parent == Path("data/lists"):
        return f"{reason}; python tool/make_lists.py {Path(path).parent.name} FOLDER_OF_THE_DATA_SET writes it"
    return reason


def _blocks(path: str | Path) -> list[list[_Line]]:
    """Frames of a list file with their line numbers, cut at blank lines."""
    try:
        text = regular_file(find_file(path)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list file {path}: {reason_unread(path, error)}") from error
    blocks: list[list[_Line]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise UserError(f"{path}:{number}: expected 'image label' or 'image', found {len(words)} words")
        if words:
            # os.path.normpath: published lists hold doubled slashes
            blocks[-1].append(_Line(number, Frame(*(os.path.normpath(word) for word in words))))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]
