"""The figures of a study: one row per variant, means over seeds, differences to another row with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from etc.display import tables
from etc.errors import UserError
from etc.evaluate.results import write_json
from etc.metrics.bootstrap import nested_interval
from etc.study.plan import Study
from etc.study.runs import FinishedRun
from utils.locks import exclusive

SUMMARY_FILE = "summary.json"

Interval = tuple[float, float, float]  # mean, low, high
ClipCounts = tuple[np.ndarray, np.ndarray]  # of strict TC and of mIoU, int64 [clips, 3, K] each


@dataclass(frozen=True)
class Row:
    """One variant or control; shares in [0, 1], means over its seeds.

    Attributes:
        study: name of the study.
        variant: its name.
        seeds: the seeds that are done.
        clips: number of clips that each was scored on.
        miou: over the labelled frames of the clips.
        pixel_consistency: share of the counted pixels that keep their class.
        tc_strict, boundary, flicker, vc8_correct: as :data:`etc.evaluate.metric_list.METRICS`.
        regions: connected regions of one class per frame; few in a coarse prediction.
        spread_miou: standard deviation of ``miou`` over the seeds; NaN for one seed.
        spread_pixel_consistency: that of ``pixel_consistency``.
        against: the variant that this one is compared with below, the baseline in general; ``""`` for the baseline.
        delta_miou: mIoU minus that of ``against``, with the bounds of its 95% interval over seeds and clips.
        delta_changed_pixels_relative: changed pixels over those of ``against``, minus 1, with its bounds.
        changed_relative_by_flow: the same without bounds under each flow that the study is scored with.
    """

    study: str
    variant: str
    seeds: list[int]
    clips: int
    miou: float
    pixel_consistency: float
    tc_strict: float
    boundary: float
    flicker: float
    vc8_correct: float
    regions: float
    spread_miou: float
    spread_pixel_consistency: float
    against: str
    delta_miou: Interval
    delta_changed_pixels_relative: Interval
    changed_relative_by_flow: dict[str, float]


def changed_pixels(totals: np.ndarray) -> float:
    """Share of counted pixels that change their class; ``[3, K]`` of :func:`etc.metrics.iou_counts` of strict TC."""
    hits, rows, _ = totals
    return float(1 - hits.sum() / rows.sum()) if rows.any() else math.nan


def labelled_miou(totals: np.ndarray) -> float:
    """mIoU over the classes that the labels hold, of :func:`etc.metrics.iou_counts` ``[3, K]`` of predictions."""
    hits, labelled, predicted = totals
    occur = labelled > 0
    union = labelled + predicted - hits
    return float((hits[occur] / union[occur]).mean()) if occur.any() else math.nan


def rows_of(study: Study, runs: list[FinishedRun]) -> list[Row]:
    """One row per variant or control that has a finished run, in the order of the plan.

    Differences are over the seeds that both the variant and the baseline have.

    Raises:
        UserError: no run of the baseline is done, or the runs were scored on different clips.
    """
    counts = {(run.variant, run.seed): (np.asarray(run.strict), np.asarray(run.segmentation)) for run in runs}
    if not any(variant == study.baseline for variant, _ in counts):
        raise UserError(f"study {study.name}: no run of the baseline {study.baseline} is done yet")
    if len({(np.shape(run.strict), run.counted_in) for run in runs}) > 1:
        raise UserError(f"study {study.name}: its runs were scored on different clips or classes: run them again")
    rows = []
    for variant in study.rows:
        own = [run for run in sorted(runs, key=lambda run: run.seed) if run.variant == variant]
        if own:
            bases = {run.seed: run for run in runs if run.variant == study.reference(variant)}
            rows.append(_row(study, own, bases, counts))
    return rows


def _row(
    study: Study,
    own: list[FinishedRun],
    bases: dict[int, FinishedRun],
    counts: dict[tuple[str, int], ClipCounts],
) -> Row:
    variant = own[0].variant
    mine = [counts[variant, run.seed] for run in own]
    miou = [labelled_miou(segmentation.sum(0)) for _, segmentation in mine]
    consistency = [1 - changed_pixels(strict.sum(0)) for strict, _ in mine]
    both = [run for run in own if run.seed in bases]
    against = study.reference(variant)
    pairs = [(counts[bases[run.seed].variant, run.seed], counts[variant, run.seed]) for run in both]
    return Row(
        study=study.name,
        variant=variant,
        seeds=[run.seed for run in own],
        clips=len(mine[0][0]) if own[0].counted_in == "clips" else 1,
        miou=float(np.mean(miou)),
        pixel_consistency=float(np.mean(consistency)),
        spread_miou=float(np.std(miou, ddof=1)) if len(own) > 1 else math.nan,
        spread_pixel_consistency=float(np.std(consistency, ddof=1)) if len(own) > 1 else math.nan,
        against=against or "",
        delta_miou=_difference(pairs, 1, _more_miou),
        delta_changed_pixels_relative=_difference(pairs, 0, _fewer_changes),
        changed_relative_by_flow=_changed_by_flow(both, bases),
        **{name: float(np.mean([run.figures[key] for run in own])) for name, key in _FIGURES.items()},
    )


# Field of Row -> metric; the others are counted here, over the classes that the labels hold.
_FIGURES = {"tc_strict": "strict"} | {key: key for key in ("boundary", "flicker", "vc8_correct", "regions")}


def _changed_by_flow(runs: list[FinishedRun], bases: dict[int, FinishedRun]) -> dict[str, float]:
    """Flow -> changed pixels over those of the baseline's run of the same seed, minus 1, mean over the runs."""
    if not runs:
        return {}
    relative = []
    for run in runs:
        before = bases[run.seed].changed_by_flow
        relative.append({f: x / before[f] - 1 if before[f] else math.nan for f, x in run.changed_by_flow.items()})
    return {flow: float(np.mean([each[flow] for each in relative])) for flow in relative[0]}


