"""mIoU, mAcc and allAcc from confusion counts."""

import math
from typing import Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor

from etc.metrics.checks import (
    IGNORE,
    Labels,
    as_integers,
    require_choice,
    require_classes,
    require_same,
)
from etc.metrics.warping import joint_histogram


class IouScores(TypedDict):
    """What :func:`iou_scores` returns, and says more about.

    Attributes:
        mIoU, mAcc, allAcc: shares in [0, 1], NaN without any pixel.
        iou: one share per class.
        pixels: how many were counted.
        mIoU_classes, mAcc_classes: how many classes mIoU and mAcc average.
        class_pixels: for each class how many pixels have it in target or prediction, the denominator of its IoU.
    """

    mIoU: float
    mAcc: float
    allAcc: float
    iou: list[float]
    pixels: int
    mIoU_classes: int
    mAcc_classes: int
    class_pixels: list[int]


def confusion(pred: Labels, target: Labels, num_classes: int, ignore_label: int = IGNORE) -> Tensor:
    """Counts pixels by (target, prediction).

    Args:
        pred: predicted ids, any integer dtype, any shape (leading batch dimensions allowed).
        target: true ids, same shape. Pixels of ``ignore_label`` are dropped, whatever was predicted there.
        num_classes: K.
        ignore_label: may lie outside 0..K-1 or be one of the classes.

    Returns:
        int64 ``[K, K]`` on the device of ``pred``; rows are the target, columns the prediction.

    Raises:
        ValueError: the shapes differ, a dtype holds no integers, or a pixel that is not dropped has an id
            outside 0..K-1.
    """
    require_classes(num_classes, limit=32767)
    k, pred, target = num_classes, as_integers(pred, "pred"), as_integers(target, "target")
    if pred.shape != target.shape:
        raise ValueError(f"pred {list(pred.shape)} and target {list(target.shape)} differ in shape")
    target = target.to(pred.device)
    if not 0 <= ignore_label <= 255:
        target = target.to(torch.int64)  # uint8 would wrap the label it is compared with
    counts = joint_histogram(_foreign_to_k(target, k), _foreign_to_k(pred, k), k)
    foreign = int(counts[k].sum())
    if 0 <= ignore_label < k:
        counts[ignore_label] = 0
    elif foreign:
        foreign -= int((target == ignore_label).sum())
    if foreign or counts[:k, k].any():
        name, ids = ("target", target) if foreign else ("pred", pred)
        ids = ids[target != ignore_label].to(torch.int64)
        value = int(ids[(ids < 0) | (ids >= k)][0])
        raise ValueError(f"{name} holds id {value}: expected 0..{k - 1} (ignore_label is {ignore_label})")
    return counts[:k, :k].contiguous()


Convention = Literal["present", "published", "target"]


def iou_scores(counts: Tensor | np.ndarray, convention: Convention = "present") -> IouScores:
    """Turns confusion counts into figures.

    Args:
        counts: ``[K, K]``, rows are the target.
        convention: ``"present"`` averages IoU over the classes that occur in target or prediction, and
            accuracy over those that occur in the target. ``"published"`` averages both over all K classes,
            an absent one counting as 0. ``"target"`` averages both over the classes that occur in the target.

    Returns:
        ``mIoU``, ``mAcc`` and ``allAcc`` in [0, 1]; ``iou``, one value per class (one that is not averaged is NaN, an
        absent one 0 under "published"); ``pixels``, how many were counted; ``mIoU_classes`` and ``mAcc_classes``,
        how many classes are averaged; ``class_pixels``, how many pixels have each class in target or prediction.
        Without any pixel all shares are NaN: nothing was measured.

    Raises:
        ValueError: ``counts`` is not square, or the convention is unknown.
    """
    table = counts.detach().cpu().numpy() if isinstance(counts, Tensor) else np.asarray(counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"counts must be [K, K], got {list(table.shape)}")
    require_choice("convention", convention, get_args(Convention))
    hits, truth, pixels = table.diagonal(), table.sum(1), int(table.sum())
    union = truth + table.sum(0) - hits
    absent = 0.0 if convention == "published" and pixels else math.nan
    averaged = truth > 0 if convention == "target" else union > 0
    iou = np.divide(hits, union, out=np.full(len(hits), absent), where=averaged)
    accuracy = np.divide(hits, truth, out=np.full(len(hits), absent), where=truth > 0)
    return {
        "mIoU": float(np.nanmean(iou)) if pixels else math.nan,
        "mAcc": float(np.nanmean(accuracy)) if pixels else math.nan,
        "allAcc": float(hits.sum() / pixels) if pixels else math.nan,
        "iou": iou.tolist(),
        "pixels": pixels,
        "mIoU_classes": int(np.isfinite(iou).sum()),
        "mAcc_classes": int(np.isfinite(accuracy).sum()),
        "class_pixels": union.tolist(),
    }


