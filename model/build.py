"""Networks by name, and their learning rates."""

from __future__ import annotations

from os import PathLike
from typing import Any

from torch import nn

from model.base import SegmentationNetwork
from model.checkpoint import check_finite, read_weights
from model.external import DEEPLABS, deeplabv3, imported, lraspp
from model.libraries import from_smp, from_timm, from_transformers
from model.own_source import is_own_code
from model.pspnet import PSPNet
from model.pyramid import mobile
from model.weights import fetch

PSPNETS = {"psp18": 18, "psp50": 50, "psp101": 101, "psp152": 152}
ARCHITECTURES = (
    *PSPNETS,
    "mobile",
    "lraspp",
    *DEEPLABS,
    "timm:<name>",
    "timm:<name>@8",
    "timm:<name>@16",
    "timm:<name>@32",
    "timm:<name>@segformer",
    "transformers:segformer_<b0 to b5>",
    "smp:<Architecture>/<encoder>",
    "package.module:factory",
)


def build_model(
    arch: str,
    *,
    classes: int,
    pretrained: bool = False,
    weights: str | PathLike[str] | None = None,
    dropout: float = 0.1,
    aux: bool = True,
    pad_to: int | None = None,
) -> SegmentationNetwork:
    """A segmentation network by name.

    Every network gives ``outputs(image)`` in evaluation mode too, so that any of them can be a teacher. ``fea`` is
    among them for ``psp*``, ``mobile`` and ``timm:*``, and for a network of one's own that returns it; the others have
    logits alone. Images are padded to the multiple that a network of a library or of one's own needs (timm's swin 4,
    its hrnet 32).

    Args:
        arch: one of ``ARCHITECTURES``: ``psp18`` to ``psp152``; ``mobile``, MobileNetV2 with the heads of
            PSPNet; ``lraspp`` and ``deeplabv3_*`` of torchvision; ``timm:<name>``, a timm encoder with the
            heads of PSPNet at output stride 8 where timm can dilate it, ``@8``, ``@16`` or ``@32`` behind it for that
            stride and no other, ``@segformer`` for the head of SegFormer on its last four maps;
            ``transformers:segformer_b0`` to ``_b5``; ``smp:<Architecture>/<encoder>`` of
            segmentation_models_pytorch; or ``package.module:factory``, where ``factory(classes=...)`` makes a
            module that returns logits or a dict with ``logits`` or ``out``.
        classes: number of classes.
        pretrained: start the backbone from ImageNet weights.
        weights: a file of ImageNet weights for the backbone of a ``psp*``; 50, 101 and 152 have no others
            (semseg's, with a deep stem). Or one for the encoder of a ``timm:<name>``: timm's own, or those of
            :mod:`model.efficientnet_lite`.
        dropout: probability with which PSPNet's heads drop a channel in training.
        aux: whether to add the auxiliary head, where the network knows one.
        pad_to: the multiple that images are padded to for a network of a library other than torchvision, or of one's
            own; ``None``: found by trying.

    Raises:
        ValueError: unknown ``arch``, or its library is missing; weights asked for that do not exist or do not fit.
        FileNotFoundError: no file at ``weights``.
        WeightsUnavailable: the download failed (an OSError).
    """
    if weights is not None and arch not in PSPNETS and not arch.startswith("timm:"):
        raise ValueError(f"weights is for {', '.join(PSPNETS)} and timm:<name>, arch {arch!r} takes no file")
    if pad_to is not None and (arch in (*PSPNETS, "mobile", "lraspp") or arch in DEEPLABS):
        raise ValueError(f"pad_to is not for arch {arch!r}, which takes images of any size")
    if arch in PSPNETS:
        network = PSPNet(layers=PSPNETS[arch], classes=classes, dropout=dropout, aux=aux)
        start_backbone(network, arch, pretrained=pretrained, weights=weights)
        return network
    if arch == "mobile":
        return mobile(classes=classes, pretrained=pretrained, dropout=dropout, aux=aux)
    if arch == "lraspp":
        return lraspp(classes=classes, pretrained=pretrained)
    if arch in DEEPLABS:
        return deeplabv3(arch, classes=classes, pretrained=pretrained, aux=aux)
    if is_own_code(arch):
        if pretrained:
            raise ValueError(f"pretrained is not for arch {arch!r}: its factory decides how it starts")
        return imported(arch, classes=classes, pad_to=pad_to)
    if ":" in arch:
        return of_library(
            arch, classes, pretrained=pretrained, weights=weights, dropout=dropout, aux=aux, pad_to=pad_to
        )
    raise ValueError(f"arch {arch!r} is unknown, expected one of {', '.join(ARCHITECTURES)}")


def of_library(
    arch: str,
    classes: int,
    *,
    pretrained: bool,
    weights: str | PathLike[str] | None,
    dropout: float,
    aux: bool,
    pad_to: int | None,
) -> SegmentationNetwork:
    """:func:`build_model` for a name of :data:`model.own_source.LIBRARIES`."""
    library, _, name = arch.partition(":")
    if library == "transformers":
        return from_transformers(name, classes=classes, pretrained=pretrained, pad_to=pad_to)
    if library == "smp":
        return from_smp(name, classes=classes, pretrained=pretrained, pad_to=pad_to)
    tensors = None
    if weights is not None:
        tensors = read_weights(weights).tensors
        check_finite(tensors, weights)
    return from_timm(
        name, classes=classes, pretrained=pretrained, weights=tensors, dropout=dropout, aux=aux, pad_to=pad_to
    )


def start_backbone(network: PSPNet, arch: str, *, pretrained: bool, weights: str | PathLike[str] | None) -> None:
    if weights is not None:
        tensors = read_weights(weights).tensors
        check_finite(tensors, weights)
        network.load_backbone(tensors)
    elif pretrained and arch == "psp18":
        network.load_backbone(fetch("ResNet18_Weights.IMAGENET1K_V1"))
    elif pretrained:
        raise ValueError(
            f"{arch} has a deep stem that torchvision has no ImageNet weights for: give the file as weights "
            "(semseg's resnet50_v2.pth and alike), or set pretrained to false"
        )


def parameter_groups(model: nn.Module, base_lr: float) -> list[dict[str, Any]]:
    """Optimizer groups: the backbone at ``base_lr``, the layers new to the network at ten times that.

    A network names its new layers in ``new_layers``; where it names none, all of it learns at ``base_lr``.
    Frozen parameters are left out.
    """
    new_layers = tuple(f"{name}." for name in getattr(model, "new_layers", ()))
    backbone: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (new if name.startswith(new_layers) else backbone).append(parameter)
    groups = [{"params": backbone, "lr": base_lr}, {"params": new, "lr": 10 * base_lr}]
    return [group for group in groups if group["params"]]
