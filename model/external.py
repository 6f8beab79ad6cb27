"""Networks of torchvision, and any importable network, with the outputs of the toolkit's own."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from model.base import SegmentationNetwork, normalisation_error
from model.padding import needed_multiple, pad_to_multiple, without_padding
from model.pspnet import check_size
from model.repository import Repository, find, running
from model.weights import fetch

logger = logging.getLogger(__name__)

DEEPLABS = {  # the ImageNet weights of their backbones
    "deeplabv3_resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "deeplabv3_resnet101": "ResNet101_Weights.IMAGENET1K_V1",
    "deeplabv3_mobilenet_v3_large": "MobileNet_V3_Large_Weights.IMAGENET1K_V1",
}


class UnclearOutput(ValueError):
    """A network of the user's own returned something in which its logits cannot be found."""


class ExternalNetwork(SegmentationNetwork):
    """A network that returns logits, as such or among other things (:func:`named_outputs`).

    Of a dict, ``dsn`` and ``fea`` are passed on. State dicts hold the network's own keys, without a prefix.

    Args:
        network: the network.
        classes: number of channels that its logits must have.
        aux: name under which it returns the logits of an auxiliary head.
        new_layers: names of its submodules that learn faster.
        home: the repository that its code comes from, whose modules it may import late; ``None``: none.
        pad_to: images are padded to multiples of it, at the right and at the bottom, by repeating their border, and
            what it returns is cut to their size.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        aux: str = "dsn",
        new_layers: tuple[str, ...] = (),
        home: Repository | None = None,
        pad_to: int = 1,
    ) -> None:
        super().__init__()
        self.home = home
        self.pad_to = pad_to
        self.network = network
        self.classes = classes
        self.aux = aux
        self.new_layers = tuple(f"network.{name}" for name in new_layers)
        self.register_state_dict_post_hook(drop_prefix)
        self.register_load_state_dict_pre_hook(add_prefix)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        padded = pad_to_multiple(image, self.pad_to)
        try:
            with self.home.active() if self.home else nullcontext():
                returned = self.network(padded)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise normalisation_error(image) from error
            raise
        found = named_outputs(returned, self.classes)
        logits = found.get("logits", found.get("out"))
        if not isinstance(logits, Tensor) or logits.dim() != 4 or logits.shape[1] != self.classes:
            raise UnclearOutput(
                f"{type(self.network).__name__} returned {describe(returned)}, expected logits "
                f"[N, {self.classes}, H, W], or a dict or an object with them as 'logits' or 'out', or one such map in "
                "a tuple or a list"
            )
        outputs = {"logits": logits}
        fea, dsn = found.get("fea"), found.get(self.aux)
        if isinstance(fea, Tensor):
            outputs["fea"] = fea
        if self.training and isinstance(dsn, Tensor):
            outputs["dsn"] = dsn
        return without_padding(outputs, padded, image)


def named_outputs(returned: Any, classes: int) -> Mapping[str, Any]:
    """What a network returned, by name.

    Args:
        returned: logits; a mapping; a dataclass or another object with the attribute ``logits`` or ``out``; a tuple or
            a list with one map of ``classes`` channels.
        classes: number of classes.
    """
    if isinstance(returned, Mapping):
        return returned
    if isinstance(returned, Tensor):
        return {"logits": returned}
    names = [name for name in ("logits", "out", "dsn", "aux", "fea") if hasattr(returned, name)]
    if names:
        return {name: getattr(returned, name) for name in names}
    if isinstance(returned, tuple | list):
        maps = [x for x in returned if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] == classes]
        if len(maps) == 1:
            return {"logits": maps[0]}
    return {}


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
    from torchvision.models import segmentation

    check_size(classes=classes)
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=classes, aux_loss=aux)
    if pretrained:
        load_backbone(network.get_submodule("backbone"), DEEPLABS[name])
    return ExternalNetwork(network, classes=classes, aux="aux", new_layers=("classifier", "aux_classifier"))


def lraspp(*, classes: int, pretrained: bool) -> ExternalNetwork:
    """torchvision's Lite R-ASPP on MobileNetV3 large; its logits have the size of the image."""
    from torchvision.models import segmentation

    check_size(classes=classes)
    network = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
    if pretrained:
        load_backbone(network.get_submodule("backbone"), "MobileNet_V3_Large_Weights.IMAGENET1K_V1")
    return ExternalNetwork(network, classes=classes, new_layers=("classifier",))


def load_backbone(backbone: nn.Module, weights: str) -> None:
    """Loads ImageNet weights into a backbone, whose keys are a subset of the classification network's."""
    own = backbone.state_dict()
    state = {key.removeprefix("features."): value for key, value in fetch(weights).items()}
    backbone.load_state_dict({key: value for key, value in state.items() if key in own})


def imported(arch: str, *, classes: int, pad_to: int | None = None) -> SegmentationNetwork:
    """Anybody's network: ``"package.module:factory"``, where ``factory(classes=...)`` makes it.

    With a folder before it, ``"path/to/repository:package.module:factory"``, its modules are imported apart from all
    others (:mod:`model.repository`). The submodules named in its attribute ``new_layers``, if it has one, get ten times
    the learning rate.

    Args:
        arch: its name.
        classes: number of classes.
        pad_to: as of :class:`ExternalNetwork`; ``None``: found by trying.

    Raises:
        ValueError: nothing to import there, not callable with ``classes``, or what it returns is no ``nn.Module``.
    """
    try:
        home, factory = find(arch)
    except ValueError as error:
        raise ValueError(f"arch {arch!r}: {error}") from error.__cause__ or error
    try:
        inspect.signature(factory).bind(classes=classes)
    except TypeError as error:
        raise ValueError(
            f"arch {arch!r} cannot be called with classes={classes} ({error}): give it one required argument, classes"
        ) from error
    with running(home, f"arch {arch}"):
        network = factory(classes=classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"arch {arch!r} made a {type(network).__name__}, expected a torch.nn.Module")
    if isinstance(network, SegmentationNetwork):
        if pad_to is not None:
            raise ValueError(
                f"pad_to {pad_to} is not for arch {arch!r}: its factory makes a network that pads by itself"
            )
        return network
    if pad_to is None:
        pad_to = needed_multiple(network, home)
        if pad_to > 1:
            logger.info("%s takes images whose sides are multiples of %d: they are padded (TEST.pad_to)", arch, pad_to)
    new_layers = getattr(network, "new_layers", ())
    new_layers = (new_layers,) if isinstance(new_layers, str) else tuple(new_layers)
    parts = dict(network.named_modules())
    unknown = next((name for name in new_layers if name not in parts), None)
    if unknown is not None:
        raise ValueError(f"arch {arch!r}: its new_layers names {unknown!r}, which is none of its submodules")
    return ExternalNetwork(network, classes=classes, new_layers=new_layers, home=home, pad_to=pad_to)
