"""Confidence intervals over clips drawn with replacement.

A clip in which nothing was counted, one without labels for mIoU say, tells nothing about the spread: it is left out
before the first draw, or the others would be drawn as if there were more of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor


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
        statistic: pooled counts (int64 ``[...]``) to a figure, e.g. ``mean_iou`` of ``iou_counts``.
        samples: how many times n clips are drawn.
        level: share of the drawn figures that the interval holds.
        seed: the same seed gives the same interval.

    Returns:
        (low, high). Draws whose figure is NaN are left out. (NaN, NaN) for fewer than two clips with counts, which
        tell nothing about the spread.

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
    both = np.stack([_array(per_clip_a), _array(per_clip_b)], axis=1)
    return _percentiles([statistic(b) - statistic(a) for a, b in _resampled(both, samples, seed)], level)


def nested_interval(
    per_seed_a: Sequence[np.ndarray],
    per_seed_b: Sequence[np.ndarray],
    statistic: Callable[[np.ndarray, np.ndarray], float],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a comparison of two systems that were trained with the same seeds and scored on the same clips.

    Each draw takes seeds with replacement, and for each of them clips with replacement, the same ones of both systems;
    its figure is the mean over the seeds drawn. So the interval holds what another training and other clips may change.

    Args:
        per_seed_a: counts of the first system's clips, integers ``[n, ...]``, one entry per seed.
        per_seed_b: those of the second, same seeds, same clips.
        statistic: pooled counts of both (int64 ``[...]``) to a figure, a difference or a ratio.
        samples: number of draws.
        level: share of the drawn figures that the interval holds.
        seed: of the draws.

    Returns:
        (low, high). Draws whose figure is NaN are left out. (NaN, NaN) for fewer than two clips with counts.

    Raises:
        ValueError: no seeds, or systems of different seeds or shapes.

    Source: Davison and Hinkley, Bootstrap Methods, 1997, section 3.8 (resampling at both levels).
    """
    shapes = [{counts.shape for counts in per_seed} for per_seed in (per_seed_a, per_seed_b)]
    if len(per_seed_a) != len(per_seed_b) or len(shapes[0] | shapes[1]) != 1:
        raise ValueError("both systems need the same seeds and the same clips")
    counts = np.stack([np.stack(per_seed_a), np.stack(per_seed_b)]).astype(np.int64)  # [2, seeds, n, ...]
    counts = counts[:, :, parts_with_counts(np.moveaxis(counts, 2, 0))]
    seeds, clips = len(counts[0]), len(counts[0, 0])
    if clips < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    figures = []
    for _ in range(samples):
        drawn = []
        for which in rng.integers(0, seeds, size=(seeds,)):
            weights = np.bincount(rng.integers(0, clips, clips), minlength=clips)
            drawn.append(statistic(*(np.tensordot(weights, each[which], 1) for each in counts)))
        figures.append(float(np.mean(drawn)))
    return _percentiles(figures, level)


def parts_with_counts(per_clip: Tensor | np.ndarray) -> np.ndarray:
    """bool ``[n]``: the clips, of counts ``[n, ...]``, in which anything was counted."""
    counts = _array(per_clip)
    return np.asarray(counts.reshape(len(counts), -1).any(1))


def _array(counts: Tensor | np.ndarray) -> np.ndarray:
    return counts.cpu().numpy() if isinstance(counts, Tensor) else counts


def _resampled(per_clip: Tensor | np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Pooled counts of n clips drawn from n, ``samples`` times; none at all for fewer than two clips with counts."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    counts = _array(per_clip)
    counts = counts[parts_with_counts(counts)]
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
