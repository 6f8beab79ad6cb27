"""Consistency over more than two frames: video consistency (VC) and the flicker rate."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from etc.metrics.checks import (
    IGNORE,
    Labels,
    as_clip,
    as_flow,
    as_ids,
    as_mask,
    require_choice,
    require_classes,
    require_same,
)
from etc.metrics.warping import warp_labels


class VideoConsistency:
    """VC_n: of the pixels whose truth is constant over n frames, the share whose prediction is constant too.

    The figure is the mean over all windows of all clips; a window without a pixel of constant truth is left
    out. A pixel labelled 255 in any frame of the window is not counted; a prediction of 255 is never
    consistent.

    ``"vspw"`` is what the VSPW script computes: windows start at 0..T-n-1, which leaves out the last one, so
    a clip needs T > n frames. ``"correct"`` uses all T-n+1 windows and wants the prediction constant and
    right. A shorter clip adds no window.

    ``counts`` is ``[sum of the windows' shares in units of 2**-40, number of windows]``: as integers, the
    figure does not depend on the order in which clips were added.

    Args:
        num_classes: K, 1..255.
        window: n, 2..254.
        definition: one of the two.

    Source: Miao et al., VSPW, CVPR 2021.
    """

    def __init__(self, num_classes: int, window: int, definition: Literal["vspw", "correct"] = "vspw") -> None:
        require_classes(num_classes, limit=255)
        require_choice("definition", definition, ("vspw", "correct"))
        if not 2 <= window <= 254:
            raise ValueError(f"window must be 2..254 frames, got {window}")
        self.num_classes, self.window, self.definition = num_classes, window, definition
        self.counts = torch.zeros(2, dtype=torch.int64, device="cpu")

    @property
    def overlap(self) -> int:
        """Frames that the next chunk must repeat where a long clip is added in chunks: each window counts once."""
        return self.window - (self.definition == "correct")  # "vspw" leaves out the last window of what it is given

    def update(self, preds: Labels, targets: Labels) -> None:
        """Adds one clip: predicted and true ids of its frames in order, integer ``[T, H, W]`` each.

        Raises ValueError when the shapes differ, for a batch of clips, or when an id is neither in 0..K-1 nor 255.
        """
        preds = as_clip(preds, "preds", self.num_classes)
        targets = as_clip(targets, "targets", self.num_classes, like=preds)
        constant = self.definition == "vspw"
        # for how many frames, up to the present one, truth and prediction have been what is asked of them
        truth_run, pred_run = torch.zeros(2, *preds.shape[1:], dtype=torch.uint8, device=preds.device)
        for i in range(len(preds) - constant):
            pred, target, before = preds[i], targets[i], max(i - 1, 0)
            truth_run.mul_(target == targets[before]).add_(1).clamp_(max=self.window).mul_(target != IGNORE)
            if constant:
                pred_run.mul_(pred == preds[before])
            pred_run.add_(1).clamp_(max=self.window).mul_(pred != IGNORE if constant else pred == target)
            if i + 1 >= self.window:
                counted = truth_run == self.window
                consistent = counted & (pred_run == self.window)
                self._add_window(int(consistent.count_nonzero()), int(counted.count_nonzero()))

    def _add_window(self, consistent: int, counted: int) -> None:
        if counted:
            self.counts += torch.tensor([round(consistent / counted * 2**40), 1], device="cpu")

    def merge(self, other: "VideoConsistency") -> "VideoConsistency":
        """Adds the windows of ``other``; returns self. ValueError when the two measure different things."""
        require_same(self, other, ("num_classes", "window", "definition"))
        self.counts += other.counts
        return self

    def compute(self) -> float:
        """The mean share in [0, 1], NaN without a window."""
        shares, windows = self.counts.tolist()
        return shares / 2**40 / windows if windows else math.nan


class FlickerRate:
    """Share of pixels whose label, followed along the flow over three frames, goes a, b, a with b not a.

    Pixel x of the first frame moves to ``x1 = x + flow_ab(x)`` and ``x2 = x1 + flow_bc(x1)``, where flow_bc
    is sampled bilinearly at the continuous x1; labels are read at the nearest pixel. Not counted: paths that
    leave the frame at x1 or x2, 255 in any of the three labels, and steps that fail the occlusion check
    against a backward flow (the one of ``TemporalConsistency``).

    ``counts`` is ``[flickering, counted]`` pixels.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64, device="cpu")

    def update(
        self,
        pred_a: Labels,
        pred_b: Labels,
        pred_c: Labels,
        flow_ab: Tensor | np.ndarray,
        flow_bc: Tensor | np.ndarray,
        backward_ab: Tensor | np.ndarray | None = None,
        backward_bc: Tensor | np.ndarray | None = None,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        """Adds three consecutive frames a, b, c, or a batch of such triples.

        Args:
            pred_a, pred_b, pred_c: ids, integer ``[..., H, W]``, 0..254, or 255 for no label.
            flow_ab, flow_bc: forward flows, float pixels ``[..., 2, H, W]``.
            backward_ab, backward_bc: the flows b -> a and c -> b; each switches on the check of its step.
            valid: bool ``[..., H, W]``, pixels of frame a known to be visible in b and c.

        Raises:
            ValueError: sizes differ, a dtype is wrong, an id lies outside 0..255, or a flow is not finite.
        """
        first = as_ids(pred_a, "pred_a", 255)
        second, third = as_ids(pred_b, "pred_b", 255, first), as_ids(pred_c, "pred_c", 255, first)
        flows = as_flow(flow_ab, "flow_ab", first), as_flow(flow_bc, "flow_bc", first)
        checks = as_flow(backward_ab, "backward_ab", first), as_flow(backward_bc, "backward_bc", first)
        visible = as_mask(valid, "valid", first)
        for i, a in enumerate(first):
            b, c = warp_labels([second[i], third[i]], [f[i] for f in flows], [f[i] for f in checks], ignore=IGNORE)
            counted = torch.maximum(torch.maximum(a, b), c) != IGNORE  # the largest id
            seen = visible[i]
            if seen is not None:
                counted &= seen
            flickers = counted & (a == c) & (a != b)
            # The sum of a bool map takes many times as long.
            self.counts += torch.stack([torch.count_nonzero(flickers), torch.count_nonzero(counted)]).cpu()

    def merge(self, other: "FlickerRate") -> "FlickerRate":
        """Adds the counts of ``other``; returns self."""
        self.counts += other.counts
        return self

    def compute(self) -> float:
        """The share in [0, 1], NaN when no pixel was counted."""
        flickers, counted = self.counts.tolist()
        return flickers / counted if counted else math.nan
