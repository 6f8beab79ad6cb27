"""Frames in, label maps out: whole image or sliding window, several scales, mirrored."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etc.config.schema import Settings
from etc.data.transform import MEAN, STD
from etc.distributed import device_of
from etc.errors import UserError
from etc.networks import PROBABILITIES, are_probabilities, check_compiler, trained_network
from etc.precision import autocast, chosen_dtype, log_choice
from model import SegmentationNetwork
from model.external import ExternalNetwork, UnclearOutput
from model.folding import fold_batch_norm
from utils.upsampled_argmax import upsampled_argmax

logger = logging.getLogger(__name__)

_ROUNDING = 0.02  # of a sum of probabilities in bfloat16


def predictor_from(
    settings: Settings, *, network: nn.Module | None = None, device: torch.device | None = None
) -> Predictor:
    """The predictor that section ``TEST`` describes.

    Args:
        settings: the settings.
        network: a network at hand, which is neither compiled nor folded, as it may be in training; ``None`` loads
            ``TEST.ckpt_path``.
        device: where ``network`` lies; ``None`` is the device of the settings.

    Raises:
        UserError: as :func:`etc.networks.trained_network`, and where ``TEST.compile`` does not work.
    """
    test = settings.TEST
    device = device_of(test.device) if device is None else device
    log_choice("TEST.amp", test.amp, device)
    return Predictor(
        _loaded(settings, device) if network is None else network,
        classes=settings.DATA.classes,
        device=device,
        dtype=chosen_dtype(test.amp, device),
        mode=test.mode,
        window=(test.test_h, test.test_w),
        overlap=test.overlap,
        scales=test.scales,
        flip=test.flip,
        base_size=test.base_size,
        source=f"TEST.ckpt_path {', '.join(test.checkpoints)}" if network is None else "the network",
    )


def _loaded(settings: Settings, device: torch.device) -> SegmentationNetwork:
    """The trained network, folded and compiled as ``TEST`` says."""
    if settings.TEST.compile:
        check_compiler(device, "TEST.compile")
    network = trained_network(settings)
    if settings.TEST.fold_bn:
        logger.info("TEST.fold_bn: %d batch norms folded into convolutions", fold_batch_norm(network))
    if settings.TEST.compile:
        # Not the module: predictions ask for its outputs at its own resolution.
        network.outputs = torch.compile(network.outputs)  # type: ignore[method-assign]
    return network


class Predictor:
    """Predicts frames with a per-frame network.

    With one scale, no flip and no window, a prediction is the argmax of the network's logits, resized to the
    frame where ``base_size`` asks for another size; logits of a lower resolution are not upsampled for it as a whole
    (:func:`utils.upsampled_argmax.upsampled_argmax`). Otherwise class probabilities are averaged as semseg does:
    the frame is scaled, probabilities are averaged with those of the mirrored frame, summed over windows and
    divided by how many windows cover a pixel, resized to the frame, and averaged over scales.

    Args:
        network: its evaluation output is logits, float ``[N, classes, H, W]`` at the size of its input. It is put
            into eval mode. What it keeps of a frame it may use in training afterwards: nothing here is made in torch's
            inference mode.
        classes: number of classes K, at most 255.
        device: where the network lies.
        dtype: type that its convolutions and products are computed in (:func:`etc.precision.autocast`).
        mode: ``"whole"`` image or sliding window (``"slide"``).
        window: height and width of the window; a frame that is smaller is padded with the mean colour.
        overlap: share of the window that neighbouring windows overlap, in [0, 1).
        scales: factors on ``base_size``.
        flip: average with the mirrored frame.
        base_size: long side, in pixels, that scale 1 stands for; 0 is the frame's own.
        source: what the network is called in errors: the setting and file of its checkpoint.

    Attributes:
        network_seconds: time spent inside the network since construction.
        weights_sha256: of the bytes of the checkpoint that the network's weights were read from, 64 hex digits,
            those of several joined by ``+``; ``None`` where they come from no file.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        mode: Literal["whole", "slide"] = "whole",
        window: tuple[int, int] = (769, 769),
        overlap: float = 1 / 3,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        base_size: int = 0,
        source: str = "the network",
    ) -> None:
        if not 1 <= classes <= 255:
            raise ValueError(f"classes is {classes}, expected 1..255: predictions are 8-bit")
        if mode not in ("whole", "slide"):
            raise ValueError(f"mode is {mode!r}, expected 'whole' or 'slide'")
        if min(window) < 1 or not 0 <= overlap < 1:
            raise ValueError(f"window {window} with overlap {overlap}: expected a size >= 1 and 0 <= overlap < 1")
        if not scales or min(scales) <= 0 or base_size < 0:
            raise ValueError(f"scales {list(scales)} of base_size {base_size}: expected scales > 0 and a size >= 0")
        self.network = network.eval()
        self.weights_sha256: str | None = getattr(network, "weights_sha256", None)
        self.classes = classes
        self.device = torch.device(device)
        self.dtype = dtype
        self.mode = mode
        self.window = window
        self.overlap = overlap
        self.scales = tuple(scales)
        self.flip = flip
        self.base_size = base_size
        self.source = source
        self._is_checked = False
        self.network_seconds = 0.0
        self._mean, self._std = (torch.from_numpy(x).to(self.device).view(1, 3, 1, 1) for x in (MEAN, STD))
        self._table = ((np.arange(256, dtype=np.float32)[:, None, None] - MEAN) / STD).astype(np.float32)  # [256, 1, 3]

    @torch.no_grad()
    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Predict frames of one size.

        Args:
            frames: RGB uint8 ``[H, W, 3]``.

        Returns:
            Train ids, uint8 ``[N, H, W]``.

        Raises:
            ValueError: no frame, another dtype or shape, or frames of different sizes.
            UserError: the network's output is not what ``classes`` and the frames ask for, or that of the first frames
                is NaN or infinite.
        """
        images = self._images(frames)
        size = (images.shape[-2], images.shape[-1])
        averaged = self.mode == "slide" or len(self.scales) > 1 or self.flip
        if (
            not averaged
            and self._scaled(size, self.scales[0]) == size
            and isinstance(self.network, SegmentationNetwork)
        ):
            return upsampled_argmax(self._own_logits(images), size, align_corners=True).cpu().numpy()
        values = self._average(images) if averaged else self._resized_logits(images)
        ids = np.empty((len(frames), *size), np.uint8)
        for out, value in zip(ids, values, strict=True):
            # One frame at a time: argmax gives int64, eight times the size of what is kept.
            out[:] = value.argmax(0).to(torch.uint8).cpu().numpy()
        return ids

    @torch.no_grad()
    def probabilities(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Class probabilities of frames of one size, float32 ``[N, K, H, W]`` on the predictor's device.

        Their argmax is what calling the predictor gives. Arguments and errors as there.
        """
        images = self._images(frames)
        if self.mode == "slide" or len(self.scales) > 1 or self.flip:
            return self._average(images)
        return self._as_probabilities(self._resized_logits(images))

    def _images(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Normalised float ``[N, 3, H, W]``, channels last as the frames are."""
        shapes = {(frame.shape, frame.dtype.name) for frame in frames}
        shape, dtype = next(iter(shapes), ((), ""))
        if len(shapes) != 1 or len(shape) != 3 or shape[2] != 3 or dtype != "uint8":
            raise ValueError(f"expected RGB uint8 frames [H, W, 3] of one size, got {sorted(shapes)}")
        if self.device.type == "cpu":
            # The same numbers from a table, in a third of the time and without a copy of the frames.
            images = np.empty((len(frames), *shape), np.float32)
            for frame, image in zip(frames, images, strict=True):
                cv2.LUT(frame, self._table, dst=image)
            return torch.from_numpy(images).permute(0, 3, 1, 2)
        pixels = torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2)
        return pixels.float().sub_(self._mean).div_(self._std)

    def _resized_logits(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        size = (height, width)
        return _resize(self._logits(_resize(images, self._scaled(size, self.scales[0]))), size)

    def _average(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        size = (height, width)
        probabilities = self._windows if self.mode == "slide" else self._softmax
        parts = (_resize(probabilities(_resize(images, self._scaled(size, scale))), size) for scale in self.scales)
        total = next(parts)
        for part in parts:
            total.add_(part)
        return total.div_(len(self.scales))

    def _scaled(self, size: tuple[int, int], scale: float) -> tuple[int, int]:
        """Height and width of a frame at a scale; the long side is rounded first, as semseg does."""
        longest = max(size)
        long_side = round(scale * (self.base_size or longest))
        return max(1, round(size[0] * long_side / longest)), max(1, round(size[1] * long_side / longest))

    def _windows(self, images: Tensor) -> Tensor:
        """Probabilities averaged over the windows of a sliding window."""
        height, width = images.shape[-2:]
        window_h, window_w = self.window
        lack_h, lack_w = max(window_h - height, 0), max(window_w - width, 0)
        top, left = lack_h // 2, lack_w // 2
        # Zero is the mean colour of a normalised image.
        padded = F.pad(images, (left, lack_w - left, top, lack_h - top))
        total = padded.new_zeros(len(images), self.classes, *padded.shape[-2:])
        count = padded.new_zeros(padded.shape[-2:])
        for y in window_starts(padded.shape[-2], window_h, self.overlap):
            for x in window_starts(padded.shape[-1], window_w, self.overlap):
                rows, columns = slice(y, y + window_h), slice(x, x + window_w)
                total[..., rows, columns] += self._softmax(padded[..., rows, columns])
                count[rows, columns] += 1
        return total.div_(count)[..., top : top + height, left : left + width]

    def _softmax(self, images: Tensor) -> Tensor:
        probabilities = self._as_probabilities(self._logits(images))
        if self.flip:
            mirrored = self._as_probabilities(self._logits(images.flip(3)))
            probabilities = probabilities.add_(mirrored.flip(3)).div_(2)
        return probabilities

    def _as_probabilities(self, logits: Tensor) -> Tensor:
        # Networks of others: a second softmax would make all classes about equally likely.
        suspicious = isinstance(self.network, ExternalNetwork) and are_probabilities(logits)
        if suspicious and (logits.sum(1) - 1).abs().max() < _ROUNDING:
            raise UserError(f"{self.source}: the network {PROBABILITIES}")
        return logits.float().softmax(1)

    def _logits(self, images: Tensor) -> Tensor:
        """Logits at the size of the images."""
        return self._checked(self._run(self.network, images), (len(images), self.classes, *images.shape[-2:]))

    def _own_logits(self, images: Tensor) -> Tensor:
        """Logits at the network's own resolution."""
        network = self.network
        assert isinstance(network, SegmentationNetwork)
        logits = self._run(lambda x: network.outputs(x)["logits"], images)
        resolution = logits.shape[-2:] if isinstance(logits, Tensor) else images.shape[-2:]
        return self._checked(logits, (len(images), self.classes, *resolution))

    def _run(self, function: Callable[[Tensor], Any], images: Tensor) -> Any:
        start = self._clock()
        try:
            with autocast(self.dtype, self.device):
                returned = function(images.contiguous(memory_format=torch.channels_last))
        except UnclearOutput as error:
            raise UserError(f"{self.source}: {error}") from error
        self.network_seconds += self._clock() - start
        return returned

    def _checked(self, logits: Any, expected: tuple[int, ...]) -> Tensor:
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise UserError(f"the network returned {got}, expected logits {list(expected)} [N, classes, H, W]")
        if not self._is_checked:
            self._check_finite(logits)
            self._is_checked = True
        return logits.float()

    def _check_finite(self, logits: Tensor) -> None:
        """Refuse logits that are NaN or infinite: their argmax is a class, mostly class 0, that looks like any other.

        Only the highest logit of each pixel counts, because a network may exclude classes by minus infinity.
        """
        highest = logits.amax(1)
        bad = highest.numel() - int(torch.isfinite(highest).sum())
        if bad:
            raise UserError(
                f"{self.source}: the output is NaN or infinite in {bad} of the first {highest.numel()} pixels, so the "
                "training had diverged (a half-precision overflow, if TRAIN.amp was on or TEST.amp is) or the network "
                "does not fit its input: give another checkpoint"
            )

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows start on an axis of ``length >= window`` pixels; the last one ends at the border."""
    # The small number undoes what 1 - 1/3 rounds up: 2/3 of 3 pixels are 2.
    stride = max(1, math.ceil(window * (1 - overlap) - 1e-6))
    steps = math.ceil((length - window) / stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with half-pixel centres, as ``cv2.resize``."""
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
