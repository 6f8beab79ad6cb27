"""The four networks that the FlowNet2 family stacks, under NVIDIA's parameter names.

Each returns its finest flow at a quarter of the input size (the fusion network: at full size), in the units
that its weights were trained in.
"""

import torch
from torch import Tensor, nn

from flownet.ops.correlation import Correlation


def _conv(channels_in: int, channels_out: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size, stride, (kernel_size - 1) // 2),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _inter_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, 1, 1))


def _deconv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True))


def _predict_flow(channels_in: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, 2, 3, 1, 1)


def _upsampled_flow(bias: bool = True) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=bias)


class _Decoder(nn.Module):
    """Coarse to fine: at each level the flow and the features from below join the encoder's of that level."""

    def _decode(self, features: Tensor, skips: dict[int, Tensor]) -> Tensor:
        """Flow at the finest level.

        Args:
            features: output of the encoder, one level coarser than the first of ``skips``.
            skips: encoder features by level, coarse to fine.
        """
        flow = self._part("predict_flow", max(skips) + 1)(features)
        for level, skip in skips.items():
            flow_up = getattr(self, f"upsampled_flow{level + 1}_to_{level}")(flow)
            features = torch.cat((skip, self._part("deconv", level)(features), flow_up), 1)
            # SD and fusion predict from smoothed features, while the next level still reads the raw ones
            smooth = self._part("inter_conv", level) if hasattr(self, f"inter_conv{level}") else nn.Identity()
            flow = self._part("predict_flow", level)(smooth(features))
        return flow

    def _part(self, name: str, level: int) -> nn.Module:
        return getattr(self, f"{name}{level}")


class _Pyramid(_Decoder):
    """What C, S and SD have in common: the encoder from conv4 on, and the decoder."""

    def __init__(self, *, upsampling_bias: bool = True, inter_conv: bool = False) -> None:
        super().__init__()
        self.conv4 = _conv(256, 512, stride=2)
        self.conv4_1 = _conv(512, 512)
        self.conv5 = _conv(512, 512, stride=2)
        self.conv5_1 = _conv(512, 512)
        self.conv6 = _conv(512, 1024, stride=2)
        self.conv6_1 = _conv(1024, 1024)
        channels = 1024
        self.predict_flow6 = _predict_flow(channels)
        for level, skip, width in ((5, 512, 512), (4, 512, 256), (3, 256, 128), (2, 128, 64)):
            self.add_module(f"deconv{level}", _deconv(channels, width))
            self.add_module(f"upsampled_flow{level + 1}_to_{level}", _upsampled_flow(upsampling_bias))
            channels = skip + width + 2
            if inter_conv:
                self.add_module(f"inter_conv{level}", _inter_conv(channels, width))
            self.add_module(f"predict_flow{level}", _predict_flow(width if inter_conv else channels))

    def _encode_and_decode(self, conv2: Tensor, conv3_1: Tensor) -> Tensor:
        conv4 = self.conv4_1(self.conv4(conv3_1))
        conv5 = self.conv5_1(self.conv5(conv4))
        conv6 = self.conv6_1(self.conv6(conv5))
        return self._decode(conv6, {5: conv5, 4: conv4, 3: conv3_1, 2: conv2})


class FlowNetC(_Pyramid):
    """Two images through one encoder, correlated at an eighth of their size.

    ``forward(x1, x2)``: float ``[N, 3, H, W]`` each, sides divisible by 64 -> ``[N, 2, H/4, W/4]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, 2)
        self.conv2 = _conv(64, 128, 5, 2)
        self.conv3 = _conv(128, 256, 5, 2)
        self.conv_redir = _conv(256, 32, 1)
        self.corr = Correlation(pad_size=20, kernel_size=1, max_displacement=20, stride1=1, stride2=2)
        self.corr_activation = nn.LeakyReLU(0.1, inplace=True)
        self.conv3_1 = _conv(32 + 441, 256)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        conv2 = self.conv2(self.conv1(x1))
        conv3, conv3_second = self.conv3(conv2), self.conv3(self.conv2(self.conv1(x2)))
        correlated = self.corr_activation(self.corr(conv3, conv3_second))
        conv3_1 = self.conv3_1(torch.cat((self.conv_redir(conv3), correlated), 1))
        return self._encode_and_decode(conv2, conv3_1)


class FlowNetS(_Pyramid):
    """Everything stacked into one input.

    ``forward(x)``: float ``[N, channels_in, H, W]``, sides divisible by 64 -> ``[N, 2, H/4, W/4]``.
    """

    def __init__(self, channels_in: int = 12) -> None:
        # the published weights have no bias here, unlike those of the other networks
        super().__init__(upsampling_bias=False)
        self.conv1 = _conv(channels_in, 64, 7, 2)
        self.conv2 = _conv(64, 128, 5, 2)
        self.conv3 = _conv(128, 256, 5, 2)
        self.conv3_1 = _conv(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        conv2 = self.conv2(self.conv1(x))
        return self._encode_and_decode(conv2, self.conv3_1(self.conv3(conv2)))


class FlowNetSD(_Pyramid):
    """For small displacements: 3x3 kernels from full size on.

    ``forward(x)``: float ``[N, 6, H, W]``, sides divisible by 64 -> ``[N, 2, H/4, W/4]``.
    """

    def __init__(self) -> None:
        super().__init__(inter_conv=True)
        self.conv0 = _conv(6, 64)
        self.conv1 = _conv(64, 64, stride=2)
        self.conv1_1 = _conv(64, 128)
        self.conv2 = _conv(128, 128, stride=2)
        self.conv2_1 = _conv(128, 128)
        self.conv3 = _conv(128, 256, stride=2)
        self.conv3_1 = _conv(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        conv1 = self.conv1_1(self.conv1(self.conv0(x)))
        conv2 = self.conv2_1(self.conv2(conv1))
        return self._encode_and_decode(conv2, self.conv3_1(self.conv3(conv2)))


class FlowNetFusion(_Decoder):
    """Chooses between two flows by how well each explains the images.

    ``forward(x)``: float ``[N, 11, H, W]``, sides divisible by 4 -> ``[N, 2, H, W]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = _conv(11, 64)
        self.conv1 = _conv(64, 64, stride=2)
        self.conv1_1 = _conv(64, 128)
        self.conv2 = _conv(128, 128, stride=2)
        self.conv2_1 = _conv(128, 128)
        self.deconv1 = _deconv(128, 32)
        self.deconv0 = _deconv(128 + 32 + 2, 16)
        self.inter_conv1 = _inter_conv(128 + 32 + 2, 32)
        self.inter_conv0 = _inter_conv(64 + 16 + 2, 16)
        self.predict_flow2 = _predict_flow(128)
        self.predict_flow1 = _predict_flow(32)
        self.predict_flow0 = _predict_flow(16)
        self.upsampled_flow2_to_1 = _upsampled_flow()
        self.upsampled_flow1_to_0 = _upsampled_flow()

    def forward(self, x: Tensor) -> Tensor:
        conv0 = self.conv0(x)
        conv1 = self.conv1_1(self.conv1(conv0))
        return self._decode(self.conv2_1(self.conv2(conv1)), {1: conv1, 0: conv0})