def _more_miou(before: np.ndarray, after: np.ndarray) -> float:
    return labelled_miou(after) - labelled_miou(before)


def _fewer_changes(before: np.ndarray, after: np.ndarray) -> float:
    changed = changed_pixels(before)
    return changed_pixels(after) / changed - 1 if changed else math.nan


def _difference(
    pairs: list[tuple[ClipCounts, ClipCounts]],
    which: int,
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> Interval:
    """Mean over seeds of a comparison of baseline and variant, and its interval; NaN without a common seed."""
    if not pairs:
        return math.nan, math.nan, math.nan
    before, after = ([run[which] for run in runs] for runs in zip(*pairs, strict=True))
    mean = float(np.mean([statistic(a.sum(0), b.sum(0)) for a, b in zip(before, after, strict=True)]))
    return (mean, *nested_interval(before, after, statistic))


def write_summary(rows: list[Row], study: str, folder: Path) -> Path:
    """Write ``summary.json``; the rows of other studies that are there already stay.

    Raises:
        UserError: there is a ``summary.json`` that no study wrote.
    """
    path = folder / SUMMARY_FILE
    others: list[dict] = []
    with exclusive(folder, "summary", wait=True):  # several studies may end at once
        if path.is_file():
            try:
                others = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["study"] != study]
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{path} is no summary of studies: choose another --results") from error
        content = sorted([*others, *map(asdict, rows)], key=lambda row: row["study"])
        write_json(path, content)
    return path


def table(rows: list[Row]) -> str:
    """The rows as a table for the terminal; all figures in percent."""
    return tables.table([list(HEAD), *map(cells, rows)])


HEAD = (
    "variant",
    "seeds",
    "mIoU",
    "compared with",
    "mIoU more",
    "changed pixels",
    "relative",
    "relative by flow",
    "TC strict",
    "flicker",
    "VC8",
    "regions",
)


def cells(row: Row) -> list[str]:
    """The cells of :data:`HEAD` for a row, in percent but for the regions."""
    changed, by_flow = 100 * (1 - row.pixel_consistency), row.changed_relative_by_flow.items()
    return [
        row.variant,
        str(len(row.seeds)),
        _with_spread(100 * row.miou, 100 * row.spread_miou, 2),
        row.against or "-",
        with_bounds(row.delta_miou, 2),
        _with_spread(changed, 100 * row.spread_pixel_consistency, 3),
        with_bounds(row.delta_changed_pixels_relative, 1),
        ", ".join(f"{flow} {100 * x:+.1f}" for flow, x in by_flow if not math.isnan(x)) or "-",
        tables.percent(row.tc_strict),
        tables.percent(row.flicker, 3),
        tables.percent(row.vc8_correct),
        "-" if math.isnan(row.regions) else f"{row.regions:.0f}",
    ]


def _with_spread(value: float, spread: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if math.isnan(spread) else f" ±{spread:.{digits}f}")


def with_bounds(interval: Interval, digits: int) -> str:
    """A share with its bounds, in percent and with signs, ``+1.2 (+0.3 to +2.1)``; ``-`` for NaN."""
    mean, low, high = (100 * bound for bound in interval)
    if math.isnan(mean):
        return "-"
    bounds = "" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"{mean:+.{digits}f}{bounds}"
