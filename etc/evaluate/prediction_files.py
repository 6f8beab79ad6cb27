"""Which prediction file belongs to which frame, in a folder that any method may have written."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etc.data.earlier_files import earlier_files
from etc.data.files_by_name import files_by_name
from etc.data.folders import files_below
from etc.data.frame_names import images_in
from etc.data.images import image_size
from etc.data.lists import Clip, earlier_names, prediction_names
from etc.data.origin import digest, read_origin
from etc.errors import UserError

logger = logging.getLogger(__name__)

PredictionPaths = list[list[Path | None]]


def prediction_files(
    clips: list[Clip], folder: Path, *, data_root: Path = Path(), allow_gaps: bool = False
) -> PredictionPaths:
    """The prediction file of every frame of every clip.

    Each is looked for by the name that :func:`~etc.data.lists.prediction_names` gives it, or earlier versions gave it;
    otherwise as :func:`~etc.data.files_by_name.files_by_name` does.

    Args:
        clips: frames, by their image paths.
        folder: searched with all its subfolders.
        data_root: folder that the frames are relative to.
        allow_gaps: frames without a prediction give ``None`` instead of an error.

    Raises:
        UserError: no such folder, missing predictions, or several files that may belong to one frame.
    """
    frames = [frame for clip in clips for frame in clip]
    images = [data_root / frame.image for frame in frames]
    expected = [folder / f"{name}.png" for name in prediction_names(frames, data_root)]
    found: list[Path | None] = [file if file.is_file() else None for file in expected]
    if not all(found):
        check_is_folder(folder)
        earlier = earlier_files(folder, frames, images)
        found = [file or old for file, old in zip(found, earlier, strict=True)]
    if not all(found):
        found = files_by_name(clips, folder, found, data_root=data_root, what="prediction")
        if not any(file == own for file, own in zip(found, expected, strict=True)):
            # The files of other methods are named as they like; the stem says best which one is missing.
            plain = [name and folder / f"{name}.png" for name in earlier_names(frames)]
            expected = [name or own for name, own in zip(plain, expected, strict=True)]
        missing = [path for path, file in zip(expected, found, strict=True) if file is None]
        if missing and not (allow_gaps and len(missing) < len(frames)):
            _raise_missing(missing, images, folder, allow_gaps=allow_gaps)
    rest = iter(found)
    return [[next(rest) for _ in clip] for clip in clips]


def check_is_folder(folder: Path) -> None:
    """Raise UserError where there is no folder of predictions."""
    if not folder.is_dir():
        raise UserError(f"{folder} holds no predictions: write them with tool/gen_video.py, or give their folder")


def check_sizes(clips: list[Clip], files: PredictionPaths, data_root: Path) -> None:
    """Compare the size of every prediction with that of its frame, before any flow is computed.

    Only the heads of the files are read.

    Raises:
        UserError: a size differs.
    """
    images = (frame.image for clip in clips for frame in clip)
    every = (file for row in files for file in row)
    for image, file in {image: file for image, file in zip(images, every, strict=True) if file is not None}.items():
        size, wanted = image_size(file), image_size(data_root / image)
        if size != wanted:
            raise UserError(f"{file} is {size[0]}x{size[1]}, its frame {data_root / image} is {wanted[0]}x{wanted[1]}")


def check_origins(frames: Sequence[Path], files: Sequence[Path | None]) -> None:
    """Raise UserError where a prediction of this toolkit was made from another frame than its own.

    Names do not tell: two videos may name their frames alike, and a frame may be replaced after its prediction.
    Predictions of other methods do not record their frames and pass.
    """
    for frame, file in zip(frames, files, strict=True):
        origin = None if file is None else read_origin(file)
        if origin is not None and not origin.is_of_files([frame]):
            made_from = ", ".join(kept.path for kept in origin.files)
            raise UserError(
                f"{file} was predicted from {made_from}, whose content was not that of {frame} now: predict these "
                "frames with tool/gen_video.py, or score the frames that were predicted"
            )


def check_made_alike(files: Sequence[Path | None], note_file: Path, note: dict[str, Any] | None) -> None:
    """Raise UserError where predictions of this toolkit were made with different checkpoints or settings.

    Predictions of other methods do not record it and pass.

    Args:
        files: the predictions.
        note_file: ``source.json`` of their folder.
        note: what it says that they were made with; ``None`` where there is none.
    """
    origins = ((file, read_origin(file)) for file in files if file is not None)
    first, made_with = note_file, None if note is None else digest(note)
    for file, origin in origins:
        if origin is None:
            continue
        if made_with is None:
            first, made_with = file, origin.made_with
        elif origin.made_with != made_with:
            raise UserError(
                f"{file} was predicted with another checkpoint or other settings than {first} says: predict them anew "
                "with tool/gen_video.py --overwrite"
            )


def check_surplus(files: PredictionPaths, frames: str) -> None:
    """Compare the number of predictions with that of the frames, where these are all of a video or folder.

    Predictions named like those of a clip, with other numbers (``street_000021`` beside ``street_000020``), belong to
    frames that are not there: the video was cut off, or the predictions are of another one. Other files in the folder
    are of other videos.

    Args:
        files: the prediction of every frame.
        frames: ``TEST.frames``, the video or folder. For a folder, which may hold a part of the frames on purpose, a
            warning takes the place of the error.

    Raises:
        UserError: how many frames and how many predictions there are.
    """
    for row in files:
        used = {file for file in row if file is not None}
        kinds = {_numbered(file) for file in used} - {None}
        named_alike = {
            file
            for folder in {f.parent for f in used}
            for file in images_in(folder)
            if file.suffix.lower() == ".png" and _numbered(file) in kinds
        }
        surplus = sorted(named_alike.difference(*files))
        if not surplus:
            continue
        message = (
            f"TEST.frames {frames} has {len(row)} frames, but {len(used) + len(surplus)} predictions are named like "
            f"them, for instance {surplus[0]}: the video is cut off, or they are the predictions of another one"
        )
        if Path(frames).is_file():
            raise UserError(message)
        logger.warning("%s", message.replace("the video is cut off", "frames are missing"))


def _numbered(path: Path) -> tuple[Path, str, str] | None:
    """What the numbered files of a clip have in common: folder, and the name before and after the last number."""
    match = re.fullmatch(r"(.*?)\d+(\D*)", path.stem)
    return (path.parent, match[1], match[2]) if match else None


def _raise_missing(missing: list[Path], images: list[Path], folder: Path, *, allow_gaps: bool) -> None:
    total, frames = len(images), {image.resolve() for image in images}
    more = "".join(f", {path.name}" for path in missing[1:3]) + (", ..." if len(missing) > 3 else "")
    if pngs := files_below(folder, ".png"):
        hint = "write them with tool/gen_video.py"
        if not allow_gaps:
            hint += ", or score the rest with TEST.allow_gaps true"
        if frames.issuperset(png.resolve() for png in pngs):
            hint = "the PNG files there are the frames themselves"
        elif len(missing) == total:
            hint = (
                f"none of the {len(pngs)} PNG files there is named like a frame, and no folder holds one per frame of "
                "a clip (of several clips: a folder for each, of its name)"
            )
        elif (surplus := len(pngs) - total + len(missing)) > 0:
            hint += (
                f"; {surplus} of the PNG files there are named like no frame: rename them if they are the missing ones"
            )
    else:
        lossy_files = files_below(folder, ".jpg", ".jpeg", ".mp4")
        lossy = f" ({lossy_files[0].name} is lossy: its pixels are no longer ids)" if lossy_files else ""
        hint = f"the folder holds no PNG{lossy}"
    raise UserError(f"{len(missing)} of {total} predictions are missing, the first is {missing[0]}{more}: {hint}")
