"""Runs side by side: their scores and costs, and the intervals of the differences over clips."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etc.display.machine import machine
from etc.display.tables import WIDTH, percent, table_in_blocks
from etc.evaluate.metric_list import METRICS
from etc.evaluate.results import write_csv, write_json
from etc.metrics import bootstrap_difference
from etc.report.cost import Cost
from etc.report.runs import Run

ComparisonRow = dict[str, Any]  # column of comparison.csv -> cell


def compare(runs: list[Run], cost: dict[str, Cost], device: torch.device) -> list[ComparisonRow]:
    """Every figure of every run, one row per run; shares in [0, 1], NaN where there is no figure.

    For each metric that has a statistic ``<metric> low`` and ``high`` bound the figure, and ``<metric> difference`` is
    the run's figure minus that of the first run, with its own bounds (95%, clips drawn with replacement, the same ones
    for both runs).
    """
    rows = []
    for run in runs:
        scores, spent = run.scores.first, cost.get(run.name)
        row: ComparisonRow = {"run": run.name, "flow": scores.flow, "stride": scores.stride}
        row["mIoU"] = run.miou["mIoU"] if run.miou else math.nan
        for metric in METRICS:
            row[metric.key] = scores.figure(metric)
            if metric.statistic:
                low, high = scores.intervals[metric.key]
                row |= {f"{metric.key} low": low, f"{metric.key} high": high}
                row |= _difference(metric.key, metric.statistic, runs[0], run)
        row |= {
            "coverage": scores.coverage,
            "parameters": spent.parameters if spent else math.nan,
            "gflops": spent.gflops if spent else math.nan,
            "fps": spent.fps if spent else math.nan,
            "latency p50 ms": 1000 * spent.latency(0.5) if spent else math.nan,
            "latency p95 ms": 1000 * spent.latency(0.95) if spent else math.nan,
            "measured on": machine(device) if spent and spent.seconds else "",
        }
        rows.append(row)
    return rows


def _difference(key: str, statistic: Callable[[np.ndarray], float], first: Run, run: Run) -> dict[str, float]:
    """A run minus the first one, and its bounds; NaN for the first run itself."""
    difference = low = high = math.nan
    if run is not first:
        before, own = first.scores.clip_counts[key], run.scores.clip_counts[key]
        difference = statistic(own.sum(0)) - statistic(before.sum(0))
        low, high = bootstrap_difference(before, own, statistic)
    name = f"{key} difference"
    return {name: difference, f"{name} low": low, f"{name} high": high}


def format_rows(rows: list[ComparisonRow]) -> list[tuple[str, list[str]]]:
    """The rows as people read them: a label, and one text per run; lines without any figure are left out."""

    def share(key: str, digits: int = 2) -> list[str]:
        return [percent(row[key], digits) for row in rows]

    def interval(key: str) -> list[str]:
        bounds = [(row[f"{key} low"], row[f"{key} high"]) for row in rows]
        return ["-" if math.isnan(low) else f"{percent(low)} to {percent(high)}" for low, high in bounds]

    def number(key: str, digits: int, scale: float = 1.0) -> list[str]:
        return ["-" if math.isnan(row[key]) else f"{row[key] * scale:.{digits}f}" for row in rows]

    lines = []
    for metric in METRICS:
        lines.append((metric.label, share(metric.key, metric.digits)))
        if metric.statistic:
            lines.append(("  95% over clips", interval(metric.key)))
            lines.append((f"  minus {rows[0]['run']}, 95%", [_difference_text(row, metric.key) for row in rows]))
    lines += [
        ("mIoU, test list", share("mIoU")),
        ("pixels that strict counts", share("coverage")),
        ("parameters, million", number("parameters", 2, 1e-6)),
        ("GFLOPs per frame", number("gflops", 2)),
        ("frames per second", number("fps", 2)),
        ("latency p50, ms", number("latency p50 ms", 1)),
        ("latency p95, ms", number("latency p95 ms", 1)),
    ]
    return [(label, texts) for label, texts in lines if any(text != "-" for text in texts)]


def footnotes(rows: list[ComparisonRow], clips: int) -> list[str]:
    """Notes on how to read :func:`format_rows`."""
    pairs = "of neighbouring frames" if rows[0]["stride"] == 1 else f"of frames {rows[0]['stride']} apart"
    found = [f"All scores in percent. TC over pairs {pairs}, with the flow {rows[0]['flow']}."]
    if len(rows) > 1 and clips > 1:
        found.append(
            f"minus {rows[0]['run']}: in percentage points, with its 95% interval over {clips} clips, the same draws "
            "for both runs; * marks an interval without 0."
        )
        if clips < 10:
            found.append(f"{clips} clips are few: such an interval is narrower than it should be.")
    if clips < 2:
        found.append("One clip gives no interval.")
    places = {row["measured on"] for row in rows} - {""}
    if places:
        found.append(f"Speed: one frame at a time, on this machine: {places.pop()}.")
    return found


def comparison_table(rows: list[ComparisonRow], clips: int) -> str:
    """Figures as lines, runs as columns, in blocks of at most 100 columns."""
    lines = format_rows(rows)
    columns = [["", *(label for label, _ in lines)]]
    columns += [[row["run"], *(texts[i] for _, texts in lines)] for i, row in enumerate(rows)]
    wrapped = [textwrap.fill(note, WIDTH) for note in footnotes(rows, clips)]
    return "\n\n".join([table_in_blocks(columns), "\n".join(wrapped)])


def save_comparison(rows: list[ComparisonRow], folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``."""
    write_json(folder / "comparison.json", rows)
    write_csv(folder / "comparison.csv", [list(rows[0]), *(row.values() for row in rows)])


def _difference_text(row: ComparisonRow, key: str) -> str:
    value, low, high = (row[f"{key} difference{end}"] for end in ("", " low", " high"))
    if math.isnan(value):
        return "-"
    if math.isnan(low):
        return f"{100 * value:+.2f}"
    mark = " *" if low > 0 or high < 0 else ""
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}){mark}"
