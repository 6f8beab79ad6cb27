"""FlowNet2 and its published variants: two RGB frames in, flow in pixels out.

Source: Ilg et al., FlowNet 2.0, CVPR 2017; parameter names, constants and upsampling modes of the code that
the published weights belong to.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flownet.ops.channelnorm import channelnorm
from flownet.ops.resample2d import resample2d
from flownet.subnetworks import FlowNetC, FlowNetFusion, FlowNetS, FlowNetSD

# the networks were trained to predict the flow divided by this
DIV_FLOW = 20.0
# six halvings on the way down to conv6
STRIDE = 64

ResizeMode = Literal["scaled", "published"]


class _Frames:
    """From images of any size to what the networks take, and back: the same for all six of them."""

    def __init__(self, rgb_max: float, resize_mode: ResizeMode) -> None:
        if not rgb_max > 0:
            raise ValueError(f"rgb_max must be positive, got {rgb_max}")
        if resize_mode not in ("scaled", "published"):
            raise ValueError(f"resize_mode must be 'scaled' or 'published', got {resize_mode!r}")
        self.rgb_max = rgb_max
        self.resize_mode = resize_mode

    def flow(self, img1: Tensor, img2: Tensor, network: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        _check_images(img1, img2)
        height, width = img1.shape[2:]
        inner = (height // STRIDE * STRIDE, width // STRIDE * STRIDE)
        if inner == (height, width):
            return network(*self._normalise(img1, img2))
        flow = network(*self._normalise(_resize(img1, inner), _resize(img2, inner)))
        flow = _resize(flow, (height, width))
        if self.resize_mode == "published":
            return flow
        return torch.stack((flow[:, 0] * (width / inner[1]), flow[:, 1] * (height / inner[0])), 1)

    def _normalise(self, img1: Tensor, img2: Tensor) -> tuple[Tensor, Tensor]:
        mean = (img1.mean((2, 3), keepdim=True) + img2.mean((2, 3), keepdim=True)) / 2
        return (img1 - mean) / self.rgb_max, (img2 - mean) / self.rgb_max


def _check_images(img1: Tensor, img2: Tensor) -> None:
    if img1.ndim != 4 or img1.shape[1] != 3:
        raise ValueError(f"img1 must be RGB [N, 3, H, W], got {tuple(img1.shape)}")
    if img1.shape != img2.shape:
        raise ValueError(f"img1 {tuple(img1.shape)} and img2 {tuple(img2.shape)} differ in shape")
    for name, image in (("img1", img1), ("img2", img2)):
        if not image.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {image.dtype}")
    if img1.shape[2] < STRIDE or img1.shape[3] < STRIDE:
        raise ValueError(f"images must be at least {STRIDE} pixels high and wide, got {tuple(img1.shape[2:])}")


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _up4(flow: Tensor, mode: Literal["bilinear", "nearest"]) -> Tensor:
    # align_corners=False: the weights depend on it
    return F.interpolate(flow, scale_factor=4, mode=mode)


def _refinement_input(x1: Tensor, x2: Tensor, flow: Tensor) -> Tensor:
    """What a stacked FlowNetS sees of the flow so far, ``[N, 12, H, W]``."""
    warped = resample2d(x2, flow)
    return torch.cat((x1, x2, warped, flow / DIV_FLOW, channelnorm(x1 - warped)), 1)


class FlowNet2C(FlowNetC):
    """FlowNetC alone. Arguments and result as :class:`FlowNet2`."""

    def __init__(self, *, rgb_max: float = 255.0, resize_mode: ResizeMode = "scaled") -> None:
        super().__init__()
        self.frames = _Frames(rgb_max, resize_mode)

    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:
        return self.frames.flow(img1, img2, self._flow)

    def _flow(self, x1: Tensor, x2: Tensor) -> Tensor:
        return _up4(super().forward(x1, x2) * DIV_FLOW, "bilinear")


class FlowNet2S(FlowNetS):
    """FlowNetS alone. Arguments and result as :class:`FlowNet2`."""

    def __init__(self, *, rgb_max: float = 255.0, resize_mode: ResizeMode = "scaled") -> None:
        super().__init__(channels_in=6)
        self.frames = _Frames(rgb_max, resize_mode)

    # A subclass for the sake of the published keys, which have no prefix here; it is called with two images.
    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:  # type: ignore[override]
        return self.frames.flow(img1, img2, self._flow)

    def _flow(self, x1: Tensor, x2: Tensor) -> Tensor:
        return _up4(super().forward(torch.cat((x1, x2), 1)) * DIV_FLOW, "bilinear")


class FlowNet2SD(FlowNetSD):
    """FlowNetSD alone. Arguments and result as :class:`FlowNet2`."""

    def __init__(self, *, rgb_max: float = 255.0, resize_mode: ResizeMode = "scaled") -> None:
        super().__init__()
        self.frames = _Frames(rgb_max, resize_mode)

    # A subclass for the sake of the published keys, which have no prefix here; it is called with two images.
    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:  # type: ignore[override]
        return self.frames.flow(img1, img2, self._flow)

    def _flow(self, x1: Tensor, x2: Tensor) -> Tensor:
        return _up4(super().forward(torch.cat((x1, x2), 1)) * DIV_FLOW, "bilinear")


class FlowNet2CS(nn.Module):
    """FlowNetC refined by one FlowNetS. Arguments and result as :class:`FlowNet2`."""

    def __init__(self, *, rgb_max: float = 255.0, resize_mode: ResizeMode = "scaled") -> None:
        super().__init__()
        self.flownetc = FlowNetC()
        self.flownets_1 = FlowNetS()
        self.frames = _Frames(rgb_max, resize_mode)

    def forward(self, img1: Tensor, img2: Tensor) -> Tensor:
        return self.frames.flow(img1, img2, self._flow)

    def _flow(self, x1: Tensor, x2: Tensor) -> Tensor:
        flow_c = _up4(self.flownetc(x1, x2) * DIV_FLOW, "bilinear")
        return _up4(self.flownets_1(_refinement_input(x1, x2, flow_c)) * DIV_FLOW, "bilinear")


class FlowNet2CSS(FlowNet2CS):
    """FlowNetC refined by two FlowNetS. Arguments and result as :class:`FlowNet2`."""

    def __init__(self, *, rgb_max: float = 255.0, resize_mode: ResizeMode = "scaled") -> None:
        super().__init__(rgb_max=rgb_max, resize_mode=resize_mode)
        self.flownets_2 = FlowNetS()

    def _flow(self, x1: Tensor, x2: Tensor) -> Tensor:
        flow_s1 = super()._flow(x1, x2)
        return _up4(self.flownets_2(_refinement_input(x1, x2, flow_s1)) * DIV_FLOW, "nearest")


class FlowNet2(FlowNet2CSS):
    """The full network: CSS for large displacements, SD for small ones, and a fusion of the two.

    ``forward(img1, img2) -> flow``

    Args of ``forward``:
        img1: RGB frame t, float ``[N, 3, H, W]`` in 0..``rgb_max``, sides at least 64.
        img2: RGB frame k, same shape.

    Returns:
        flow from t to k, ``[N, 2, H, W]`` in pixels, channel 0 to the right and channel 1 down: the point
        ``(x, y)`` of frame t is found at ``(x + u, y + v)`` in frame k.

    Raises:
        ValueError: shapes differ, not RGB, not floating point, or a side below 64.

    Args of the constructor:
        rgb_max: the value of white.
        resize_mode: sides that 64 does not divide are resized down to a multiple, and the flow is resized
            back. ``"scaled"`` scales its vectors too; ``"published"`` does not, as in the code that published
            results come from, and so returns vectors that are too short.
    """

    def __init__(self, *, rgb_max: float = 255.0, resize_mode: ResizeMode = "scaled") -> None:
        super().__init__(rgb_max=rgb_max, resize_mode=resize_mode)
        self.flownets_d = FlowNetSD()
        self.flownetfusion = FlowNetFusion()

    def _flow(self, x1: Tensor, x2: Tensor) -> Tensor:
        flow_css = super()._flow(x1, x2)
        # divided, unlike in FlowNet2SD: this is how the weights of the whole were trained
        flow_sd = _up4(self.flownets_d(torch.cat((x1, x2), 1)) / DIV_FLOW, "nearest")
        flows = (flow_sd, flow_css)
        magnitudes = [channelnorm(flow) for flow in flows]
        errors = [channelnorm(x1 - resample2d(x2, flow)) for flow in flows]
        return self.flownetfusion(torch.cat((x1, *flows, *magnitudes, *errors), 1))
