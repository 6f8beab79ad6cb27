"""Pseudo labels made during training by the frozen initial network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etc.data.labels import IGNORE


class PseudoLabeler:
    """Labels from the prediction of a frozen network, where its confidence exceeds a threshold (self-training).

    Args:
        network: the network; it is frozen and put into evaluation mode.
        threshold: pixels whose highest class probability does not exceed it get no label (255), 0..1.

    Source: Lee, "Pseudo-Label", ICML workshop 2013.
    """

    def __init__(self, network: nn.Module, threshold: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Pseudo labels of crops, normalised RGB, float ``[N, 3, H, W]`` -> int64 ``[N, H, W]``; padding is 255."""
        logits = self.network(image.contiguous(memory_format=torch.channels_last)).float()
        confidence, label = logits.softmax(1).max(1)
        # Padding is 0 in all channels, which no real pixel is (etc.data.transform.crop_image).
        return label.masked_fill((confidence <= self.threshold) | (image == 0).all(1), IGNORE)
