"""Accuracy and consistency over time, kept as integer counts that add up over frames, clips and processes.

``confusion`` and ``scores`` give mIoU. ``TemporalConsistency``, ``VideoConsistency`` and ``FlickerRate``
are accumulators: ``update`` adds pairs, clips or triples of frames, ``merge`` adds another accumulator, and
``counts`` (int64, on the CPU) is all that an all-reduce has to sum for a sharded run to end with the very
same figures.

Label maps are integer tensors or numpy arrays with ids 0..K-1; 255 means "no label".
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from etc.metrics.video import FlickerRate, VideoConsistency
from etc.metrics.warping import (
    IGNORE,
    Labels,
    as_flow,
    as_ids,
    as_integers,
    as_mask,
    boundary_band,
    joint_counts,
    labels_along,
    require_choice,
    require_classes,
    require_same,
    uncount,
    warp_published,
)

__all__ = [
    "FlickerRate",
    "TemporalConsistency",
    "VideoConsistency",
    "bootstrap_difference",
    "bootstrap_interval",
    "class_totals",
    "confusion",
    "mean_iou",
    "scores",
]


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
    counts = joint_counts(_foreign_to_k(target, k), _foreign_to_k(pred, k), k)
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


def scores(
    counts: Tensor | np.ndarray, convention: Literal["present", "published"] = "present"
) -> dict[str, float | int | list[float]]:
    """Turns confusion counts into figures.

    Args:
        counts: ``[K, K]``, rows are the target.
        convention: ``"present"`` averages IoU over the classes that occur in target or prediction, and
            accuracy over those that occur in the target. ``"published"`` averages both over all K classes,
            an absent one counting as 0.

    Returns:
        ``mIoU``, ``mAcc`` and ``allAcc`` in [0, 1]; ``iou``, one value a class (an absent one is NaN under
        "present", 0 under "published"); ``pixels``, how many were counted. Without any pixel all shares are
        NaN: nothing was measured.

    Raises:
        ValueError: ``counts`` is not square, or the convention is unknown.
    """
    table = counts.detach().cpu().numpy() if isinstance(counts, Tensor) else np.asarray(counts)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"counts must be [K, K], got {list(table.shape)}")
    require_choice("convention", convention, ("present", "published"))
    hits, truth, pixels = table.diagonal(), table.sum(1), int(table.sum())
    union = truth + table.sum(0) - hits
    absent = 0.0 if convention == "published" and pixels else math.nan
    iou = np.divide(hits, union, out=np.full(len(hits), absent), where=union > 0)
    accuracy = np.divide(hits, truth, out=np.full(len(hits), absent), where=truth > 0)
    return {
        "mIoU": float(np.nanmean(iou)) if pixels else math.nan,
        "mAcc": float(np.nanmean(accuracy)) if pixels else math.nan,
        "allAcc": float(hits.sum() / pixels) if pixels else math.nan,
        "iou": iou.tolist(),
        "pixels": pixels,
    }


def class_totals(counts: Tensor) -> Tensor:
    """What IoU needs of confusion counts ``[..., K, K]``: int64 ``[..., 3, K]``, a class's hits, row and column sum."""
    return torch.stack([counts.diagonal(dim1=-2, dim2=-1), counts.sum(-1), counts.sum(-2)], dim=-2)


def mean_iou(totals: np.ndarray, convention: Literal["present", "published"] = "present") -> float:
    """mIoU from :func:`class_totals` ``[3, K]``, as :func:`scores` gives it for the counts themselves."""
    hits, rows, columns = totals
    union = rows + columns - hits
    if not union.any():
        return math.nan
    iou = hits[union > 0] / union[union > 0]
    return float(iou.mean() if convention == "present" else iou.sum() / len(union))


