"""Runs side by side: their scores and costs, and the intervals of the differences over clips."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etc.display.machine import machine
from etc.display.tables import WIDTH, percent, table_in_blocks
from etc.evaluate.metric_list import HEADLINE, METRICS, ClipMetric, classes_averaged, metrics_in
from etc.evaluate.results import write_csv, write_json
from etc.metrics import bootstrap_interval, occurring_classes
from etc.metrics.bootstrap import parts_with_counts
from etc.report.common_classes import CommonClasses, common_classes, labelled_classes
from etc.report.cost import Cost
from etc.report.runs import Run

_MIOU, _TEST_MIOU = "mIoU, frames of the clips", "mIoU, test list"
# What is looked at first, in this order; of the first score the difference to the first run too.
CORE = (
    "pixel consistency",
    _MIOU,
    "TC strict",
    "TC boundary",
    "flicker rate",
    "VC8 correct",
    "GFLOPs per frame",
    "frames per second",
)
PARTS_TO_MARK = 6  # clips, or segments of one
ComparisonRow = dict[str, Any]  # column of comparison.csv -> cell


def compare(
    runs: list[Run], cost: dict[str, Cost], device: torch.device, own: list[Run] | None = None
) -> list[ComparisonRow]:
    """Every figure of every run, one row per run; shares in [0, 1], NaN where there is no figure.

    Means over classes are over those that occur in all runs, mIoU over those that have labels; ``<metric> classes``
    says how many. For each metric that has a statistic ``<metric> low`` and ``high`` bound the figure, and ``<metric>
    difference`` is the run's figure minus that of the first run, with its own bounds: 95%, clips drawn with
    replacement, the same ones for both runs, and in each draw over the classes that occur in all runs. ``<metric>
    difference parts`` says how many clips there are to draw from: those in which anything counts.

    Args:
        runs: the runs, as :func:`etc.report.common_classes.on_common_classes` gives them: then all other figures are
            over the same pixels, too.
        cost: name of a run -> what its network costs.
        device: where that was measured.
        own: the same runs over all that each of them predicts; default: ``runs``.
    """
    own = own or runs
    found = common_classes(own)
    rows = []
    parts, word = runs[0].scores.interval_parts
    metrics = metrics_in(*(run.scores.first.results for run in runs))
    for i, run in enumerate(runs):
        scores, spent = run.scores.first, cost.get(run.name)
        row: ComparisonRow = {"run": run.name, "flow": scores.flow, "stride": scores.stride}
        row |= {"interval parts": parts, "intervals over": word}
        row["mIoU"], row["mIoU classes"] = _labelled_miou(run)
        for metric in metrics:
            row |= _figure(metric, runs, i)
            if metric.statistic:
                row |= _bounds(metric, runs, i) | _difference(metric, runs, i)
        row |= {
            "coverage": scores.coverage,
            **_own_classes(found, own[i], run),
            "parameters": spent.parameters if spent else math.nan,
            "gflops": spent.gflops if spent else math.nan,
            "fps": spent.fps if spent else math.nan,
            "latency p50 ms": 1000 * spent.latency(0.5) if spent else math.nan,
            "latency p95 ms": 1000 * spent.latency(0.95) if spent else math.nan,
            "measured on": machine(device) if spent and spent.seconds else "",
        }
        rows.append(row)
    return rows


def _labelled_miou(run: Run) -> tuple[float, float]:
    """mIoU on the test list over the classes that have labels there, and their number; NaN without a test."""
    if run.miou is None:
        return math.nan, math.nan
    labelled = np.isfinite(run.miou["accuracy"])
    return _mean(run.miou["iou"], labelled), int(labelled.sum())


def _own_classes(found: CommonClasses, own: Run, run: Run) -> dict[str, Any]:
    """What a run has and lacks, and strict TC over all classes that it predicts, which is not comparable."""
    before, after = (r.scores.first.results[HEADLINE] for r in (own, run))
    return {
        "lacks": ", ".join(found.lacking[run.name]),
        "without label": ", ".join(found.unlabelled),
        "set aside": 1 - after["pixels"] / before["pixels"] if before["pixels"] else math.nan,
        f"own {HEADLINE}": before["mIoU"],
        f"own {HEADLINE} classes": before["mIoU_classes"],
    }


def _figure(metric: ClipMetric, runs: list[Run], index: int) -> dict[str, float]:
    """The figure of a run and, where it is a mean over classes, their number."""
    results = [run.scores.first.results[metric.key] for run in runs]
    own, averaged = results[index], classes_averaged(results[index])
    if averaged is None:
        return {metric.key: metric.figure(own)}
    if metric.averages == "fixed":
        return {metric.key: metric.figure(own), f"{metric.key} classes": averaged}
    classes: np.ndarray = np.logical_and.reduce(np.isfinite([result["iou"] for result in results]))
    if metric.averages == "labelled":
        classes &= labelled_classes(np.stack([run.scores.clip_counts[metric.counted_by].sum(0) for run in runs]))
    return {metric.key: _mean(own["iou"], classes), f"{metric.key} classes": int(classes.sum())}


def _mean(iou: list[float], classes: np.ndarray) -> float:
    return float(np.nanmean(np.where(classes, iou, math.nan))) if classes.any() else math.nan


def _bounds(metric: ClipMetric, runs: list[Run], index: int) -> dict[str, float]:
    """The 95% interval of :func:`_figure`."""
    low, high = runs[index].scores.first.intervals[metric.key]
    if metric.averages != "fixed":  # over the classes of all runs, as the figure
        counts = np.stack([run.scores.clip_counts[metric.counted_by] for run in runs], axis=1)
        low, high = bootstrap_interval(counts, lambda pooled: _figures_together(metric, pooled)[index])
    return {f"{metric.key} low": low, f"{metric.key} high": high}


def _difference(metric: ClipMetric, runs: list[Run], index: int) -> dict[str, float]:
    """A run minus the first one, NaN for the first run itself, its bounds, and the parts in which anything counts."""
    difference = low = high = math.nan
    counts = np.stack([run.scores.clip_counts[metric.counted_by] for run in runs], axis=1)
    if index:

        def gain(pooled: np.ndarray) -> float:
            figures = _figures_together(metric, pooled)
            return figures[index] - figures[0]

        difference = gain(counts.sum(0))
        low, high = bootstrap_interval(counts, gain)
    name = f"{metric.key} difference"
    parts = int(parts_with_counts(counts).sum())
    return {name: difference, f"{name} low": low, f"{name} high": high, f"{name} parts": parts}


def _figures_together(metric: ClipMetric, pooled: np.ndarray) -> list[float]:
    """The figures of all runs from their counts ``[runs, ...]``; a mean over classes is over those of all runs."""
    assert metric.statistic is not None, "only metrics with a statistic have differences"
    if metric.averages != "fixed":
        labelled = metric.averages == "labelled"
        classes = labelled_classes(pooled) if labelled else np.logical_and.reduce(occurring_classes(pooled))
        pooled = pooled[:, :, classes]
    return [metric.statistic(own) for own in pooled]


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
    for metric in metrics_in(*rows):
        lines.append((metric.label, share(metric.key, metric.digits)))
        if f"{metric.key} classes" in rows[0] and any(not math.isnan(row[metric.key]) for row in rows):
            lines.append(("  classes averaged", number(f"{metric.key} classes", 0)))
        if metric.statistic:
            lines.append((f"  95% over {rows[0]['intervals over']}", interval(metric.key)))
            lines.append((f"  minus {rows[0]['run']}, 95%", [_difference_text(row, metric.key) for row in rows]))
    lines += [
        (_TEST_MIOU, share("mIoU")),
        ("  classes averaged", number("mIoU classes", 0)),
        ("pixels that strict counts", share("coverage")),
        ("parameters, million", number("parameters", 2, 1e-6)),
        ("GFLOPs per frame", number("gflops", 2)),
        ("frames per second", [_fps_text(row["fps"], rows[0]["fps"]) for row in rows]),
        ("latency p50, ms", number("latency p50 ms", 1)),
        ("latency p95, ms", number("latency p95 ms", 1)),
    ]
    return [(label, texts) for label, texts in lines if any(text != "-" for text in texts)]


def footnotes(rows: list[ComparisonRow]) -> list[str]:
    """How to read :func:`format_rows`."""
    parts, word = rows[0]["interval parts"], rows[0]["intervals over"]
    pairs = "of neighbouring frames" if rows[0]["stride"] == 1 else f"of frames {rows[0]['stride']} apart"
    found = [f"All scores in percent. TC over pairs {pairs}, with the flow {rows[0]['flow']}."]
    found += _notes_on_classes(rows)
    if len(rows) > 1 and parts > 1:
        found.append(
            f"minus {rows[0]['run']}: in percentage points, with its 95% interval over {parts} {word}, the same draws "
            f"for both runs; * marks an interval without 0, of {PARTS_TO_MARK} {word} or more."
        )
        found += [
            f"{metric.label}: the interval is over the {rows[0][key]} {word} in which anything counts."
            for metric in metrics_in(*rows)
            if metric.statistic and 0 < rows[0][key := f"{metric.key} difference parts"] < parts
        ]
    if parts > 1 and word != "clips":
        found.append(
            "There is one clip: its segments stand in for clips. They resemble each other, so that such an interval is "
            "narrower than it should be."
        )
    elif 1 < parts < 10:
        found.append(f"{parts} clips are few: such an interval is narrower than it should be.")
    if parts < 2:
        found.append("One clip this short gives no interval.")
    places = {row["measured on"] for row in rows} - {""}
    if places:
        found.append(f"Speed: one frame at a time, on this machine: {places.pop()}.")
    return found


def _notes_on_classes(rows: list[ComparisonRow]) -> list[str]:
    """Which classes do not occur in all runs, and what that means for the figures."""
    found = [f"{row['run']} lacks {row['lacks']}." for row in rows if row["lacks"]]
    if rows[0]["without label"]:
        found.append(f"Predicted, but labelled nowhere: {rows[0]['without label']}.")
    aside = [f"{row['run']} {percent(row['set aside'], 3)}%" for row in rows if row["set aside"] > 0]
    if aside:
        found.append(
            "Pixels that have such a class, or none, in one of the runs are set aside in all of them: "
            f"{', '.join(aside)} of the pixels that strict counts. All figures but mIoU are over the others. Those "
            "over all pixels, TC published to quote among them, are in each run's tc.json."
        )
    if any(row["lacks"] for row in rows):
        own = [f"{row['run']} {percent(row[f'own {HEADLINE}'])} over {row[f'own {HEADLINE} classes']}" for row in rows]
        found.append(f"TC strict over all classes that a run predicts cannot be compared: {', '.join(own)}.")
    return found


def core_rows(rows: list[ComparisonRow]) -> list[tuple[str, list[str]]]:
    """Those of :func:`format_rows` that are looked at first: :data:`CORE`, and the protocols that were asked for.

    mIoU is that of the test list where the clips have no labels.
    """
    lines = format_rows(rows)
    labels = [label for label, _ in lines]
    core = [_TEST_MIOU if name == _MIOU and _MIOU not in labels else name for name in CORE]
    found = []
    for name in (*core, *(metric.label for metric in metrics_in(*rows) if metric not in METRICS)):
        if name in labels:
            index = labels.index(name)
            found.append(lines[index])
            below = lines[index + 1 : index + 4] if name == CORE[0] else []
            found += [line for line in below if line[0].startswith("  minus")]
    return found


def comparison_table(rows: list[ComparisonRow], *, whole: bool = True) -> str:
    """Figures as lines, runs as columns, in blocks of at most 100 columns; not ``whole``: :func:`core_rows`."""
    lines = format_rows(rows) if whole else core_rows(rows)
    columns = [["", *(label for label, _ in lines)]]
    columns += [[row["run"], *(texts[i] for _, texts in lines)] for i, row in enumerate(rows)]
    wrapped = [textwrap.fill(note, WIDTH) for note in footnotes(rows)]
    return "\n\n".join([table_in_blocks(columns), "\n".join(wrapped)])


def save_comparison(rows: list[ComparisonRow], folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``."""
    write_json(folder / "comparison.json", rows)
    write_csv(folder / "comparison.csv", [list(rows[0]), *(row.values() for row in rows)])


def _fps_text(own: float, first: float) -> str:
    """Frames per second, and how many times those of the first run that is."""
    if math.isnan(own):
        return "-"
    return f"{own:.2f}" if math.isnan(first) else f"{own:.2f} ({own / first:.2f}x)"


def _difference_text(row: ComparisonRow, key: str) -> str:
    value, low, high = (row[f"{key} difference{end}"] for end in ("", " low", " high"))
    if math.isnan(value):
        return "-"
    if math.isnan(low):
        return f"{100 * value:+.2f}"
    # The differences of few clips have the same sign by chance alone: those of five in one case of sixteen.
    mark = " *" if (low > 0 or high < 0) and row[f"{key} difference parts"] >= PARTS_TO_MARK else ""
    return f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f}){mark}"
