"""Several trained networks of one architecture that predict together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from model.base import SegmentationNetwork


class Ensemble(SegmentationNetwork):
    """The mean of the logits of its members; it has no features to distil from.

    Args:
        members: one or more networks with the same classes and the same size of their logits.

    Attributes:
        weights_sha256: of each member's checkpoint, in their order, joined by ``+``.
    """

    def __init__(self, members: Sequence[SegmentationNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        known = [member.weights_sha256 for member in members if member.weights_sha256 is not None]
        self.weights_sha256 = "+".join(known) if len(known) == len(members) else None

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        logits = [cast(SegmentationNetwork, member).outputs(image)["logits"] for member in self.members]
        return {"logits": torch.stack(logits).mean(0)}


def together(networks: Sequence[SegmentationNetwork]) -> SegmentationNetwork:
    """The network itself where it is the only one, else the :class:`Ensemble` of all."""
    return networks[0] if len(networks) == 1 else Ensemble(networks)
