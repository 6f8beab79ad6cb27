"""Cached flow and masks as bytes: whole steps of 1/64 pixel and single bits, compressed by blosc2 without loss."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

STEPS_PER_PIXEL = 64
REACH = 511.0  # pixels; KITTI's 16-bit PNG holds no longer vectors, and the cache keeps what it would keep

# Measured on DIS flow of Cityscapes frames: lz4 needs a quarter more bytes, higher levels of zstd gain nothing, and
# with blocks as small as blosc2 chooses them the file grows by a twentieth.
_LEVEL, _BLOCK = 1, 1 << 21
_FEW = 64  # rows, which stay in the processor's cache


def to_steps(flow: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Flow in whole steps of 1/64 pixel.

    Args:
        flow: float32 ``[2, H, W]``, pixels.
        valid: where it is known to be valid, bool ``[H, W]``; ``None``: everywhere.

    Returns:
        Steps, int16 ``[2, H, W]``, and where they are valid, bool ``[H, W]``. Vectors beyond ``REACH`` are cut to it
        and invalid; NaN becomes 0 and invalid.
    """
    fits = (np.abs(flow) <= REACH).all(axis=0)
    bounded = np.nan_to_num(np.clip(flow, -REACH, REACH))
    return np.rint(bounded * STEPS_PER_PIXEL).astype(np.int16), fits if valid is None else fits & valid


def pack_steps(steps: np.ndarray) -> bytes:
    """Compress int16 ``[2, H, W]``; any values."""
    # Differences along both axes, modulo 2**16.
    rest = steps.astype(np.int16, order="C")  # estimators give channels last, too
    rest[:, :, 1:] -= steps[:, :, :-1]
    rest[:, 1:] -= rest[:, :-1].copy()
    # 0, -1, 1, -2 ... as 0, 1, 2, 3 ...: small numbers of both signs then have the same high bits.
    return _packed(((rest << 1) ^ (rest >> 15)).astype("<i2"), bits_of=2)


def unpack_flow(data: bytes, height: int, width: int) -> np.ndarray:
    """The inverse of :func:`pack_steps`, in pixels: float32 ``[2, H, W]``, exact.

    Raises:
        ValueError: the bytes are not those of a flow of this size.
    """
    folded = np.frombuffer(_unpacked(data, 4 * height * width), "<u2").reshape(2, height, width)
    flow = np.empty((2, height, width), np.float32)
    # One component after the other in the same memory: fresh memory takes as long as the arithmetic.
    rest, columns = _rows(height, width), _rows(width, height)
    for part, pixels in zip(folded, flow, strict=True):
        for first in range(0, height, _FEW):
            few = part[first : first + _FEW]
            np.bitwise_xor(few >> 1, -(few & 1), out=rest[first : first + _FEW])
        _add_up(rest)
        # Rows are added to rows, for columns too: numpy's cumsum takes several times as long, along either axis.
        columns = cv2.transpose(rest, columns)
        _add_up(columns)
        rest = cv2.transpose(columns, rest)
        np.multiply(rest.view(np.int16), np.float32(1 / STEPS_PER_PIXEL), out=pixels)
    return flow


def _rows(height: int, width: int) -> np.ndarray:
    """uint16 ``[height, width]``, not initialised. Rows a power of two apart would make transposing slow."""
    return np.empty((height, width + 32), np.uint16)[:, :width]


def _add_up(rows: np.ndarray) -> None:
    """Replace each row by the sum of the rows up to it, modulo 2**16."""
    for before, row in pairwise(rows):
        row += before


def pack_mask(mask: np.ndarray) -> bytes:
    """Compress bool ``[H, W]``: one bit a pixel, and less where it is uniform."""
    return _packed(np.packbits(mask), bits_of=1)


def unpack_mask(data: bytes, height: int, width: int) -> np.ndarray:
    """The inverse of :func:`pack_mask`.

    Raises:
        ValueError: the bytes are not those of a mask of this size.
    """
    bits = np.frombuffer(_unpacked(data, -(-height * width // 8)), np.uint8)
    return np.unpackbits(bits, count=height * width).reshape(height, width).view(bool)


def _packed(array: np.ndarray, *, bits_of: int) -> bytes:
    """Compress numbers of so many bytes."""
    import blosc2  # takes a third of a second, and few scripts read cached flow

    # One thread: a pool would not survive the fork of a DataLoader worker, and workers fill the cores already.
    return blosc2.compress2(
        array,
        typesize=bits_of,
        codec=blosc2.Codec.ZSTD,
        clevel=_LEVEL,
        filters=[blosc2.Filter.BITSHUFFLE if bits_of > 1 else blosc2.Filter.NOFILTER],
        blocksize=_BLOCK,
        nthreads=1,
    )


def _unpacked(data: bytes, size: int) -> bytes:
    import blosc2

    try:
        content = blosc2.decompress2(data, nthreads=1)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot be decompressed: {error}") from error
    if len(content) != size:
        raise ValueError(f"holds {len(content)} bytes instead of {size}")
    return content
