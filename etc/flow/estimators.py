"""Optical flow estimators behind one interface: ``estimate(rgb_t, rgb_k)`` takes RGB in 0..255, gives pixels t -> k.

``etc/flow/cache.py`` builds on this: it knows frames by their files, and computes each pair once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etc.config.schema import FLOW_ESTIMATORS
from etc.data.transform import MEAN, STD
from etc.errors import UserError
from etc.flow.input_range import check_range
from etc.flow.own_estimator import imported_estimator
from etc.weights import how_to_get
from flownet import VARIANTS, load_flownet2
from model.checkpoint import check_finite, load_weights, read_checked, read_weights
from model.weights import check_cached

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

logger = logging.getLogger(__name__)


class FlowEstimator(Protocol):
    """What every estimator offers.

    Attributes:
        name: as given to :func:`build_flow`.
        key: name and identity of the weights; two estimators with equal keys give equal flow. An estimator of your own
            that has none gets one from its name and the source of its module (of its package, if it is in one).
    """

    name: str
    key: str

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """Flow from t to k, float32 ``[N, 2, H, W]`` in pixels; images float ``[N, 3, H, W]``, RGB 0..255.

        Raises:
            ValueError: the shapes differ or cannot be handled, or the values cannot be RGB in 0..255, see
                :func:`etc.flow.input_range.check_range`.
        """


def build_flow(
    name: str,
    *,
    weights: str | Path | None = None,
    preset: Literal["ultrafast", "fast", "medium"] = "medium",
    device: str | torch.device = "cpu",
    normalized: bool = False,
    scale: float = 1.0,
    check: bool = True,
) -> FlowEstimator:
    """Build an estimator.

    Args:
        name: one of ``etc.config.schema.FLOW_ESTIMATORS``, or ``package.module:factory`` (a function without
            arguments that returns an object with ``estimate``).
        weights: weight file; RAFT without one downloads torchvision's (hash-checked), FlowNet2 requires one.
        preset: speed and accuracy of ``dis``.
        device: where networks run.
        normalized: the published code's two mistakes: mean/std-normalised images instead of 0..255, and
            FlowNet2's vectors not scaled along when images are resized to multiples of 64.
        scale: in (0, 1]; images are reduced by it before the estimation, for those too large for the memory.
        check: whether the values of images are looked at (never where ``normalized``), which reads some back from their
            device; not needed where the toolkit itself has read the images.

    Raises:
        UserError: an unknown name, weights that are missing or do not fit, or a scale that cannot be used.
    """
    check = check and not normalized
    if name in CONSTRUCTORS:
        # Reduced images of a black frame hold fractions: ScaledFlow looks before it reduces.
        estimator = CONSTRUCTORS[name](name, _Options(weights, preset, device, normalized, check and scale == 1))
    elif ":" in name:
        estimator = imported_estimator(name, device)
        if weights is not None:
            logger.warning("FLOW.weights %s is not read: the factory of FLOW.name %s takes no arguments", weights, name)
    else:
        known = ", ".join(FLOW_ESTIMATORS)
        raise UserError(f"flow estimator {name!r} is none of {known}, and no package.module:factory of your own")
    if scale != 1:
        estimator = ScaledFlow(estimator, scale=scale, check=check)
    return NormalizedInput(estimator, device) if normalized else estimator


class DisFlow:
    """OpenCV's DIS optical flow: fast, on the CPU, no weights.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.
        check: whether the values of all images are looked at.
    """

    name = "dis"

    def __init__(self, *, preset: str = "medium", check: bool = True) -> None:
        if preset not in _PRESETS:
            raise UserError(f"dis has no preset {preset!r}: expected one of {', '.join(_PRESETS)}")
        self.check = check
        self.preset = _PRESETS[preset]
        self.key = f"dis-{preset}"

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """See :class:`FlowEstimator`; any size: sides are padded to at least 96."""
        _check_images(rgb_t, rgb_k, smallest=16)
        if self.check:
            check_range(rgb_t, rgb_k)
        height, width = rgb_t.shape[-2:]
        # OpenCV chooses the pyramid of smaller images by their width alone, and crashes on 16 x 300 pixels.
        pair = [_padded(x, max(96, height), max(96, width)) for x in (rgb_t, rgb_k)]
        # A new solver per call: OpenCV's holds buffers of the last size and is not safe between threads.
        solver = cv2.DISOpticalFlow.create(self.preset)
        flows = [
            solver.calc(_gray(t), _gray(k), None)  # type: ignore[call-overload]  # the stubs ask for an initial flow
            for t, k in zip(*pair, strict=True)
        ]
        flow = np.stack(flows)[:, :height, :width]
        return torch.from_numpy(flow).permute(0, 3, 1, 2).contiguous().to(rgb_t.device)


class RaftFlow:
    """RAFT of torchvision."""

    def __init__(
        self, name: str, *, weights: str | Path | None, device: str | torch.device, check: bool = True
    ) -> None:
        from torchvision.models import optical_flow

        default = {"raft_small": "Raft_Small_Weights", "raft_large": "Raft_Large_Weights"}[name]
        self.name = name
        self.check = check
        self.network = getattr(optical_flow, name)()
        if weights is None:
            source = getattr(optical_flow, default).DEFAULT
            self.network.load_state_dict(_download(name, source))
            self.key = f"{name}-{source.name.lower()}"
        else:
            self.key = f"{name}-{_load(self.network, name, weights)[:12]}"
        self.network.eval().requires_grad_(False)
        self.device = device

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """See :class:`FlowEstimator`; any size: both sides are padded to a multiple of 8, at least 128."""
        _check_images(rgb_t, rgb_k, smallest=16)
        if self.check:
            check_range(rgb_t, rgb_k)
        height, width = rgb_t.shape[-2:]
        size = [max(128, -(-side // 8) * 8) for side in (height, width)]
        pair = [_padded(x.float() / 127.5 - 1, *size) for x in (rgb_t, rgb_k)]
        # torchvision makes a small tensor in each of its updates and moves it: made there, it is not waited for.
        with torch.device(self.device):
            return _run(self.network, self.device, *pair)[-1][..., :height, :width].to(rgb_t.device)


class FlowNet2Flow:
    """FlowNet2 and its variants, with the published weights.

    Args:
        name: ``flownet2``, ``flownet2-c``, ``-s``, ``-sd``, ``-cs`` or ``-css``.
        weights: the published checkpoint.
        device: where it runs.
        resize_mode: see :class:`flownet.FlowNet2`.
        check: whether the values of all images are looked at.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None,
        device: str | torch.device,
        resize_mode: Literal["scaled", "published"],
        check: bool = True,
    ) -> None:
        if weights is None:
            raise UserError(f"FLOW.name {name} needs its weights in FLOW.weights. {how_to_get(name)}")
        try:
            file = read_checked(weights)
            self.network = load_flownet2(weights, data=file.data, variant=name, resize_mode=resize_mode)
            check_finite(self.network.state_dict(), weights)
        except FileNotFoundError as error:
            raise UserError(f"FLOW.weights: {weights} does not exist. {how_to_get(name)}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"FLOW.weights: {error}") from error
        self.name = name
        self.check = check
        self.key = f"{name}-{file.sha256[:12]}"
        self.network.requires_grad_(False)
        self.device = device

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """See :class:`FlowEstimator`; sides of at least 64."""
        _check_images(rgb_t, rgb_k, smallest=64)
        if self.check:
            check_range(rgb_t, rgb_k)
        return _run(self.network, self.device, rgb_t.float(), rgb_k.float()).to(rgb_t.device)


class ScaledFlow:
    """Estimates on reduced images: memory and time shrink with the square of ``scale``, small objects are lost.

    Args:
        estimator: the estimator that sees the reduced images.
        scale: above 0, at most 1.
        check: whether the values of all images are looked at.
    """

    def __init__(self, estimator: FlowEstimator, *, scale: float, check: bool = True) -> None:
        if not 0 < scale <= 1:
            raise UserError(f"FLOW.scale {scale} is not in (0, 1]")
        self.estimator, self.scale, self.check = estimator, scale, check
        self.name = estimator.name
        self.key = f"{estimator.key}-x{scale}"

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """See :class:`FlowEstimator`; the reduced images must be large enough for the estimator."""
        _check_images(rgb_t, rgb_k, smallest=1)
        if self.check:
            check_range(rgb_t, rgb_k)
        height, width = rgb_t.shape[-2:]
        size = [max(1, round(side * self.scale)) for side in (height, width)]
        pair = [F.interpolate(x.float(), size, mode="bilinear", antialias=True) for x in (rgb_t, rgb_k)]
        flow = F.interpolate(self.estimator.estimate(*pair), (height, width), mode="bilinear")
        # By the true ratio of each side: rounded sizes are not reduced by the scale exactly.
        return torch.stack([flow[:, 0] * (width / size[1]), flow[:, 1] * (height / size[0])], 1)


class NormalizedInput:
    """Feeds an estimator mean/std-normalised images: 58 times too little contrast, as published."""

    def __init__(self, estimator: FlowEstimator, device: str | torch.device = "cpu") -> None:
        self.estimator = estimator
        self.name = estimator.name
        self.key = f"{estimator.key}-normalized"
        self._statistics = [torch.from_numpy(x).view(1, 3, 1, 1).to(device) for x in (MEAN, STD)]

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        """See :class:`FlowEstimator`."""
        mean, std = (x.to(rgb_t.device) for x in self._statistics)
        return self.estimator.estimate((rgb_t - mean) / std, (rgb_k - mean) / std)


class _Options(NamedTuple):
    """What the settings say of the estimator, see :func:`build_flow`; each constructor takes what it needs."""

    weights: str | Path | None
    preset: str
    device: str | torch.device
    normalized: bool
    check: bool


def _dis(name: str, options: _Options) -> FlowEstimator:
    return DisFlow(preset=options.preset, check=options.check)


def _raft(name: str, options: _Options) -> FlowEstimator:
    return RaftFlow(name, weights=options.weights, device=options.device, check=options.check)


def _flownet2(name: str, options: _Options) -> FlowEstimator:
    resize_mode: Literal["scaled", "published"] = "published" if options.normalized else "scaled"
    return FlowNet2Flow(
        name, weights=options.weights, device=options.device, resize_mode=resize_mode, check=options.check
    )


CONSTRUCTORS: dict[str, Callable[[str, _Options], FlowEstimator]] = {
    "dis": _dis,
    "raft_small": _raft,
    "raft_large": _raft,
    **dict.fromkeys(VARIANTS, _flownet2),
}


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    """The image continued to the right and down by its border pixels."""
    return F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2]), mode="replicate")


