"""Which file of a folder belongs to which frame, by their names, however the files came to be."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from etc.data.cityscapes import FRAME_TAIL
from etc.data.folders import files_below, subfolders
from etc.data.frame_names import images_in
from etc.data.lists import Clip, Frame
from etc.errors import UserError

logger = logging.getLogger(__name__)


def files_by_name(
    clips: list[Clip], folder: Path, known: Sequence[Path | None], *, data_root: Path, what: str
) -> list[Path | None]:
    """The PNG file of every frame, in a folder and all folders below it.

    A file belongs to the frame with the same stem; if several frames share a stem, also the folders must agree. If no
    stem equals that of a frame, ``_leftImg8bit`` and words after the number are ignored (``x_1_pred``,
    ``x_1_gtFine_labelIds``). If no name matches then either, and a single clip has as many frames as there are files,
    these are taken in sorted order, with a warning; so are those of several clips, each in a folder of the name of its
    video or folder. The frames themselves are left out.

    Args:
        clips: frames, by their image paths.
        folder: the folder.
        known: for each frame the file that is known to be its own, which no other frame gets; ``None``: to be found.
        data_root: folder that the frames are relative to.
        what: ``prediction`` or ``label``, for messages.

    Returns:
        One entry per frame of all clips, ``None`` where there is no file.

    Raises:
        UserError: several files that may belong to one frame, or one that may belong to several.
    """
    frames = [frame for clip in clips for frame in clip]
    images = {(data_root / frame.image).resolve() for frame in frames}
    found = _matched(frames, [*known], folder, leave_out=images, what=what)
    if not any(found):
        folders: list[Path | None] = [_folder_of(clip, folder) for clip in clips] if len(clips) > 1 else [folder]
        _check_shared(clips, folders, what=what)
        rows = [
            _in_order(clip, own, leave_out=images, what=what) if own else None
            for clip, own in zip(clips, folders, strict=True)
        ]
        if all(rows):
            found = [file for row in rows for file in row or []]
    return found


def _check_shared(clips: list[Clip], folders: list[Path | None], *, what: str) -> None:
    """Raise UserError where one folder would be that of two clips."""
    owners: dict[Path, str] = {}
    for clip, folder in zip(clips, folders, strict=True):
        if folder is not None and owners.setdefault(folder, clip[0].image) != clip[0].image:
            raise UserError(
                f"{folder} may hold the {what}s of the clip of {owners[folder]} or of that of {clip[0].image}, whose "
                f"folders have one name: name the {what}s like their frames, or score the clips one by one"
            )


def _folder_of(clip: Clip, folder: Path) -> Path | None:
    """The folder below ``folder`` that has the name of the clip's own folder, or of its video."""
    name = Path(clip[0].image).parent.name
    names = (name, re.sub(r"-[0-9a-f]{12}$", "", name))  # a video's frames lie in a folder with its hash
    if exact := next((folder / own for own in names if (folder / own).is_dir()), None):
        return exact
    spaced = {"_".join(path.name.split()): path for path in subfolders(folder)}  # as unpacked videos are called
    return next((spaced[own] for own in names if own in spaced), None)


def _matched(
    frames: list[Frame], named: list[Path | None], folder: Path, *, leave_out: set[Path], what: str
) -> list[Path | None]:
    """By stem; if that gives no frame a file, by the stem without its usual endings.

    Args:
        frames: the frames.
        named: the file that has the name of each frame; only frames without one are matched.
        folder: the folder.
        leave_out: files that belong to no frame.
        what: what is looked for.
    """
    taken = {*named}
    files = [file for file in files_below(folder, ".png") if file not in taken and file.resolve() not in leave_out]
    own = {frame.image: file for frame, file in zip(frames, named, strict=True)}
    images = {image: Path(image) for image in own}
    for key in (_stem, _core):
        index = defaultdict(list)
        for file in files:
            index[key(file)].append(file)
        alike: dict[str, list[set[str]]] = defaultdict(list)  # folders of frames that the key does not tell apart
        for path in images.values():
            alike[key(path)].append({*path.parent.parts})
        found = {
            image: own[image] or _nearest(path, index[key(path)], folder, alike[key(path)], what=what)
            for image, path in images.items()
        }
        if any(found.values()):
            break
    owners: dict[Path, str] = {}
    for image, match in found.items():
        if match is not None and owners.setdefault(match, image) != image:
            raise UserError(f"{match} may belong to {owners[match]} and to {image}: use the frames' own names")
    return [found[frame.image] for frame in frames]


def _stem(path: Path) -> str:
    return path.stem


def _core(path: Path) -> str:
    """``x_1`` of ``x_1_leftImg8bit``, ``x_1_leftImg8bit_pred``, ``x_1_gtFine_labelIds`` and ``x_1_pred``."""
    return re.sub(r"(?<=\d)([_-][A-Za-z]+)+$", "", path.stem.replace(FRAME_TAIL, ""))


def _nearest(frame: Path, files: list[Path], folder: Path, folders: list[set[str]], *, what: str) -> Path | None:
    """The file that shares most folder names with the frame; at least one if several frames have the same name.

    One in a folder with a name of another such frame, and with none of this one's own, is the other's.

    Args:
        frame: the frame.
        files: the files of its name.
        folder: where they lie.
        folders: for all frames of this name, the names of the folders that they lie in.
        what: what is looked for.
    """
    parts = set(frame.parent.parts)
    own, others = parts - folders[0].intersection(*folders), folders[0].union(*folders) - parts
    names = {file: set(file.relative_to(folder).parent.parts) for file in files}
    alike = {file: len(parts & each) for file, each in names.items() if each & own or not each & others}
    best = [file for file, count in alike.items() if count == max(alike.values())]
    if not best or (len(folders) > 1 and not alike[best[0]]):
        return None
    if len(best) > 1:
        raise UserError(f"{best[0]} and {best[1]} may both be the {what} of {frame}: name one folder of them")
    return best[0]


def _in_order(clip: Clip, folder: Path, *, leave_out: set[Path], what: str) -> list[Path] | None:
    files = [path for path in images_in(folder) if path.suffix.lower() == ".png" and path.resolve() not in leave_out]
    if len(files) != len(clip):
        return None
    logger.warning(
        "no %s is named like a frame: %d %ss are assigned to %d frames in sorted order, from %s for %s to %s for %s",
        what,
        len(files),
        what,
        len(clip),
        files[0].name,
        Path(clip[0].image).name,
        files[-1].name,
        Path(clip[-1].image).name,
    )
    return files
