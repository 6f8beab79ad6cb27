"""Ctrl-C while a script imports its modules, and after its work: one line and exit code 130 instead of a traceback.

``etc.cli`` imports this module before everything else, and every script imports ``etc.cli`` first. Importing torch
takes seconds, and a ``KeyboardInterrupt`` in the middle of it can leave any traceback; there is nothing to clean up,
so the process ends at once. In a worker process that a script has started, Ctrl-C is ignored: the script ends its
workers. In other programs, as pytest, importing this module changes nothing.

May import: the standard library, and little of that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130


def _end(number, frame) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def end_at_once() -> None:
    """Ctrl-C ends a script at once; for the time before and after its work."""
    if _is_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Ctrl-C is a ``KeyboardInterrupt`` again, so that half-written files are removed on the way out."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C back until the end of the ``with`` block, for starting processes: none is left half started.

    Processes that are started meanwhile never get it, not even while they import their modules.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # Python interrupts the main thread alone, and not where another program handles the signal
        return
    came: list[int] = []
    # The mask is what processes inherit. It is of this thread alone, and the signal may go to another one.
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    masks = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if masks else set()
    try:
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _is_script() -> bool:
    file = getattr(sys.modules["__main__"], "__file__", None)
    tools = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tool")
    return file is not None and os.path.realpath(os.path.dirname(file)) == os.path.realpath(tools)


def _is_worker() -> bool:
    """Whether ``multiprocessing`` started this process; it gives workers another name before it imports the script."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.current_process().name != "MainProcess"


if _is_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
end_at_once()
