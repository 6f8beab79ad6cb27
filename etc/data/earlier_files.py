"""Predictions in result folders of earlier versions, which named them by :func:`etc.data.lists.earlier_names`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etc.data.lists import Frame, earlier_names
from etc.data.origin import read_origin


def names_in_use(folder: Path, frames: Sequence[Frame], names: Sequence[str], images: Sequence[Path]) -> list[str]:
    """The name of each prediction: the frame's own or, where only it is there, the one of an earlier version.

    Earlier names say little about the frame (``000``), so a file counts only if it records that it was made from this
    frame, in this place and with this content.

    Args:
        folder: holds the predictions.
        frames: frames of a list.
        names: as :func:`etc.data.lists.prediction_names` gives them.
        images: the file of each frame.
    """
    found = []
    for frame, name, image in zip(frames, names, images, strict=True):
        earlier = [] if (folder / f"{name}.png").exists() else _candidates(frame, name)
        found.append(next((old for old in earlier if _is_made_from(folder / f"{old}.png", image)), name))
    return found


def earlier_files(folder: Path, frames: Sequence[Frame], images: Sequence[Path]) -> list[Path | None]:
    """The file of each prediction under an earlier name, as :func:`names_in_use` finds it.

    Predictions of other methods record nothing. They count where the name stands for no other of the frames.
    """
    found: list[Path | None] = []
    for frame, plain, image in zip(frames, earlier_names(frames), images, strict=True):
        files = [folder / f"{name}.png" for name in _candidates(frame, "")]
        file = next((file for file in files if _is_made_from(file, image, anywhere=True)), None)
        if file is None and plain is not None:
            other = folder / f"{plain}.png"
            file = (
                other if other.is_file() and read_origin(other) is None and other.resolve() != image.resolve() else None
            )
        found.append(file)
    return found


def _candidates(frame: Frame, name: str) -> list[str]:
    """Both of the names that a list of frames may have given to one of them."""
    path = Path(frame.image)
    both = [f"{path.parent.name}/{path.stem}", path.stem] if path.parent.name not in ("", "..") else [path.stem]
    return [old for old in both if old != name]


def _is_made_from(file: Path, image: Path, *, anywhere: bool = False) -> bool:
    origin = read_origin(file)
    if origin is None or not origin.is_of_files([image]):
        return False
    # Two frames in different places may be equal, and each has a prediction of its own.
    return anywhere or origin.files[0].path == str(image.resolve())
