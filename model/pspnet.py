"""PSPNet on dilated ResNets (Zhao et al., CVPR 2017), key for key as the published checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.base import SegmentationNetwork, normalisation_error, resize

if TYPE_CHECKING:
    from torchvision.models import resnet

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

# the deep-stem backbones' ImageNet files name the stem's layers as attributes, PSPNet numbers them
STEM_NAMES = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4", "conv3": "6", "bn3": "7"}


class PyramidPooling(nn.Module):
    """Adds the context of the whole image, pooled to several grids, to every position.

    Args:
        channels: channels of the input.
        reduced: channels that each grid contributes.
        bins: side of each grid.

    Shape: ``[N, channels, h, w]`` -> ``[N, channels + reduced * len(bins), h, w]``.
    """

    def __init__(self, *, channels: int, reduced: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = channels + reduced * len(bins)
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(side),
                nn.Conv2d(channels, reduced, kernel_size=1, bias=False),
                nn.BatchNorm2d(reduced),
                nn.ReLU(inplace=True),
            )
            for side in bins
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1 and any(needs_two_images(pool) for pool in self.features):
            raise normalisation_error(x)
        # One part of another type or layout would make the whole result so: autocast interpolates in float32, and a
        # grid of one position has no layout of its own.
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        grids = (resize(pool(x), x.shape[-2:]).to(x.dtype) for pool in self.features)
        return torch.cat([x, *(grid.contiguous(memory_format=layout) for grid in grids)], dim=1)


def needs_two_images(pool: nn.Module) -> bool:
    """Whether a grid is one value per image, and its batch norm neither frozen nor synchronised."""
    return (
        isinstance(pool, nn.Sequential)
        and isinstance(pool[0], nn.AdaptiveAvgPool2d)
        and pool[0].output_size == 1
        and isinstance(pool[2], nn.BatchNorm2d)
        and pool[2].training
    )


def segmentation_head(*, channels: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    """3x3 conv, batch norm, ReLU, dropout of whole channels, 1x1 conv: ``[N, channels, h, w]`` -> logits."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(inplace=True),
        nn.Dropout2d(p=dropout),
        nn.Conv2d(hidden, classes, kernel_size=1),
    )


