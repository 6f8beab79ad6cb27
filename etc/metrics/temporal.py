"""Temporal consistency: IoU between the prediction of a frame and that of the next one, warped along the flow."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from etc.metrics.checks import (
    Labels,
    as_flow,
    as_ids,
    as_mask,
    require_choice,
    require_classes,
    require_same,
)
from etc.metrics.iou import IouScores, iou_scores
from etc.metrics.published import warp_published
from etc.metrics.warping import boundary_band, ignore_where, joint_histogram, warp_labels


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
            IoU, Cheng et al., CVPR 2021), in frame t or in the warped map. In the warped map, a pixel that is not
            counted has no class here either. 0.005 is usual.

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
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device="cpu")

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
            (warped,) = warp_labels([following], [forward], [back], ignore=k)
            self.counts += self._compare(warped if seen is None else ignore_where(warped, ~seen, k), ids)

    def _compare(self, warped: Tensor, ids: Tensor) -> Tensor:
        k = self.num_classes
        warped, ids = warped.clamp(max=k), ids.clamp(max=k)  # k: not counted
        if self.boundary_band is not None:
            reach = max(1, round(self.boundary_band * math.hypot(*ids.shape)))
            band = boundary_band(ids, reach, k) | boundary_band(warped, reach, k)
            warped = ignore_where(warped, ~band, k)
        return joint_histogram(warped, ids, k)[:k, :k].cpu()

    def merge(self, other: "TemporalConsistency") -> "TemporalConsistency":
        """Adds the counts of ``other``; returns self. ValueError when the two measure different things."""
        require_same(self, other, ("num_classes", "protocol", "boundary_band"))
        self.counts += other.counts
        return self

    def compute(self) -> IouScores:
        """The ``iou_scores`` of the pooled counts, in the convention of the protocol."""
        return iou_scores(self.counts, "present" if self.protocol == "strict" else "published")