def _gray(rgb: Tensor) -> np.ndarray:
    pixels = rgb.detach().clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def _check_images(rgb_t: Tensor, rgb_k: Tensor, *, smallest: int) -> None:
    if rgb_t.shape != rgb_k.shape or rgb_t.ndim != 4 or rgb_t.shape[1] != 3:
        raise ValueError(f"expected two [N, 3, H, W] images, got {tuple(rgb_t.shape)} and {tuple(rgb_k.shape)}")
    if min(rgb_t.shape[-2:]) < smallest:
        raise ValueError(f"images of {tuple(rgb_t.shape[-2:])} are too small for flow: {smallest} pixels at least")


def _load(network: nn.Module, name: str, path: str | Path) -> str:
    """Load a weight file, checked to be undamaged and finite; the file's SHA-256."""
    try:
        weights = read_weights(path)
        load_weights(network, weights)
    except FileNotFoundError as error:
        raise UserError(f"FLOW.weights: {path} does not exist. {how_to_get(name)}") from error
    except OSError as error:
        raise UserError(f"FLOW.weights: cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"FLOW.weights: {error} (FLOW.name {name})") from error
    return weights.sha256


def _download(name: str, source) -> dict[str, Tensor]:
    try:
        check_cached(source)
        return source.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} could not be downloaded ({error}); fetch the file by hand and give it as "
            f"FLOW.weights. {how_to_get(name)}"
        ) from error


@torch.no_grad()
def _run(network: nn.Module, device: str | torch.device, image_t: Tensor, image_k: Tensor) -> Any:
    """A network on a device. No inference mode: autograd could not save its flow for the motion loss."""
    # It moves there at its first flow: whoever reads cached flow alone needs none of the device's memory for it.
    device = torch.device(device)
    network.to(device)
    # Half precision has no room for displacements of 100 pixels and fractions of them.
    with torch.autocast(device.type, enabled=False):
        return network(image_t.to(device), image_k.to(device))
