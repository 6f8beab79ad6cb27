"""Networks of torchvision, and any importable network, with the outputs of the toolkit's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torchvision.models import (
    MobileNet_V3_Large_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    WeightsEnum,
    segmentation,
)

from model.base import SegmentationNetwork, normalisation_error
from model.pspnet import check_size
from model.repository import Repository, find
from model.weights import fetch

DEEPLABS: dict[str, tuple[Callable[..., nn.Module], WeightsEnum]] = {
    "deeplabv3_resnet50": (segmentation.deeplabv3_resnet50, ResNet50_Weights.IMAGENET1K_V1),
    "deeplabv3_resnet101": (segmentation.deeplabv3_resnet101, ResNet101_Weights.IMAGENET1K_V1),
    "deeplabv3_mobilenet_v3_large": (
        segmentation.deeplabv3_mobilenet_v3_large,
        MobileNet_V3_Large_Weights.IMAGENET1K_V1,
    ),
}


class ExternalNetwork(SegmentationNetwork):
    """A network that returns logits, or a dict with ``logits`` or ``out``.

    Of a dict, ``dsn`` and ``fea`` are passed on. State dicts hold the network's own keys, without a prefix.

    Args:
        network: the network.
        classes: number of channels that its logits must have.
        aux: name under which it returns the logits of an auxiliary head.
        new_layers: names of its submodules that learn faster.
        home: the repository that its code comes from, whose modules it may import late; ``None``: none.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        aux: str = "dsn",
        new_layers: tuple[str, ...] = (),
        home: Repository | None = None,
    ) -> None:
        super().__init__()
        self.home = home
        self.network = network
        self.classes = classes
        self.aux = aux
        self.new_layers = tuple(f"network.{name}" for name in new_layers)
        self.register_state_dict_post_hook(drop_prefix)
        self.register_load_state_dict_pre_hook(add_prefix)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        try:
            with self.home.active() if self.home else nullcontext():
                returned = self.network(image)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise normalisation_error(image) from error
            raise
        found = returned if isinstance(returned, Mapping) else {"logits": returned}
        logits = found.get("logits", found.get("out"))
        if not isinstance(logits, Tensor) or logits.dim() != 4 or logits.shape[1] != self.classes:
            raise ValueError(
                f"{type(self.network).__name__} returned {describe(returned)}, expected logits "
                f"[N, {self.classes}, H, W] or a dict with them as 'logits' or 'out'"
            )
        outputs = {"logits": logits}
        if "fea" in found:
            outputs["fea"] = found["fea"]
        if self.training and self.aux in found:
            outputs["dsn"] = found[self.aux]
        return outputs


def describe(returned: Any) -> str:
    if isinstance(returned, Tensor):
        return f"a tensor {tuple(returned.shape)}"
    if isinstance(returned, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in returned.items()) + "}"
    return f"a {type(returned).__name__}"


def drop_prefix(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}network.")]:
        state[prefix + key.removeprefix(f"{prefix}network.")] = state.pop(key)


def add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}network.{key.removeprefix(prefix)}"] = state.pop(key)


def deeplabv3(name: str, *, classes: int, pretrained: bool, aux: bool) -> ExternalNetwork:
    """torchvision's DeepLabv3; its logits have the size of the image."""
    check_size(classes=classes)
    make, weights = DEEPLABS[name]
    network = make(weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
    if pretrained:
        load_backbone(network.get_submodule("backbone"), weights)
    return ExternalNetwork(network, classes=classes, aux="aux", new_layers=("classifier", "aux_classifier"))


def lraspp(*, classes: int, pretrained: bool) -> ExternalNetwork:
    """torchvision's Lite R-ASPP on MobileNetV3 large; its logits have the size of the image."""
    check_size(classes=classes)
    network = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
    if pretrained:
        load_backbone(network.get_submodule("backbone"), MobileNet_V3_Large_Weights.IMAGENET1K_V1)
    return ExternalNetwork(network, classes=classes, new_layers=("classifier",))


def load_backbone(backbone: nn.Module, weights: WeightsEnum) -> None:
    """Loads ImageNet weights into a backbone, whose keys are a subset of the classification network's."""
    own = backbone.state_dict()
    state = {key.removeprefix("features."): value for key, value in fetch(weights).items()}
    backbone.load_state_dict({key: value for key, value in state.items() if key in own})


def imported(arch: str, *, classes: int) -> SegmentationNetwork:
    """Anybody's network: ``"package.module:factory"``, where ``factory(classes=...)`` makes it.

    With a folder before it, ``"path/to/repository:package.module:factory"``, its modules are imported apart from all
    others (:mod:`model.repository`). The submodules named in its attribute ``new_layers``, if it has one, get ten times
    the learning rate.

    Raises:
        ValueError: nothing to import there, not callable with ``classes``, or what it returns is no ``nn.Module``.
    """
    try:
        home, factory = find(arch)
    except ValueError as error:
        raise ValueError(f"arch {arch!r}: {error}") from error.__cause__ or error
    if not callable(factory):
        raise ValueError(f"arch {arch!r} is a {type(factory).__name__}, expected a function of classes")
    try:
        inspect.signature(factory).bind(classes=classes)
    except TypeError as error:
        raise ValueError(f"arch {arch!r} cannot be called with classes={classes}: {error}") from error
    with home.active() if home else nullcontext():
        network = factory(classes=classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"arch {arch!r} made a {type(network).__name__}, expected a torch.nn.Module")
    if isinstance(network, SegmentationNetwork):
        return network
    return ExternalNetwork(network, classes=classes, new_layers=tuple(getattr(network, "new_layers", ())), home=home)
