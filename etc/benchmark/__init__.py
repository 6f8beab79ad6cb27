"""Benchmarks: ratios and memory against the toolkit's budgets, on a CPU. Run by ``tool/benchmark.py``.

May import: every other room of etc but study.
"""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from etc.benchmark import cache, files, operators, pipeline, training, workers
from etc.benchmark.bench import Bench
from etc.benchmark.measure import Figure
from etc.benchmark.page import Measured
from etc.errors import UserError

logger = logging.getLogger(__name__)

BENCHMARKS: dict[str, tuple[str, Callable[[Bench], list[Figure]]]] = {
    "forward": ("Inference", training.forward),
    "gen_video": ("Prediction of a clip", files.prediction),
    "pipeline": ("Prediction by a network that costs nothing", pipeline.pipeline),
    "labels": ("Labels from coarse logits", operators.labels),
    "memory": ("Memory of a prediction", files.memory),
    "sample": ("Training sample", files.sample),
    "step": ("Training step", training.steps),
    "bfloat16": ("Training step in bfloat16", training.bfloat16_step),
    "correlation": ("Correlation of FlowNet2", operators.correlate),
    "resample2d": ("Warping", operators.warp),
    "scoring": ("Scoring", files.scoring),
    "workers": ("Scoring in several processes", workers.workers),
    "store": ("Flow cache", cache.store),
    "again": ("Scoring again", cache.again),
}


def run_benchmarks(names: Iterable[str], *, quick: bool = False, data: str | Path | None = None) -> list[Measured]:
    """Run some benchmarks, or all.

    Args:
        names: keys of ``BENCHMARKS``; none means all.
        quick: tiny sizes and one round, to see that everything runs; the figures then mean nothing.
        data: a folder in the Cityscapes layout whose frames are worked on; ``None`` renders some.

    Raises:
        UserError: an unknown name, or ``data`` without usable frames.
    """
    names = list(dict.fromkeys(names)) or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"unknown benchmark {' '.join(unknown)}: {', '.join(BENCHMARKS)}")
    if data is not None and not Path(data).is_dir():
        raise UserError(f"--data {data} is not a folder")
    measured = []
    with tempfile.TemporaryDirectory(prefix="etc-benchmark-") as folder:
        bench = Bench(Path(folder), quick=quick, data=None if data is None else Path(data))
        for name in names:
            logger.info("benchmark %s", name)
            title, function = BENCHMARKS[name]
            figures = function(bench)
            if quick:  # tiny sizes say nothing about budgets
                figures = [replace(figure, budget=None) for figure in figures]
            for figure in figures:  # at once: a run that is cut short has said what it found
                logger.info("  %s: %.3g %s %s", figure.work, figure.measured, figure.unit, figure.verdict)
            measured.append(Measured(name, title, inspect.getdoc(function) or "", figures))
    return measured
