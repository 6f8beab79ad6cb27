"""Results of an evaluation as tables for the terminal."""

from __future__ import annotations

import math

from etc.data.labels import class_names
from etc.display.tables import WIDTH, percent, table, table_in_blocks
from etc.evaluate.metric_list import HEADLINE, METRICS, PUBLISHED, SEGMENTATION, classes_averaged, metrics_in
from etc.evaluate.results import ClipScores, FlowScores, FrameScores

SHOWN_CLIPS = 5  # of the least consistent ones; the files hold all
FEW_PIXELS = 0.001  # share of the counted pixels below which a class is marked
BREAKS_WIDTH = 58  # columns of the frames at which clips break
SHORTEST_NAME = 16  # columns that the name of a clip is left, however many metrics stand beside it


def clip_table(result: ClipScores) -> str:
    """Every figure of a scoring, fit for 100 columns."""
    scores, constant = result.first, result.constant
    rows = [["temporal consistency", "%", "note"]]
    for metric in metrics_in(scores.results):
        averaged = classes_averaged(scores.results[metric.key])
        note = metric.note
        if metric.statistic and not note:
            note = _interval_note(scores.intervals[metric.key], *result.parts_of(metric))
        notes = [note, "" if averaged is None else f"{averaged} classes"]
        rows.append([metric.label, percent(scores.figure(metric), metric.digits), ", ".join(filter(None, notes))])
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
        parts.append(_flow_table(result.by_flow, result.interval_parts))
    return "\n\n".join(parts)


def _class_table(result: ClipScores) -> str:
    rows = [["class", "TC strict %", "TC published %", "IoU %", "pixels %", ""]]
    columns = [result.first.results[key]["iou"] for key in (HEADLINE, PUBLISHED, SEGMENTATION)]
    shares = result.first.pixel_shares()
    for name, share, *values in zip(result.classes, shares, *columns, strict=True):
        rows.append([name, *map(percent, values), percent(share, 3), "few" if few_pixels(share) else ""])
    text = table(rows)
    if any(map(few_pixels, shares)):
        text += (
            f"\nfew: less than {percent(FEW_PIXELS, 1)}% of the pixels that strict counts; "
            "the class weighs as much as any other in TC"
        )
    return text


def few_pixels(share: float) -> bool:
    """Whether a class that occurs has so few of the counted pixels that its figures say little."""
    return 0 < share < FEW_PIXELS


def _least_consistent(result: ClipScores) -> str:
    """The clips of lowest strict TC, with all that is measured along the flow."""
    shown = [metric for metric in METRICS if metric.needs_flow]
    heads = [metric.column or metric.key for metric in shown]
    room = max(SHORTEST_NAME, WIDTH - sum(len(head) + 2 for head in heads))
    named = zip(result.clips, (clip.figures for clip in result.first.clips), strict=True)
    # A clip on which nothing was counted has no figure.
    known = sorted((row for row in named if not math.isnan(row[1][HEADLINE])), key=lambda row: row[1][HEADLINE])
    rows = [["least consistent clips, %", *heads]]
    for name, figures in known[:SHOWN_CLIPS]:
        rows.append([_cut(name, room), *(percent(figures[metric.key], metric.digits) for metric in shown)])
    return table(rows)


def _flow_table(by_flow: list[FlowScores], parts: tuple[int, str]) -> str:
    """One column per flow and stride, with all that depends on them."""
    shown = [metric for metric in metrics_in(by_flow[0].results) if metric.needs_flow]
    columns = [["flow", "stride"]]
    for metric in shown:
        columns[0] += [f"{metric.label} %"]
        columns[0] += ["  classes averaged"] if classes_averaged(by_flow[0].results[metric.key]) is not None else []
        columns[0] += [f"  95% over {parts[1]}"] if metric.statistic else []
    columns[0] += ["coverage %", "pairs"]
    for scores in by_flow:
        column = [_cut(scores.name, 20), str(scores.stride)]
        for metric in shown:
            column.append(percent(scores.figure(metric), metric.digits))
            averaged = classes_averaged(scores.results[metric.key])
            if averaged is not None:
                column.append(str(averaged))
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


def _interval_note(interval: tuple[float, float], parts: int, word: str) -> str:
    if math.isnan(interval[0]):
        return "too little for an interval" if parts == 1 else "no interval"
    return f"95% over {parts} {word} {_bounds(interval)}"


def frame_table(result: FrameScores) -> str:
    """IoU, accuracy and share of the labelled pixels of each class; mIoU, mAcc and allAcc."""
    figures, pixels = result.figures, result.counts.sum(1) / result.counts.sum()
    rows = [["class", "IoU %", "accuracy %", "pixels %"]]
    columns = figures["iou"], figures["accuracy"], pixels.tolist()
    for name, *shares in zip(class_names(result.settings), *columns, strict=True):
        rows.append([name, *map(percent, shares)])
    means = [f"{name} {percent(figures[name])} ({figures[f'{name}_classes']} classes)" for name in ("mIoU", "mAcc")]
    summary = "  ".join([*means, f"allAcc {percent(figures['allAcc'])}"])
    return f"{table(rows)}\n\n{summary}  ({result.frames} frames, classes that occur)"
