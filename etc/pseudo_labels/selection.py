"""Which labels of a teacher to keep: by confidence, with one threshold or one per class, and by agreement in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from etc.errors import UserError
from etc.metrics.warping import warp_labels

# Confidence p is counted in steps of its uncertainty: most p are so close to 1 that steps of p itself could not
# separate them.
STEPS = 256  # per halving of 1 - p
LEVELS = 24 * STEPS + 1  # the smallest uncertainty of a float32 probability is 2**-24


class Choice(NamedTuple):
    """Which labels are kept.

    Attributes:
        threshold: the least confidence, in [0, 1); ``None`` where a share is kept.
        keep_share: the share of each class's pixels to keep, the most confident ones, in (0, 1].
        temporal: keep only what a neighbouring frame confirms along the flow.
    """

    threshold: float | None = None
    keep_share: float | None = None
    temporal: bool = False

    def check(self) -> None:
        """Raises UserError: not one of the two rules, or a value out of range."""
        if (self.threshold is None) == (self.keep_share is None):
            raise UserError("give either --threshold or --keep-share")
        if self.threshold is not None and not 0 <= self.threshold < 1:
            raise UserError(f"--threshold {self.threshold}: expected 0 <= T < 1")
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise UserError(f"--keep-share {self.keep_share}: expected 0 < S <= 1")


class Neighbour(NamedTuple):
    """What is known of a frame k that neighbours frame t.

    Attributes:
        ids: its train ids, uint8 ``[H, W]``.
        forward: flow t -> k, float32 ``[2, H, W]``.
        backward: flow k -> t, by which occluded pixels are found.
        visible: bool ``[H, W]``, the pixels of t known to be visible in k.
    """

    ids: Tensor
    forward: Tensor
    backward: Tensor | None = None
    visible: Tensor | None = None


def confidence_levels(uncertainty: Tensor) -> Tensor:
    """Confidence levels, int64 0..``LEVELS`` - 1, most confident last, of uncertainties 1 - p in [0, 1], any shape."""
    halvings = -torch.log2(uncertainty.clamp(min=2.0**-24))
    return (halvings * STEPS).to(torch.int64).clamp_(0, LEVELS - 1)


def confidence_thresholds(histogram: Tensor, choice: Choice) -> Tensor:
    """The lowest level that is kept of each class, int64 ``[K]``.

    With ``keep_share`` it is the highest level at or above which at least that share of the class's pixels lies, as in
    class-balanced self-training (Zou et al., ECCV 2018); a class without pixels gets 0.

    Args:
        histogram: pixels of each class at each level, int64 ``[K, LEVELS]``.
        choice: a threshold is rounded up to the next level, which is at most 0.3% of 1 - T away.
    """
    if choice.threshold is not None:
        level = math.ceil(-math.log2(1 - choice.threshold) * STEPS)
        return torch.full((len(histogram),), min(level, LEVELS - 1))
    if choice.keep_share is None:
        raise ValueError("a choice of labels needs either a threshold or a share to keep")
    at_least = histogram.flip(1).cumsum(1).flip(1)
    # float64 and a little less: 7% of 100 pixels are 7, not the 8 above 7.000000000000001
    wanted = (histogram.sum(1, keepdim=True).double() * choice.keep_share - 1e-6).ceil()
    # at_least falls with the level: the number of levels that hold enough pixels is one more than the last of them.
    return (at_least >= wanted.clamp(min=1)).sum(1).sub_(1).clamp_(min=0)


def temporally_consistent(ids: Tensor, neighbours: Sequence[Neighbour], classes: int) -> Tensor:
    """Where at least one neighbouring frame shows the same class along the flow, and none another one.

    Args:
        ids: train ids of frame t, uint8 ``[H, W]``.
        neighbours: the frames beside it.
        classes: number of classes K.

    Returns:
        bool ``[H, W]``. A neighbour says nothing about pixels that leave its frame or are occluded in it.
    """
    agreed, denied = (torch.zeros_like(ids, dtype=torch.bool) for _ in range(2))
    for other in neighbours:
        warped = warp_labels([other.ids], [other.forward], [other.backward], ignore=classes)[0]
        seen = warped != classes
        if other.visible is not None:
            seen &= other.visible
        agreed |= seen & (warped == ids)
        denied |= seen & (warped != ids)
    return agreed & ~denied
