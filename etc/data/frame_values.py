"""The check of frames and labels before work starts: what their values can mean, in a sample of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etc.config.schema import Settings
from etc.data.images import sample_range
from etc.data.label_values import check_labels, spread
from etc.data.lists import Frame
from etc.errors import UserError

_SMALL_16_BIT = 2**14  # values below it, in all frames, are of a camera of 10, 12 or 14 bits


def check_values(settings: Settings, frames: Sequence[Frame], source: str) -> None:
    """Look at a sample of the frames of a list, and of their labels where there are some.

    Args:
        settings: sections ``DATA`` and ``TRAIN``.
        frames: the frames; their files are known to exist.
        source: the list file or setting that names them, for messages.

    Raises:
        UserError: as :func:`check_frames` and :func:`etc.data.label_values.check_labels`.
    """
    root = Path(settings.DATA.data_root)
    check_frames([root / frame.image for frame in frames])
    check_labels(settings, frames, source)


def check_frames(paths: Sequence[Path]) -> None:
    """Refuse frames whose values do not fill the range of their type: reading keeps the upper 8 bits of 16.

    Raises:
        UserError: 16-bit frames that use a few of their bits, frames of floating point numbers, or a file that is no
            image.
    """
    highest, deep = 0, None
    for path in spread(list(dict.fromkeys(paths))):
        range_of = sample_range(path)
        if range_of is None:
            continue
        kind, largest = range_of
        if kind == "f":
            raise UserError(
                f"{path} holds floating point numbers (up to {largest:g}): expected 8 or 16 bits per channel; convert "
                "the frames, with white as 255"
            )
        highest, deep = max(highest, int(largest)), deep or path
    if deep is not None and 0 < highest < _SMALL_16_BIT:
        bits = highest.bit_length()
        raise UserError(
            f"{deep} has 16 bits per channel, and no value in the frames looked at exceeds {highest}: expected the "
            f"full range, where white is 65535; if white is {2**bits - 1} ({bits} bits), multiply the values by "
            f"{2 ** (16 - bits)} or convert the frames to 8 bits"
        )