class SegmentationIoU:
    """IoU of predictions against labels, over all frames added.

    ``counts`` is the :func:`confusion` of those frames, int64 ``[K, K]``, rows are the labels.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        require_classes(num_classes, limit=32767)
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device="cpu")

    def update(self, pred: Labels, target: Labels) -> None:
        """Adds predicted and true ids of a frame, or of a batch of frames; see :func:`confusion`."""
        self.counts += confusion(pred, target, self.num_classes).cpu()

    def merge(self, other: "SegmentationIoU") -> "SegmentationIoU":
        """Adds the counts of ``other``; returns self. ValueError when the two differ in their classes."""
        require_same(self, other, ("num_classes",))
        self.counts += other.counts
        return self

    def compute(self) -> IouScores:
        """The :func:`iou_scores` of the pooled counts, averaged over the classes that occur."""
        return iou_scores(self.counts)


def iou_counts(counts: Tensor) -> Tensor:
    """What IoU needs of confusion counts ``[..., K, K]``: hits, row and column sum per class, int64 ``[..., 3, K]``."""
    return torch.stack([counts.diagonal(dim1=-2, dim2=-1), counts.sum(-1), counts.sum(-2)], dim=-2)


def mean_iou(totals: np.ndarray, convention: Convention = "present") -> float:
    """mIoU from :func:`iou_counts` ``[3, K]``, as :func:`iou_scores` gives it for the counts themselves."""
    hits, rows, columns = totals
    union = rows + columns - hits
    if not union.any():
        return math.nan
    averaged = rows > 0 if convention == "target" else union > 0
    iou = hits[averaged] / union[averaged]
    return float(iou.sum() / len(union) if convention == "published" else iou.mean())


def occurring_classes(totals: np.ndarray) -> np.ndarray:
    """Which classes occur in target or prediction, bool ``[..., K]``, from :func:`iou_counts` ``[..., 3, K]``."""
    occurs: np.ndarray = np.logical_or.reduce(totals[..., 1:, :] > 0, axis=-2)
    return occurs


def pixel_accuracy(totals: np.ndarray) -> float:
    """The share of pixels that are hits, from :func:`iou_counts` ``[3, K]``; NaN without a pixel.

    It is the ``allAcc`` of :func:`iou_scores`. Of the counts of ``TemporalConsistency`` it is the pixel consistency,
    the share of the counted pixels that keep their class.
    """
    hits, rows, _ = totals
    return float(hits.sum() / rows.sum()) if rows.any() else math.nan


def frequency_weighted_iou(totals: np.ndarray) -> float:
    """IoU weighted by the pixels of each class in the target (fwIoU), from :func:`iou_counts` ``[3, K]``.

    NaN without a pixel. Source: Long et al., Fully convolutional networks, CVPR 2015.
    """
    hits, rows, columns = totals
    if not rows.any():
        return math.nan
    union = rows + columns - hits
    present = rows > 0
    return float((rows[present] * (hits[present] / union[present])).sum() / rows.sum())


def _foreign_to_k(ids: Tensor, num_classes: int) -> Tensor:
    if ids.dtype == torch.uint8 and num_classes <= 255:
        return ids.clamp(max=num_classes)
    ids = ids.to(torch.int64)
    return ids.masked_fill((ids < 0) | (ids >= num_classes), num_classes)
