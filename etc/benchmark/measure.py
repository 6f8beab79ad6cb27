"""How benchmarks measure: ratios whose two sides are timed in turn, and the peak memory of a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

from utils.workers import end_with_parent

Result = TypeVar("Result")


@dataclass(frozen=True)
class Figure:
    """A measured figure: one value a round, in ``unit``.

    Attributes:
        work: what was measured.
        values: one a round; what counts is their median.
        unit: ``x`` (times something), ``%``, ``GB`` or ``px``.
        budget: what the figure may be at most (at least, with ``at_least``); ``None`` where there is none.
        at_least: which side of the budget is the good one.
        skipped: why this machine cannot measure it; there are no values then.
    """

    work: str
    values: Sequence[float]
    unit: str
    budget: float | None = None
    at_least: bool = False
    skipped: str = ""

    @property
    def measured(self) -> float:
        """Median of the rounds; NaN without any."""
        return statistics.median(self.values) if self.values else math.nan

    @property
    def spread(self) -> tuple[float, float]:
        """The middle half of the rounds; smallest and largest where there are fewer than four; NaN without any."""
        if not self.values:
            return math.nan, math.nan
        if len(self.values) < 4:
            return min(self.values), max(self.values)
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def verdict(self) -> str:
        """``ok``, ``over`` (the budget is not kept), why it was skipped, or nothing without a budget."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        if self.budget is None:
            return ""
        kept = self.measured >= self.budget if self.at_least else self.measured <= self.budget
        return "ok" if kept else "over"


def interleaved(functions: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each function, round by round, after one round that does not count.

    Every round calls all of them, every other round in reverse: what slows the machine down slows both sides of a
    ratio, and drift takes no side.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(-1, rounds):
        order = list(enumerate(functions))
        for index, function in order[::-1] if turn % 2 else order:
            start = time.perf_counter()
            function()
            if turn >= 0:
                seconds[index].append(time.perf_counter() - start)
    return seconds


def ratios(times: Sequence[float], others: Sequence[float], factor: float = 1.0) -> list[float]:
    """``factor * time / other``, round by round."""
    return [factor * a / b for a, b in zip(times, others, strict=True)]


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for torch and OpenCV."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def in_new_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a process started afresh, which has allocated nothing yet."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    # Read here where it exists: ru_maxrss of Linux begins with the peak of the process that started this one.
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if found is not None:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
