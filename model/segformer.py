"""The head of SegFormer on any encoder with several feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.base import SegmentationNetwork
from model.padding import pad_to_multiple, without_padding
from model.pspnet import check_size


class SegformerHead(nn.Module):
    """Every map at the size of the first, with the same number of channels, and fused by a 1x1 convolution.

    Args:
        channels: of the maps, from the finest to the coarsest.
        hidden: channels of each map and of the fused one.

    Source: Xie et al., SegFormer, NeurIPS 2021; ``linear_c``, ``linear_fuse`` and ``batch_norm`` of transformers.
    """

    def __init__(self, *, channels: Sequence[int], hidden: int = 256) -> None:
        super().__init__()
        self.linear_c = nn.ModuleList(nn.Conv2d(count, hidden, 1) for count in channels)
        self.linear_fuse = nn.Conv2d(len(channels) * hidden, hidden, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(hidden)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``[N, channels[i], h_i, w_i]`` -> the fused map ``[N, hidden, h_0, w_0]``."""
        size = maps[0].shape[-2:]
        same = [
            F.interpolate(linear(x), size=size, mode="bilinear", align_corners=False)
            for linear, x in zip(self.linear_c, maps, strict=True)
        ]
        return F.relu(self.batch_norm(self.linear_fuse(torch.cat(same[::-1], dim=1))))


class SegformerNetwork(SegmentationNetwork):
    """An encoder with the head of SegFormer; logits at the resolution of the encoder's finest map.

    Args:
        encoder: image ``[N, 3, H, W]`` -> feature maps.
        channels: of these maps.
        classes: number of classes.
        dropout: probability with which the head drops a channel in training.
        pad_to: images are padded to multiples of it.
    """

    new_layers = ("head", "classifier")

    def __init__(
        self, *, encoder: nn.Module, channels: Sequence[int], classes: int, dropout: float = 0.1, pad_to: int = 1
    ) -> None:
        super().__init__()
        check_size(classes=classes, dropout=dropout)
        self.encoder = encoder
        self.pad_to = pad_to
        self.head = SegformerHead(channels=channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(self.head.batch_norm.num_features, classes, 1)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        padded = pad_to_multiple(image, self.pad_to)
        fea = self.head(self.encoder(padded))
        return without_padding({"logits": self.classifier(self.dropout(fea)), "fea": fea}, padded, image)
