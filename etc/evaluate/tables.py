"""Results of an evaluation as tables for the terminal."""

from __future__ import annotations

import math

from etc.data.labels import class_names
from etc.display.tables import WIDTH, percent, table, table_in_blocks
from etc.evaluate.metric_list import HEADLINE, METRICS, PUBLISHED, SEGMENTATION
from etc.evaluate.results import ClipScores, FlowScores, FrameScores

SHOWN_CLIPS = 5  # of the least consistent ones; the files hold all
BREAKS_WIDTH = 58  # columns of the frames at which clips break
SHORTEST_NAME = 16  # columns that the name of a clip is left, however many metrics stand beside it


def clip_table(result: ClipScores) -> str:
    """Every figure of a scoring, fit for 100 columns."""
    scores, constant = result.first, result.constant
    rows = [["temporal consistency", "%", "note"]]
    for metric in METRICS:
        note = metric.note or _interval_note(scores.intervals.get(metric.key))
        rows.append([metric.label, percent(scores.figure(metric), metric.digits), note])
    of_what = "any class" if math.isnan(constant.mean_iou) else result.classes[constant.class_id]
    control = f"{of_what} everywhere, mIoU {percent(constant.mean_iou)}: TC alone says little"
    skipped = f"{scores.skipped} more lack a prediction" if scores.skipped else "all of them"
    rows += [
        ["TC of a constant", "100.00", control],
        ["coverage", percent(scores.coverage), "share of pixels that strict counts"],
        ["pairs", str(scores.scored), skipped],
    ]
    for what, names in (("gaps", result.gaps), ("cuts", result.cuts)):
        if names:  # as many of the frames as fit beside it
            rows.append([what, str(len(names)), _cut_end(f"new clips at {', '.join(names)}", BREAKS_WIDTH)])
    width = max(len(row[2]) for row in rows)
    parts = [table([[label, value, note.ljust(width)] for label, value, note in rows]), _class_table(result)]
    if len(result.clips) > 1:
        parts.append(_least_consistent(result))
    if len(result.by_flow) > 1:
        parts.append(_flow_table(result.by_flow))
    return "\n\n".join(parts)


def _class_table(result: ClipScores) -> str:
    rows = [["class", "TC strict %", "TC published %", "IoU %"]]
    columns = [result.first.results[key]["iou"] for key in (HEADLINE, PUBLISHED, SEGMENTATION)]
    for name, *values in zip(result.classes, *columns, strict=True):
        rows.append([name, *map(percent, values)])
    return table(rows)


def _least_consistent(result: ClipScores) -> str:
    """The clips of lowest strict TC, with all that is measured along the flow."""
    shown = [metric for metric in METRICS if metric.needs_flow]
    room = max(SHORTEST_NAME, WIDTH - sum(len(metric.key) + 2 for metric in shown))
    named = zip(result.clips, (clip.figures for clip in result.first.clips), strict=True)
    # A clip on which nothing was counted has no figure.
    known = sorted((row for row in named if not math.isnan(row[1][HEADLINE])), key=lambda row: row[1][HEADLINE])
    rows = [["least consistent clips, %", *(metric.key for metric in shown)]]
    for name, figures in known[:SHOWN_CLIPS]:
        rows.append([_cut(name, room), *(percent(figures[metric.key], metric.digits) for metric in shown)])
    return table(rows)


def _flow_table(by_flow: list[FlowScores]) -> str:
    """One column per flow and stride, with all that depends on them."""
    shown = [metric for metric in METRICS if metric.needs_flow]
    columns = [["flow", "stride"]]
    for metric in shown:
        columns[0] += [f"{metric.label} %", "  95% over clips"] if metric.statistic else [f"{metric.label} %"]
    columns[0] += ["coverage %", "pairs"]
    for scores in by_flow:
        column = [_cut(scores.name, 20), str(scores.stride)]
        for metric in shown:
            column.append(percent(scores.figure(metric), metric.digits))
            if metric.statistic:
                column.append(_bounds(scores.intervals[metric.key]))
        columns.append([*column, percent(scores.coverage), str(scores.scored)])
    return table_in_blocks(columns)


def _cut(name: str, width: int) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _cut_end(text: str, width: int) -> str:
    """The beginning of a long list."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _bounds(interval: tuple[float, float]) -> str:
    return "-" if math.isnan(interval[0]) else " - ".join(map(percent, interval))


def _interval_note(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    return "one clip gives no interval" if math.isnan(interval[0]) else f"95% over clips {_bounds(interval)}"


def frame_table(result: FrameScores) -> str:
    """IoU, accuracy and share of the labelled pixels of each class; mIoU, mAcc and allAcc."""
    figures, pixels = result.figures, result.counts.sum(1) / result.counts.sum()
    rows = [["class", "IoU %", "accuracy %", "pixels %"]]
    columns = figures["iou"], figures["accuracy"], pixels.tolist()
    for name, *shares in zip(class_names(result.settings), *columns, strict=True):
        rows.append([name, *map(percent, shares)])
    summary = "  ".join(f"{name} {percent(figures[name])}" for name in ("mIoU", "mAcc", "allAcc"))
    return f"{table(rows)}\n\n{summary}  ({result.frames} frames, classes that occur)"