class PSPNet(SegmentationNetwork):
    """PSPNet with output stride 8.

    Args:
        layers: depth of the ResNet: 18 (torchvision's), 50, 101 or 152 (three 3x3 convs as the stem).
        classes: number of classes.
        dropout: probability with which the heads drop a channel in training.
        bins: grids of the pyramid pooling.
        aux: whether there is an auxiliary head on ``layer3`` (``"dsn"``).

    Shape: image ``[N, 3, H, W]`` of any size from about 32x32. In training a dict of ``"logits"`` and
    ``"dsn"`` ``[N, classes, ceil(H/8), ceil(W/8)]`` and ``"fea"`` ``[N, 1024, ...]`` (18) or
    ``[N, 4096, ...]``; in evaluation the logits ``[N, classes, H, W]``.

    Raises:
        ValueError: no such depth; or a training batch of one image, which the 1x1 bin cannot normalise.
    """

    new_layers = ("ppm", "cls", "aux")

    def __init__(
        self,
        *,
        layers: int = 18,
        classes: int,
        dropout: float = 0.1,
        bins: Sequence[int] = (1, 2, 3, 6),
        aux: bool = True,
    ) -> None:
        super().__init__()
        check_size(classes=classes, dropout=dropout)
        if not bins:
            raise ValueError("bins is empty: the pyramid pooling needs at least one grid")
        backbone = dilated_resnet(layers)
        self.layer0 = backbone.get_submodule("layer0")
        self.layer1, self.layer2 = backbone.layer1, backbone.layer2
        self.layer3, self.layer4 = backbone.layer3, backbone.layer4
        deep = layers != 18
        middle, channels = (1024, 2048) if deep else (256, 512)
        self.ppm = PyramidPooling(channels=channels, reduced=channels // len(bins), bins=bins)
        self.cls = segmentation_head(
            channels=self.ppm.out_channels, hidden=512 if deep else 256, classes=classes, dropout=dropout
        )
        self.aux = None
        if aux:
            self.aux = segmentation_head(channels=middle, hidden=256, classes=classes, dropout=dropout)

    def outputs(self, image: Tensor) -> dict[str, Tensor]:
        x = self.layer3(self.layer2(self.layer1(self.layer0(image))))
        middle = x if self.training and self.aux is not None else None  # else layer3's output is free after layer4
        x = self.layer4(x)
        fea = self.ppm(x)
        outputs = {"logits": self.cls(fea), "fea": fea}
        if middle is not None and self.aux is not None:
            outputs["dsn"] = self.aux(middle)
        return outputs

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Starts the backbone from ImageNet weights, keyed as in torchvision (18) or semseg (50, 101, 152).

        Raises:
            ValueError: a tensor of the backbone is absent or has another shape.
        """
        renamed = {}
        for key, value in state.items():
            layer, _, rest = key.partition(".")
            renamed[f"layer0.{STEM_NAMES[layer]}.{rest}" if layer in STEM_NAMES else key] = value
        own = {key: value for key, value in self.state_dict().items() if key.startswith("layer")}
        wrong = [
            key
            for key, value in own.items()
            if not key.endswith("num_batches_tracked")  # absent from old files, and of no effect
            and (key not in renamed or renamed[key].shape != value.shape)
        ]
        if wrong:
            raise ValueError(
                f"the ImageNet weights do not fit: {len(wrong)} of the backbone's {len(own)} tensors are "
                f"absent or of another shape, first {', '.join(wrong[:3])}"
            )
        self.load_state_dict({key: renamed[key] for key in own if key in renamed}, strict=False)


def check_size(*, classes: int, dropout: float = 0.0) -> None:
    if classes < 1:
        raise ValueError(f"classes is {classes}, expected at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, expected 0 <= dropout < 1")


def dilated_resnet(layers: int) -> resnet.ResNet:
    """A ResNet cut into ``layer0`` (stem) ... ``layer4``, with output stride 8.

    Raises:
        ValueError: ``layers`` is not 18, 50, 101 or 152.
    """
    from torchvision.models import resnet

    if layers not in BLOCKS:
        raise ValueError(f"layers is {layers}, expected one of {', '.join(map(str, BLOCKS))}")
    block = resnet.BasicBlock if layers == 18 else resnet.Bottleneck
    net = resnet.ResNet(block, list(BLOCKS[layers]))
    stem = [net.conv1, net.bn1, net.relu] if layers == 18 else deep_stem(net)
    net.add_module("layer0", nn.Sequential(*stem, net.maxpool))
    for stage, dilation in ((net.layer3, 2), (net.layer4, 4)):
        for name, module in stage.named_modules():
            if name.endswith("conv2"):
                module.stride, module.dilation, module.padding = (1, 1), (dilation,) * 2, (dilation,) * 2
            elif name.endswith(("conv1", "downsample.0")):
                module.stride = (1, 1)
    return net


def deep_stem(net: resnet.ResNet) -> list[nn.Module]:
    """semseg's stem of three 3x3 convs; it ends in 128 channels, so ``net.layer1`` is widened in place."""

    def conv(channels: int, out: int, side: int, stride: int = 1) -> nn.Conv2d:
        module = nn.Conv2d(channels, out, side, stride=stride, padding=side // 2, bias=False)
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return module

    first = net.layer1[0]
    first.conv1 = conv(128, first.conv1.out_channels, 1)
    first.downsample[0] = conv(128, first.downsample[0].out_channels, 1)
    stem: list[nn.Module] = []
    for channels, out, stride in ((3, 64, 2), (64, 64, 1), (64, 128, 1)):
        stem += [conv(channels, out, 3, stride), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return stem
