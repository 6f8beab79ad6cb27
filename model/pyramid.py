"""The heads of PSPNet on other encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from model.base import SegmentationNetwork
from model.padding import pad_to_multiple, without_padding
from model.pspnet import PyramidPooling, check_size, segmentation_head
from model.weights import fetch


class PyramidNetwork(SegmentationNetwork):
    """An encoder with pyramid pooling and the two heads of PSPNet.

    Args:
        encoder: image ``[N, 3, H, W]`` -> a middle and a deep feature map.
        channels: channels of these two.
        classes: number of classes.
        dropout: probability with which the heads drop a channel in training.
        bins: grids of the pyramid pooling.
        aux: whether there is an auxiliary head on the middle map (``"dsn"``).
        pad_to: images are padded to multiples of it.
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
        pad_to: int = 1,
    ) -> None:
        super().__init__()
        check_size(classes=classes, dropout=dropout)
        middle, deep = channels
        self.encoder = encoder
        self.pad_to = pad_to
        self.ppm = PyramidPooling(channels=deep, reduced=deep // len(bins), bins=bins)
        self.cls = segmentation_head(channels=self.ppm.out_channels, hidden=256, classes=classes, dropout=dropout)
        self.aux = None
        if aux:
            self.aux = segmentation_head(channels=middle, hidden=256, classes=classes, dropout=dropout)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        padded = pad_to_multiple(image, self.pad_to)
        middle, deep = self.encoder(padded)
        fea = self.ppm(deep)
        outputs = {"logits": self.cls(fea), "fea": fea}
        if self.training and self.aux is not None:
            outputs["dsn"] = self.aux(middle)
        return without_padding(outputs, padded, image)


class MobileNetEncoder(nn.Module):
    """MobileNetV2 without its classifier, dilated to an output stride of 8: 96 and 320 channels."""

    channels = (96, 320)

    def __init__(self) -> None:
        from torchvision.models import mobilenet_v2

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
        weights = fetch("MobileNet_V2_Weights.IMAGENET1K_V1")
        own = encoder.state_dict()
        encoder.load_state_dict({key: value for key, value in weights.items() if key in own})
    return PyramidNetwork(encoder=encoder, channels=encoder.channels, classes=classes, dropout=dropout, aux=aux)
