"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # as glibc's malloc.h numbers it
_LARGE = 4 << 20  # bytes; a frame of 2048x1024 has 6 MB


def return_large_blocks() -> None:
    """Give freed blocks of 4 MB and more back to the system at once, in this process from here on.

    By default glibc keeps those of up to 32 MB for later, in every thread: where threads hand frames to each other
    beside a network, hundreds of megabytes lie unused. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
