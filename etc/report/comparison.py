"""Runs side by side: what each scored, what it costs, and whether they differ by more than the clips do."""

from __future__ import annotations

import math
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import torch

from etc.display.tables import percent, table
from etc.evaluate.results import clip_counts, write_csv, write_json
from etc.metrics import bootstrap_difference, mean_iou
from etc.report.cost import Cost, machine
from etc.report.runs import Run, figures

WIDTH = 100  # columns of the terminal table

# What is compared in pairs: the name of the counts, and how they become mIoU.
_PAIRED = {
    "mIoU clips": ("segmentation", mean_iou),
    "TC": ("strict", mean_iou),
    "TC published": ("published", partial(mean_iou, convention="published")),
}

ComparisonRow = dict[str, Any]


def compare(runs: list[Run], cost: dict[str, Cost], device: torch.device) -> list[ComparisonRow]:
    """Every figure of every run, one row a run; shares in [0, 1], NaN where there is no figure.

    ``<figure> difference`` is the run's figure minus that of the first run; ``low`` and ``high`` bound it (95%, clips
    drawn with replacement, the same ones for both runs).
    """
    rows = []
    for run in runs:
        row = {"run": run.name, "flow": run.tc["flow"], "stride": run.tc["stride"], **figures(run.tc, run.miou)}
        for name, (protocol, statistic) in _PAIRED.items():
            pair = [clip_counts(r.tc, protocol) for r in (runs[0], run)]
            first, own = (statistic(counts.sum(0)) for counts in pair)
            low, high = bootstrap_difference(*pair, statistic) if run is not runs[0] else (math.nan, math.nan)
            difference = own - first if run is not runs[0] else math.nan
            row |= {f"{name} difference": difference, f"{name} difference low": low, f"{name} difference high": high}
        spent = cost.get(run.name)
        row |= {
            "parameters": spent.parameters if spent else math.nan,
            "gflops": spent.gflops if spent else math.nan,
            "fps": spent.fps if spent else math.nan,
            "latency p50 ms": 1000 * spent.latency(0.5) if spent else math.nan,
            "latency p95 ms": 1000 * spent.latency(0.95) if spent else math.nan,
            "measured on": machine(device) if spent and spent.seconds else "",
        }
        rows.append(row)
    return rows


def format_rows(rows: list[ComparisonRow]) -> list[tuple[str, list[str]]]:
    """The rows as people read them: a label, and a text a run; lines without any figure are left out."""

    def share(key: str, digits: int = 2) -> list[str]:
        return [percent(row[key], digits) for row in rows]

    def interval(key: str) -> list[str]:
        bounds = [(row[f"{key} low"], row[f"{key} high"]) for row in rows]
        return ["-" if math.isnan(low) else f"{percent(low)} to {percent(high)}" for low, high in bounds]

    def number(key: str, digits: int, scale: float = 1.0) -> list[str]:
        return ["-" if math.isnan(row[key]) else f"{row[key] * scale:.{digits}f}" for row in rows]

    first = rows[0]["run"]
    lines = [
        ("mIoU, test list", share("mIoU")),
        ("mIoU, frames of the clips", share("mIoU clips")),
        (f"  minus {first}, 95%", [_difference(row, "mIoU clips") for row in rows]),
        ("TC strict", share("TC")),
        ("  95% over clips", interval("TC")),
        (f"  minus {first}, 95%", [_difference(row, "TC") for row in rows]),
        ("TC published", share("TC published")),
        ("  95% over clips", interval("TC published")),
        (f"  minus {first}, 95%", [_difference(row, "TC published") for row in rows]),
        ("TC strict at boundaries", share("TC boundary")),
        ("TC strict of ground truth", share("ceiling")),
        ("pixels that strict counts", share("coverage")),
        ("flicker rate", share("flicker", 3)),
        ("VC8 correct", share("VC8")),
        ("VC16 correct", share("VC16")),
        ("parameters, million", number("parameters", 2, 1e-6)),
        ("GFLOPs a frame", number("gflops", 2)),
        ("frames a second", number("fps", 2)),
        ("latency p50, ms", number("latency p50 ms", 1)),
        ("latency p95, ms", number("latency p95 ms", 1)),
    ]
    return [(label, texts) for label, texts in lines if any(text != "-" for text in texts)]


def footnotes(rows: list[ComparisonRow], clips: int) -> list[str]:
    """What must be known to read :func:`format_rows`."""
    pairs = "of neighbouring frames" if rows[0]["stride"] == 1 else f"of frames {rows[0]['stride']} apart"
    found = [f"All scores in percent. TC over pairs {pairs}, with the flow {rows[0]['flow']}."]
    if len(rows) > 1 and clips > 1:
        found.append(
            f"minus {rows[0]['run']}: in percentage points, with its 95% interval over {clips} clips drawn alike for "
            "both runs; * marks an interval without 0."
        )
        if clips < 10:
            found.append(f"{clips} clips are few: such an interval is narrower than it should be.")
    if clips < 2:
        found.append("One clip gives no interval.")
    places = {row["measured on"] for row in rows} - {""}
    if places:
        found.append(f"Speed: one frame at a time, of this machine: {places.pop()}.")
    return found


def comparison_table(rows: list[ComparisonRow], clips: int) -> str:
    """Figures as lines, runs as columns, in blocks of at most 100 columns."""
    lines = format_rows(rows)
    label = max(len(text) for text, _ in lines)
    columns = [[row["run"], *(texts[i] for _, texts in lines)] for i, row in enumerate(rows)]
    blocks: list[list[list[str]]] = []
    room = 0
    for column in columns:
        width = max(map(len, column)) + 2
        if not blocks or width > room:
            blocks.append([["", *(text for text, _ in lines)]])
            room = WIDTH - label
        blocks[-1].append(column)
        room -= width
    texts = [table([list(cells) for cells in zip(*block, strict=True)]) for block in blocks]
    wrapped = [textwrap.fill(note, WIDTH) for note in footnotes(rows, clips)]
    return "\n\n".join([*texts, "\n".join(wrapped)])


def save_comparison(rows: list[ComparisonRow], folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``."""
    write_json(folder / "comparison.json", rows)
    write_csv(folder / "comparison.csv", [list(rows[0]), *(row.values() for row in rows)])


def _difference(row: ComparisonRow, key: str) -> str:
    value, low, high = (row[f"{key} difference{end}"] for end in ("", " low", " high"))
    if math.isnan(value):
        return "-"
    if math.isnan(low):
        return f"{100 * value:+.2f}"
    mark = " *" if low > 0 or high < 0 else ""
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}){mark}"
