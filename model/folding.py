"""Batch norm for prediction: folded into the convolution before it, or written over that one's output."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.pspnet import PSPNet


def fold_batch_norm(network: nn.Module) -> int:
    """Put each batch norm that directly follows a convolution into that one's weights, in place.

    Only pairs whose order is certain are folded: neighbours in an ``nn.Sequential``, and ``conv1, bn1`` and so on of
    torchvision's ResNet blocks. Outputs change by rounding; the network can be trained no more.

    Args:
        network: in eval mode.

    Returns:
        How many were folded.

    Raises:
        ValueError: the network is in training mode, in which batch norm is no fixed function.
    """
    if network.training:
        raise ValueError("batch norm can be folded in eval mode alone")
    pairs = _conv_norm_pairs(network)
    for parent, first, second in pairs:
        setattr(parent, first, fuse_conv_bn_eval(getattr(parent, first), getattr(parent, second)))
        setattr(parent, second, nn.Identity())
    return len(pairs)


def normalise_in_place(network: nn.Module) -> int:
    """Let each batch norm of PSPNet that follows a convolution write over that one's output on the CPU.

    Outputs are the same bits. The largest map of the network is then in memory once instead of twice, and no time is
    spent on getting the memory. Networks of others are left alone: they may read the output of the convolution again.

    Args:
        network: a PSPNet, or a network that contains some; where gradients are computed or several types are mixed,
            its batch norms work as before.

    Returns:
        How many batch norms were replaced.
    """
    pairs = [pair for part in network.modules() if isinstance(part, PSPNet) for pair in _conv_norm_pairs(part)]
    for parent, _, second in pairs:
        norm = getattr(parent, second)
        in_place = _BatchNormInPlace(norm.num_features, norm.eps, norm.momentum, device="meta")
        in_place.load_state_dict(norm.state_dict(), assign=True)
        setattr(parent, second, in_place.train(norm.training))
    return len(pairs)


class _BatchNormInPlace(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != self.weight.dtype:
            return super().forward(x)
        unused = x.new_empty(0), x.new_empty(0)
        torch.native_batch_norm(
            *(x, self.weight, self.bias, self.running_mean, self.running_var),
            *(False, 0.0, self.eps),
            out=(x, *unused),
        )
        return x


def _conv_norm_pairs(network: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """The module that holds a convolution and its batch norm, and their names in it."""
    return [
        (parent, first, second)
        for parent in network.modules()
        for first, second in _neighbours(parent)
        if isinstance(getattr(parent, first), nn.Conv2d)
        and type(norm := getattr(parent, second)) is nn.BatchNorm2d
        and norm.running_mean is not None
    ]


def _neighbours(parent: nn.Module) -> list[tuple[str, str]]:
    """Names of submodules of which the second one reads what the first one returns, and nothing else does."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    if isinstance(parent, nn.Sequential):
        return list(pairwise(name for name, _ in parent.named_children()))
    if isinstance(parent, BasicBlock | Bottleneck):
        return [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(parent, f"conv{i}")]
    return []
