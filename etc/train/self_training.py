"""Pseudo labels made during training by the frozen initial network."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from etc.data.labels import IGNORE
from etc.errors import UserError

logger = logging.getLogger(__name__)

_LOOKED_AT = 10  # calls, after which the share of labelled pixels is judged
_FEW = 0.01  # share of the pixels


class PseudoLabeler:
    """Labels from the prediction of a frozen network, where its confidence exceeds a threshold (self-training).

    Without a confident pixel there would be no segmentation loss, and no word of it: the share of labelled pixels is
    counted on the device, read back after the first and the tenth call, and a share below 1 % is warned of.

    Args:
        network: the network; it is frozen and put into evaluation mode.
        threshold: pixels whose highest class probability does not exceed it get no label (255), 0..1.
        alone: whether no frame has a label of its own; then a first call that labels nothing is an error.

    Source: Lee, "Pseudo-Label", ICML workshop 2013.
    """

    def __init__(self, network: nn.Module, threshold: float, *, alone: bool = False) -> None:
        self.network = network.eval().requires_grad_(False)
        self.threshold, self.alone = threshold, alone
        self._calls = 0
        self._counted: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Pseudo labels of crops, normalised RGB, float ``[N, 3, H, W]`` -> int64 ``[N, H, W]``; padding is 255.

        Raises:
            UserError: the first call labels nothing, and there are no other labels.
        """
        logits = self.network(image.contiguous(memory_format=torch.channels_last)).float()
        confidence, label = logits.softmax(1).max(1)
        # Padding is 0 in all channels, which no real pixel is (etc.data.transform.crop_image).
        padding = (image == 0).all(1)
        unsure = confidence <= self.threshold
        if self._calls < _LOOKED_AT:
            self._count(confidence, unsure, padding)
        return label.masked_fill(unsure | padding, IGNORE)

    def _count(self, confidence: Tensor, unsure: Tensor, padding: Tensor) -> None:
        self._calls += 1
        surest = confidence.masked_fill(padding, 0).max()
        self._counted.append(torch.stack([(~unsure & ~padding).sum(), (~padding).sum(), surest]))
        if self._calls not in (1, _LOOKED_AT):
            return
        counted = torch.stack(self._counted)
        labelled, pixels, surest_of_all = *counted[:, :2].sum(0).tolist(), counted[:, 2].max().item()
        said = (
            f"TRAIN.self_training {self.threshold:g} labels {labelled / max(1, pixels):.2%} of the pixels of the first "
            f"{'batch' if self._calls == 1 else f'{self._calls} batches'}, the surest of which has a confidence of "
            f"{surest_of_all:.2f}: lower it, or check that TRAIN.weight is trained for these classes and frames and "
            "that the network returns logits, not probabilities"
        )
        if self._calls == 1 and self.alone and labelled == 0 and pixels > 0:
            raise UserError(said)
        if self._calls == _LOOKED_AT:
            self._counted.clear()
            if labelled < _FEW * pixels:
                logger.warning(said)
