"""Flow between two frames together with the pixels that are visible in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from etc.flow.build import FlowSource
from etc.metrics.warping import agreeing_pixels, visible_pixels


class VisibleFlow:
    """The flow of a source, and which pixels of frame t are visible in frame k.

    The data set's own flow files say so themselves; for an estimator the flow k -> t must agree (the forward-backward
    check of :func:`etc.metrics.warping.visible_pixels`).
    """

    def __init__(self, source: FlowSource) -> None:
        self.source = source

    def __call__(self, path_t: Path, path_k: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Flow t -> k, float32 ``[2, H, W]``, and visible, bool ``[H, W]``; ``shape`` is the frames' height and width.

        Raises:
            UserError: as the source.
        """
        pair = self.source.checked(path_t, path_k, shape)
        if pair.visible is None:  # there is no flow back, and reading it says which file is missing
            return pair.forward, visible_pixels(pair.forward, self.source(path_k, path_t, shape)).numpy()
        return pair.forward, pair.visible


def visible_in_pairs(flow: Tensor, backward_flow: Tensor) -> Tensor:
    """The forward-backward check for a batch: float32 flows ``[N, 2, H, W]``, pixels -> bool ``[N, 1, H, W]``.

    Made for training steps: it does not look whether the flow is finite, which would wait for the device.
    """
    pairs = zip(flow, backward_flow, strict=True)
    return torch.stack([agreeing_pixels(forward, backward)[None] for forward, backward in pairs])
