"""Worker processes that end with the process that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_WATCH_SECONDS = 1.0


def die_with_parent() -> None:
    """Have this worker process killed as soon as its parent has ended, however the parent ended.

    To be called in the worker, for example as the ``initializer`` of a ``ProcessPoolExecutor``. On Linux the kernel
    kills it (when the thread that started it ends); elsewhere a thread looks every second whether the parent is still
    there.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if not _killed_by_kernel():
        threading.Thread(target=_watch, args=(parent.pid,), daemon=True).start()
    # The parent may have ended before this process asked to be told.
    if os.getppid() != parent.pid:
        os._exit(1)


def _killed_by_kernel() -> bool:
    """Ask Linux to kill this process when its parent ends; whether that is possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    except (OSError, AttributeError):  # a C library without it
        return False


def _watch(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