class TemporalConsistency:
    """TC: mIoU between the prediction of a frame and that of the next one warped back, over all pairs.

    The warped map plays the part of the target: it makes the rows of ``counts``.

    ``"strict"`` (the figure to quote): nearest warp, ``floor(x + u + 0.5)``. Not counted: pixels whose source
    lies outside the frame; 255 in either map; occluded pixels, where a backward flow b, sampled bilinearly,
    gives ``|f(x) + b(x + f)|^2 > 0.01 (|f|^2 + |b|^2) + 0.5``. Averages over the classes that occur.

    ``"published"`` (only to compare with published numbers): ids are warped bilinearly in the arithmetic of
    the published CUDA kernel, borders clamped, and truncated to uint8, which invents classes. Only ids
    outside 0..K-1 are dropped; ``backward_flow`` and ``valid`` play no part. Averages over all K classes.

    Args:
        num_classes: K, 1..255.
        protocol: one of the two.
        boundary_band: strict only. Count a pixel only where a pixel of another class lies within
            ``max(1, round(boundary_band * image diagonal))`` of it along both axes (the distance of Boundary
            IoU, Cheng et al., CVPR 2021), in frame t or in the warped map. A pixel that is not counted has no
            class here either. 0.005 is usual.

    Source: Liu et al., ECCV 2020, temporal consistency.
    """

    def __init__(
        self,
        num_classes: int,
        protocol: Literal["strict", "published"] = "strict",
        boundary_band: float | None = None,
    ) -> None:
        require_classes(num_classes, limit=255)
        require_choice("protocol", protocol, ("strict", "published"))
        if boundary_band is not None and (protocol != "strict" or not 0 < boundary_band <= 1):
            raise ValueError(f"boundary_band {boundary_band}: expected 0 < share <= 1, strict protocol")
        self.num_classes, self.protocol, self.boundary_band = num_classes, protocol, boundary_band
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(
        self,
        pred_t: Labels,
        pred_next: Labels,
        flow: Tensor | np.ndarray,
        backward_flow: Tensor | np.ndarray | None = None,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        """Adds one pair of frames, or a batch of pairs; everything moves to the device of ``pred_t``.

        Args:
            pred_t: ids of frame t, integer ``[..., H, W]``.
            pred_next: ids of frame t+1, same shape.
            flow: from t to t+1, float pixels ``[..., 2, H, W]``, x (right) first.
            backward_flow: from t+1 to t, same shape.
            valid: bool ``[..., H, W]``, pixels of t known to be visible in t+1; the others are not counted.

        Raises:
            ValueError: sizes differ, a dtype is wrong, a flow is not finite, or an id is illegal: outside
                0..K-1 and not 255 (strict), outside 0..255 (published). Nothing is counted then.
        """
        k, strict = self.num_classes, self.protocol == "strict"
        first = as_ids(pred_t, "pred_t", k if strict else 256)
        second = as_ids(pred_next, "pred_next", k if strict else 256, like=first)
        flow = as_flow(flow, "flow", like=first)
        if not strict:
            for ids, following, forward in zip(first, second, flow, strict=True):
                self.counts += self._compare(warp_published(following, forward), ids)
            return
        backward = as_flow(backward_flow, "backward_flow", like=first)
        visible = as_mask(valid, "valid", like=first)
        for ids, following, forward, back, seen in zip(first, second, flow, backward, visible, strict=True):
            (warped,) = labels_along([following], [forward], [back], uncounted=k)
            self.counts += self._compare(warped if seen is None else uncount(warped, ~seen, k), ids)

    def _compare(self, warped: Tensor, ids: Tensor) -> Tensor:
        k = self.num_classes
        warped, ids = warped.clamp(max=k), ids.clamp(max=k)  # k: not counted
        if self.boundary_band is not None:
            reach = max(1, round(self.boundary_band * math.hypot(*ids.shape)))
            band = boundary_band(ids, reach, k) | boundary_band(warped, reach, k)
            warped = uncount(warped, ~band, k)
        return joint_counts(warped, ids, k)[:k, :k].cpu()

    def merge(self, other: "TemporalConsistency") -> "TemporalConsistency":
        """Adds the counts of ``other``; returns self. ValueError when the two measure different things."""
        require_same(self, other, ("num_classes", "protocol", "boundary_band"))
        self.counts += other.counts
        return self

    def compute(self) -> dict[str, float | int | list[float]]:
        """The ``scores`` of the pooled counts, in the convention of the protocol."""
        return scores(self.counts, "present" if self.protocol == "strict" else "published")


def bootstrap_interval(
    per_clip_counts: Tensor | np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic of pooled counts, over clips drawn with replacement.

    Args:
        per_clip_counts: integers ``[n, ...]``, the ``counts`` of each of n clips.
        statistic: pooled counts (int64 ``[...]``) to a figure, e.g. ``mean_iou`` of ``class_totals``.
        samples: how many times n clips are drawn.
        level: share of the drawn figures that the interval holds.
        seed: the same seed gives the same interval.

    Returns:
        (low, high). Draws whose figure is NaN are left out. (NaN, NaN) for fewer than two clips, which tell
        nothing about the spread.

    Raises:
        ValueError: ``samples`` or ``level`` is out of range.

    Source: Efron, Annals of Statistics 1979.
    """
    figures = [statistic(counts) for counts in _resampled(per_clip_counts, samples, seed)]
    return _percentiles(figures, level)


def bootstrap_difference(
    per_clip_a: Tensor | np.ndarray,
    per_clip_b: Tensor | np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of ``statistic(b) - statistic(a)`` for two systems on the same clips.

    Each draw takes the same clips of both, so what the clips have in common cancels. Arguments and result as
    for ``bootstrap_interval``; ValueError also when the two differ in shape.
    """
    if per_clip_a.shape != per_clip_b.shape:
        shapes = f"{list(per_clip_a.shape)} and per_clip_b {list(per_clip_b.shape)}"
        raise ValueError(f"per_clip_a {shapes} differ in shape")
    pairs = zip(
        _resampled(per_clip_a, samples, seed), _resampled(per_clip_b, samples, seed), strict=True
    )  # one seed: the same draws
    return _percentiles([statistic(b) - statistic(a) for a, b in pairs], level)


def _resampled(per_clip: Tensor | np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Pooled counts of n clips drawn from n, ``samples`` times; none at all for fewer than two clips."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    counts = per_clip.cpu().numpy() if isinstance(per_clip, Tensor) else per_clip
    clips = len(counts)
    if clips < 2:
        return
    flat = counts.reshape(clips, -1).astype(np.int64)
    for drawn in np.random.default_rng(seed).integers(0, clips, (samples, clips)):
        yield (np.bincount(drawn, minlength=clips) @ flat).reshape(counts.shape[1:])


def _percentiles(figures: list[float], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    known = [figure for figure in figures if not math.isnan(figure)]
    if not known:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _foreign_to_k(ids: Tensor, num_classes: int) -> Tensor:
    if ids.dtype == torch.uint8 and num_classes <= 255:
        return ids.clamp(max=num_classes)
    ids = ids.to(torch.int64)
    return ids.masked_fill((ids < 0) | (ids >= num_classes), num_classes)
