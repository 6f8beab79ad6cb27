"""Labels of frames that no list names: a folder of label maps, found by the names of the frames."""

from __future__ import annotations

import os
from pathlib import Path

from etc.data.files_by_name import files_by_name
from etc.data.folders import files_below
from etc.data.images import image_size
from etc.data.lists import Clip
from etc.errors import UserError


def with_labels(clips: list[Clip], folder: Path, data_root: Path) -> list[Clip]:
    """The clips with the labels that a folder holds, in place of any that they had; frames may lack one.

    Args:
        clips: frames, relative to ``data_root``.
        folder: PNG files, found as :func:`etc.data.files_by_name.files_by_name` does.
        data_root: folder of the frames.

    Raises:
        UserError: no file that is named like a frame, several for one frame, or a label of another
            size than its frame.
    """
    images = [data_root / frame.image for clip in clips for frame in clip]
    found = files_by_name(clips, folder, [None] * len(images), data_root=data_root, what="label")
    if not any(found):
        count = len(files_below(folder, ".png"))
        raise UserError(
            f"TEST.labels {folder}: none of its {count} PNG files is named like one of the {len(images)} frames: "
            f"expected {images[0].stem}.png for {images[0]}, or {images[0].stem}_<word>.png, or one file per frame"
        )
    for image, label in zip(images, found, strict=True):
        if label is not None and image_size(label) != image_size(image):
            (width, height), (wide, high) = image_size(label), image_size(image)
            raise UserError(f"TEST.labels: {label} is {width}x{height}, its frame {image} is {wide}x{high}")
    rest = iter(found)
    return [[frame._replace(label=_absolute(next(rest))) for frame in clip] for clip in clips]


def _absolute(label: Path | None) -> str | None:
    """Frames may be relative to another folder than the labels."""
    return None if label is None else os.path.abspath(label)
