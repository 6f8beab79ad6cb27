"""A network that costs nothing, to measure what gen_video does besides."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

SIZE = (128, 256)  # of its logits: an eighth of 1024x2048
ARCH = f"{__name__}:make"


class FreeNetwork(nn.Module):
    """Returns the logits of its checkpoint, whatever the image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(1, classes, *SIZE))

    def forward(self, image: Tensor) -> Tensor:
        logits = self.get_buffer("logits")
        return logits.expand(len(image), *logits.shape[1:])


def make(classes: int) -> FreeNetwork:
    """The network; ``TRAIN.arch`` names this function."""
    return FreeNetwork(classes)


def weights_for(ids: np.ndarray, classes: int) -> dict[str, Any]:
    """Weights with which it predicts a label map: train ids, uint8 ``[H, W]``; 255 becomes class 0."""
    coarse = cv2.resize(np.where(ids < classes, ids, 0), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    one_hot = nn.functional.one_hot(torch.from_numpy(coarse).long(), classes)
    return {"logits": one_hot.permute(2, 0, 1)[None].float()}
