"""Background threads with bounded memory whose errors reach the caller."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END: Any = object()


def cores() -> int:
    """Processor cores that this process may use: fewer than the machine has, where it was started on some of them."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """``map`` in threads: results in order, at most ``ahead`` of them computed in advance.

    An exception of ``function`` is raised in place of its result. Closing the generator cancels calls not yet begun.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def prefetch(items: Iterator[Item], *, ahead: int) -> Generator[Item, None, None]:
    """Run an iterator in a thread, at most ``ahead`` items in advance."""
    results = ordered_map(lambda _: next(items, _END), repeat(None), workers=1, ahead=ahead)
    try:
        for item in results:
            if item is _END:
                return
            yield item
    finally:
        results.close()


class TaskQueue:
    """Runs tasks in background threads, for use in a ``with`` block.

    The first error stops the queue: tasks behind it are skipped, and it is raised by the next :meth:`put` or at the
    end of the block, which waits for all tasks. When the block itself fails, waiting tasks are cancelled.

    Args:
        workers: threads; one keeps the order of the tasks.
        pending: tasks that may wait or run before :meth:`put` blocks.
    """

    def __init__(self, *, workers: int, pending: int) -> None:
        self._pool = ThreadPoolExecutor(workers)
        self._pending = pending
        self._tasks: deque[Future[None]] = deque()
        self._failed = threading.Event()

    def __enter__(self) -> TaskQueue:
        return self

    def put(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue ``function(*arguments)``; blocks while the queue is full."""
        while self._tasks and (len(self._tasks) >= self._pending or self._tasks[0].done()):
            self._tasks.popleft().result()
        self._tasks.append(self._pool.submit(self._run, function, arguments))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._tasks:
                self._tasks.popleft().result()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self._failed.is_set():
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed.set()
            raise
