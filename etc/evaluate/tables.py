"""Results for people: terminal tables, and the pictures of a training step."""

from __future__ import annotations

import math

from etc.data.labels import class_names
from etc.display.tables import percent, table
from etc.evaluate.results import ClipScores, FrameScores

SHOWN_CLIPS = 5  # of the least consistent ones; the files hold all


def clip_table(result: ClipScores) -> str:
    """Every figure of a scoring, fit for 100 columns."""
    figures = result.figures
    names = class_names(result.settings)
    pairs, constant = figures["pairs"], figures["constant"]
    of_what = "any class" if math.isnan(constant["mIoU"]) else names[constant["class"]]
    control = f"{of_what} everywhere, mIoU {percent(constant['mIoU'])}: TC alone says little"
    skipped = f"{pairs['skipped']} more lack a prediction" if pairs["skipped"] else "all of them"
    head = [
        ["temporal consistency", "mIoU %", "note"],
        ["TC strict", percent(figures["strict"]["mIoU"]), _spread(figures["strict_interval"])],
        ["TC of the ground truth", percent(figures["ceiling"]), "the ceiling under this flow"],
        ["TC of a constant", "100.00", control],
        ["TC boundary", percent(figures["boundary"]["mIoU"]), "strict, near class boundaries"],
        ["TC published", percent(figures["published"]["mIoU"]), "only to compare with published numbers"],
        ["flicker rate", percent(figures["flicker"], 3), "share of pixels that go a, b, a"],
        ["VC8 / VC16 vspw", _pair(figures, "vspw"), "constant where the truth is"],
        ["VC8 / VC16 correct", _pair(figures, "correct"), "constant and right"],
        ["mIoU", percent(figures["segmentation"]["mIoU"]), "of the labelled frames of these clips"],
        ["coverage", percent(figures["coverage"]), "share of pixels that strict counts"],
        ["pairs", str(pairs["scored"]), skipped],
    ]
    for row in head:
        row[2] = row[2].ljust(max(len(r[2]) for r in head))
    classes = [["class", "TC strict %", "TC published %", "IoU %"]]
    columns = (figures[name]["iou"] for name in ("strict", "published", "segmentation"))
    for name, *values in zip(names, *columns, strict=True):
        classes.append([name, *map(percent, values)])
    return "\n\n".join(map(table, [head, classes, *_clips_and_views(result)]))


def _clips_and_views(result: ClipScores) -> list[list[list[str]]]:
    """The least consistent clips, and the judges and strides, where there are several."""
    tables = []
    if len(result.clips) > 1:
        # A clip on which nothing was counted has no figure.
        known = sorted((c for c in result.clips if not math.isnan(c["strict"])), key=lambda clip: clip["strict"])
        rows = [["least consistent clips", "TC strict %", "TC published %", "flicker %"]]
        for clip in known[:SHOWN_CLIPS]:
            shares = percent(clip["strict"]), percent(clip["published"]), percent(clip["flicker"], 3)
            rows.append([_cut(clip["clip"], 48), *shares])
        tables.append(rows)
    if views := result.figures.get("views"):
        rows = [
            ["judge", "stride", "TC strict", "95% interval", "ceiling", "boundary", "published", "flicker", "cover"]
        ]
        for view in views:
            low, high = view["strict_interval"]
            interval = "-" if math.isnan(low) else f"{percent(low)} - {percent(high)}"
            shares = view["ceiling"], view["boundary"]["mIoU"], view["published"]["mIoU"]
            row = [_cut(view["judge"], 20), str(view["stride"]), percent(view["strict"]["mIoU"]), interval]
            rows.append([*row, *map(percent, shares), percent(view["flicker"], 3), percent(view["coverage"])])
        tables.append(rows)
    return tables


def _cut(name: str, width: int) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _spread(interval: list[float]) -> str:
    low, high = interval
    return "one clip gives no interval" if math.isnan(low) else f"95% over clips {percent(low)} - {percent(high)}"


def frame_table(result: FrameScores) -> str:
    """IoU and accuracy of each class, the share of the labelled pixels that it has; mIoU, mAcc and allAcc."""
    figures, pixels = result.figures, result.counts.sum(1) / result.counts.sum()
    rows = [["class", "IoU %", "accuracy %", "pixels %"]]
    columns = figures["iou"], figures["accuracy"], pixels.tolist()
    for name, *shares in zip(class_names(result.settings), *columns, strict=True):
        rows.append([name, *map(percent, shares)])
    summary = "  ".join(f"{name} {percent(figures[name])}" for name in ("mIoU", "mAcc", "allAcc"))
    return f"{table(rows)}\n\n{summary}  ({result.frames} frames, classes that occur)"


def _pair(figures: dict, definition: str) -> str:
    return " / ".join(percent(figures[f"vc{window}_{definition}"]) for window in (8, 16))
