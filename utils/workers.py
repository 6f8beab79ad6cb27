"""Worker processes that end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Call this first in a worker process that ``multiprocessing`` started: it ends when its parent does.

    A parent that is killed cannot tell its workers, and they would wait for tasks for ever. Linux could send a signal
    (``PR_SET_PDEATHSIG``), but it does so already when the thread that started the worker ends.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_and_end, args=(parent,), name="end with parent", daemon=True).start()


def _wait_and_end(parent) -> None:
    parent.join()
    os._exit(1)  # at once: the worker's main thread may be waiting or computing
