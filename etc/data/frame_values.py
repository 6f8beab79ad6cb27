"""The check of frames and labels before work starts: what their values can mean, in a sample of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etc.config.schema import Settings
from etc.data.images import read_image, sample_range
from etc.data.label_values import check_labels, spread
from etc.data.lists import Frame
from etc.errors import UserError

_SMALL_16_BIT = 2**15  # values below it, in all frames, are of a camera of 9 to 15 bits
_SMALL_8_BIT = 3  # no frame is so dark: values up to it are colours in 0..1, saved as whole numbers


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

    Frames of 8 bits are decoded until one is bright enough, which the first nearly always is.

    Raises:
        UserError: frames of 16 bits that use 15 or fewer of them, frames of 8 bits without a value above 3, of which
            some are not black, or frames of floating point numbers.
    """
    highest, deep = 0, None
    highest_8, dark = 0, None
    for path in spread(list(dict.fromkeys(paths))):
        range_of = sample_range(path)
        if range_of is None:
            if highest_8 <= _SMALL_8_BIT:
                highest_8, dark = max(highest_8, _brightest(path)), dark or path
            continue
        kind, largest = range_of
        if kind == "f":
            raise UserError(
                f"{path} holds floating point numbers (up to {largest:g}): expected 8 or 16 bits per channel; convert "
                "the frames, with white as 255"
            )
        highest, deep = max(highest, int(largest)), deep or path
    if 0 < highest_8 <= _SMALL_8_BIT:
        raise UserError(
            f"{dark} has 8 bits per channel, and no value in the frames looked at exceeds {highest_8}: these seem "
            "to be colours in 0..1 saved as whole numbers; save the frames again with white as 255"
        )
    if deep is not None and 0 < highest < _SMALL_16_BIT:
        bits = highest.bit_length()
        raise UserError(
            f"{deep} has 16 bits per channel, and no value in the frames looked at exceeds {highest}: expected the "
            f"full range, where white is 65535; if white is {2**bits - 1} ({bits} bits), multiply the values by "
            f"{2 ** (16 - bits)} or convert the frames to 8 bits"
        )


def _brightest(path: Path) -> int:
    """The largest value of a frame of 8 bits; 0 if it cannot be read, of which its reader says why."""
    try:
        return int(read_image(path).max())
    except UserError:
        return 0
