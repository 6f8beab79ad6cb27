"""Batch norm folded into the convolutions before it, for prediction."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
    count = 0
    for parent in network.modules():
        for first, second in _neighbours(parent):
            conv, norm = getattr(parent, first), getattr(parent, second)
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None:
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, nn.Identity())
                count += 1
    return count


def _neighbours(parent: nn.Module) -> list[tuple[str, str]]:
    """Names of submodules of which the second one reads what the first one returns, and nothing else does."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    if isinstance(parent, nn.Sequential):
        return list(pairwise(name for name, _ in parent.named_children()))
    if isinstance(parent, BasicBlock | Bottleneck):
        return [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if hasattr(parent, f"conv{i}")]
    return []
