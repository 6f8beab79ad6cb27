"""Results for people: terminal tables, and the pictures of a training step."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import flow_to_image

from etc.config.schema import Train
from etc.evaluate.results import ClipScores, FrameScores, class_names
from etc.motion import MotionLoss
from etc.train.step import to_rgb255
from flownet import resample2d

SHOWN_CLIPS = 5  # of the least consistent ones; the files hold all


def percent(share: float, digits: int = 2) -> str:
    """A share in percent; ``-`` where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:.{digits}f}"


def table(rows: list[list[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right, a rule below the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


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


def training_pictures(
    batch: dict[str, Tensor], result: dict[str, Tensor], train: Train, palette: np.ndarray
) -> dict[str, Tensor]:
    """What the first sample of a step looks like, uint8 ``[3, h, w]`` each, for TensorBoard.

    Args:
        batch: the step's batch.
        result: what :class:`etc.train.step.MotionTask` returned for it.
        train: how the motion loss weighs pixels.
        palette: uint8 ``[256, 3]``.

    Returns:
        ``frame``, ``label``, ``prediction`` and, for a pair, ``neighbour``, ``flow``, ``visibility``, ``warped``.
    """
    palette = torch.from_numpy(palette)
    image = batch["image"][:1]
    pictures = {
        "frame": _rgb(image),
        "label": _colored(batch["label"][0], palette),
        "prediction": _colored(_ids(result["logits"][:1], image), palette),
    }
    if "flow" not in result or not batch["paired"].any():
        return pictures
    # The pairs of the step stand in the order of the batch: the first pair need not be the first sample.
    image, neighbour = (batch[name][batch["paired"]][:1] for name in ("image", "neighbour"))
    flow, logits_k = result["flow"][:1], result["logits_k"][:1].float()
    loss = MotionLoss(weight=1.0, visibility=train.visibility, mask_padding=train.mask_padding)
    logits_k = F.interpolate(logits_k, size=image.shape[-2:], mode="bilinear", align_corners=True)
    return pictures | {
        "neighbour": _rgb(neighbour),
        "flow": flow_to_image(flow)[0].cpu(),
        "visibility": (loss.mask(image, neighbour, flow)[0] * 255).to(torch.uint8).expand(3, -1, -1).cpu(),
        "warped": _colored(_ids(resample2d(logits_k, flow), image), palette),
    }


def _ids(logits: Tensor, image: Tensor) -> Tensor:
    size = image.shape[-2:]
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)[0].argmax(0)


def _rgb(image: Tensor) -> Tensor:
    return to_rgb255(image)[0].clamp(0, 255).to(torch.uint8).cpu()


def _colored(ids: Tensor, palette: Tensor) -> Tensor:
    return palette[ids.cpu().long()].permute(2, 0, 1)
