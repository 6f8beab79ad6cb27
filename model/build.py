"""Networks by name, their ImageNet start, and their learning rates."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, WeightsEnum

from model.base import SegmentationNetwork
from model.checkpoint import read_weights
from model.pspnet import PSPNet

PSPNETS = {"psp18": 18, "psp50": 50, "psp101": 101, "psp152": 152}


class WeightsUnavailable(OSError):
    """ImageNet weights could not be fetched; the message says where to put the file by hand."""


def build_model(
    arch: str,
    *,
    classes: int,
    pretrained: bool = False,
    weights: str | PathLike[str] | None = None,
    dropout: float = 0.1,
    aux: bool = True,
) -> SegmentationNetwork:
    """A segmentation network by name.

    Args:
        arch: ``psp18``, ``psp50``, ``psp101`` or ``psp152``.
        classes: number of classes.
        pretrained: start the backbone from ImageNet weights, torchvision's where there are any.
        weights: a file of ImageNet weights to use instead (``psp*`` alone; semseg's for 50, 101 and 152).
        dropout: probability with which the heads drop a channel in training.
        aux: whether to add the auxiliary head, where the network knows one.

    Raises:
        ValueError: unknown ``arch``; weights asked for that do not exist or do not fit.
        FileNotFoundError: no file at ``weights``.
        WeightsUnavailable: the download failed.
    """
    if arch not in PSPNETS:
        raise ValueError(f"arch {arch!r} is unknown, expected one of {', '.join(PSPNETS)}")
    network = PSPNet(layers=PSPNETS[arch], classes=classes, dropout=dropout, aux=aux)
    if weights is not None:
        network.load_backbone(read_weights(weights))
    elif pretrained and arch == "psp18":
        network.load_backbone(fetch(ResNet18_Weights.IMAGENET1K_V1))
    elif pretrained:
        raise ValueError(
            f"{arch} has a deep stem that torchvision has no ImageNet weights for: give the file as weights "
            "(semseg's resnet50_v2.pth and alike), or set pretrained to false"
        )
    return network


def fetch(weights: WeightsEnum) -> dict[str, Any]:
    """torchvision's weights, from its cache folder or else the network.

    Raises:
        WeightsUnavailable: the download failed.
    """
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise unavailable(weights, error) from error


def unavailable(weights: WeightsEnum, error: Exception) -> WeightsUnavailable:
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    return WeightsUnavailable(
        f"cannot download the ImageNet weights ({error}): place {weights.url} at {place}, "
        "or set pretrained to false"
    )


def parameter_groups(model: nn.Module, base_lr: float) -> list[dict[str, Any]]:
    """Optimizer groups: the backbone at ``base_lr``, the layers new to the network at ten times that.

    A network names its new layers in ``new_layers``; where it names none, all of it learns at ``base_lr``.
    Frozen parameters are left out.
    """
    new_layers = tuple(f"{name}." for name in getattr(model, "new_layers", ()))
    backbone, new = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.startswith(new_layers) else backbone).append(parameter)
    groups = [{"params": backbone, "lr": base_lr}, {"params": new, "lr": 10 * base_lr}]
    return [group for group in groups if group["params"]]
