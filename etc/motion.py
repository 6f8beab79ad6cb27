"""The motion loss: the prediction for frame t must agree with the flow-warped prediction for a neighbour."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flownet import resample2d

Visibility = Literal["published", "l1", "forward_backward"]
Distance = Literal["mse", "kl", "js"]
Gradient = Literal["both", "frame"]

_SMALLEST = 1e-7

# Normalised with ImageNet's mean and standard deviation, colours lie in -2.2..2.7; other data sets' reach 5.
_LARGEST_NORMALISED = 10.0
# Frames within 0..1 that differ by more than this were not normalised: without a pixel below the mean, a normalised
# frame shows fog or a bare wall.
_CONTRAST = 0.5


def visibility(image: Tensor, warped: Tensor, mode: Literal["published", "l1"] = "l1") -> Tensor:
    """Soft visibility of each pixel of a frame in its neighbour, from the difference of their colours.

    Args:
        image: frame t, normalised, float ``[N, 3, H, W]``.
        warped: the neighbour warped to t by the flow t -> k, same shape.
        mode: ``"l1"`` sums the absolute channel differences; ``"published"`` takes the absolute value of
            their sum, where differences of opposite sign cancel.

    Returns:
        ``exp(-error)`` in (0, 1], float ``[N, 1, H, W]``: 1 where both agree.

    Raises:
        ValueError: the shapes differ, or an unknown mode.

    Source: Liu et al., ECCV 2020, motion loss.
    """
    if image.shape != warped.shape:
        raise ValueError(f"image {tuple(image.shape)} and warped {tuple(warped.shape)} differ in shape")
    _check("visibility", mode, ("published", "l1"))
    difference = image - warped
    error = difference.abs().sum(1, keepdim=True) if mode == "l1" else difference.sum(1, keepdim=True).abs()
    return torch.exp(-error)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected {', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}")


class MotionLoss(nn.Module):
    """``weight * MSE(z_t * M, warp(z_k) * M)`` over all elements, M the visibility of the frame's pixels.

    Flow and frames get no gradient. The defaults are those of the settings; the published training used
    ``MotionLoss(weight=0.1, visibility="published", mask_padding=False)``.

    Args:
        weight: factor of the loss.
        visibility: ``"l1"`` or ``"published"``: from the colours, see :func:`visibility`; ``"forward_backward"``: 1
            where the caller says that the pixel is visible (``visible`` of :meth:`forward`), else 0.
        mask_padding: M is 0 also where frame t is padding, where the flow leads out of the frame, and where it
            leads to padding. A pixel is padding if it is exactly 0 in all channels of the normalised frame, as
            :func:`etc.data.transform.crop_image` makes it.
        distance: what is compared. ``"mse"``: the logits, as published. ``"kl"``: the class probabilities,
            ``KL(warp(p_k) || p_t)``. ``"js"``: their Jensen-Shannon divergence. Both are in nats, summed over the
            classes, weighted by M and divided by the number of pixels.
        mask_once: with ``"mse"``, weight the squared difference by M instead of M squared.
        gradient: ``"both"``: into the logits of both frames; ``"frame"``: into those of frame t alone, the
            neighbour's prediction is its target.
        confidence: only pixels count at which the neighbour's warped prediction has a class of at least this
            probability or both frames predict the same class; 0: all pixels.

    Frames of 0..255 or 0..1 would give another visibility and so a loss many times too small: they are refused. The
    check reads values back from the device, and only until a frame has a value below 0, which none of 0..255 or 0..1
    has: for normalised frames, in the first call alone.

    Raises:
        ValueError: an unknown ``visibility``, ``distance`` or ``gradient``, or a negative weight.

    Source: Liu et al., ECCV 2020, temporal loss, for the defaults.
    """

    def __init__(
        self,
        *,
        weight: float,
        visibility: Visibility = "l1",
        mask_padding: bool = True,
        distance: Distance = "mse",
        mask_once: bool = False,
        gradient: Gradient = "both",
        confidence: float = 0.0,
    ) -> None:
        super().__init__()
        _check("visibility", visibility, get_args(Visibility))
        _check("distance", distance, get_args(Distance))
        _check("gradient", gradient, get_args(Gradient))
        if not weight >= 0:
            raise ValueError(f"weight is {weight}, expected 0 or more: a negative one rewards disagreement")
        self.weight = weight
        self.visibility: Visibility = visibility
        self.mask_padding = mask_padding
        self.distance: Distance = distance
        self.mask_once = mask_once
        self.gradient: Gradient = gradient
        self.confidence = confidence
        self._seen_normalised = False

    def forward(
        self,
        image_t: Tensor,
        image_k: Tensor,
        logits_t: Tensor,
        logits_k: Tensor,
        flow_t_to_k: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The weighted loss, a scalar.

        Args:
            image_t: frame t, normalised, float ``[N, 3, H, W]``.
            image_k: its neighbour k, same shape.
            logits_t: logits of frame t, ``[N, C, h, w]``; resized to ``H, W`` where they differ from it.
            logits_k: logits of frame k, same shape.
            flow_t_to_k: flow from t to k, ``[N, 2, H, W]``, pixels.
            visible: which pixels of frame t are visible in frame k, bool ``[N, 1, H, W]``; needed for visibility
                ``"forward_backward"``, not read otherwise.

        Raises:
            ValueError: frames, logits and flow whose shapes do not fit each other, frames that are not normalised, or
                no ``visible``.
            TypeError: logits or flow that are no tensors.
        """
        for name, x in {"logits_t": logits_t, "logits_k": logits_k, "flow_t_to_k": flow_t_to_k}.items():
            if not isinstance(x, Tensor):
                raise TypeError(f"{name} is a {type(x).__name__}, expected a tensor")
        size = image_t.shape[-2:]
        if image_k.shape != image_t.shape or logits_k.shape != logits_t.shape:
            raise ValueError(
                f"frames {tuple(image_t.shape)}, {tuple(image_k.shape)} or logits {tuple(logits_t.shape)}, "
                f"{tuple(logits_k.shape)} differ in shape"
            )
        if tuple(flow_t_to_k.shape) != (image_t.shape[0], 2, *size):
            raise ValueError(f"flow {tuple(flow_t_to_k.shape)} does not fit frames {tuple(image_t.shape)}")
        if logits_t.ndim != 4 or logits_t.shape[0] != image_t.shape[0]:
            raise ValueError(f"logits {tuple(logits_t.shape)} do not fit frames {tuple(image_t.shape)}")
        mask = self.mask(image_t, image_k, flow_t_to_k, visible)
        # Half-precision logits would lose the small differences that this loss is about.
        precise = torch.promote_types(logits_t.dtype, torch.float32)
        z_t, z_k = (_resized(z.to(precise), size) for z in (logits_t, logits_k))
        if self.gradient == "frame":
            z_k = z_k.detach()
        flow = flow_t_to_k.detach()
        if self.distance == "mse":
            warped = resample2d(z_k, flow)
            if self.confidence:
                mask = mask * self._trusted(z_t.softmax(1), warped.softmax(1))
            if self.mask_once:
                return self.weight * (mask * (z_t - warped).square()).mean()
            return self.weight * F.mse_loss(z_t * mask, warped * mask)
        return self.weight * self._divergence(z_t, resample2d(z_k.softmax(1), flow), mask)

    def _divergence(self, z_t: Tensor, p_k: Tensor, mask: Tensor) -> Tensor:
        """Divergence of the class probabilities of frame t (of logits ``z_t``) and the warped ones of k, a scalar."""
        if self.confidence:
            mask = mask * self._trusted(z_t.softmax(1), p_k)
        # Probabilities that underflow have neither a logarithm nor a gradient.
        p_t, p_k = (p.clamp_min(_SMALLEST) for p in (z_t.softmax(1), p_k))
        if self.distance == "kl":
            each = p_k * (p_k / p_t).log()
        else:
            middle = (p_t + p_k) / 2
            each = (p_t * (p_t / middle).log() + p_k * (p_k / middle).log()) / 2
        return (mask[:, 0] * each.sum(1)).mean()

    @torch.no_grad()
    def _trusted(self, p_t: Tensor, p_k: Tensor) -> Tensor:
        """1 where the neighbour is confident or agrees, else 0, float ``[N, 1, H, W]``."""
        confidence, class_k = p_k.max(1, keepdim=True)
        agrees = class_k == p_t.argmax(1, keepdim=True)
        return ((confidence >= self.confidence) | agrees).to(p_t.dtype)

    @torch.no_grad()
    def mask(self, image_t: Tensor, image_k: Tensor, flow_t_to_k: Tensor, visible: Tensor | None = None) -> Tensor:
        """The weight M of every pixel, float ``[N, 1, H, W]`` in [0, 1]; arguments as in :meth:`forward`.

        Raises:
            ValueError: frames that are not normalised, or no ``visible``.
        """
        if not self._seen_normalised:
            self._seen_normalised = _is_normalised(image_t, image_k)
        if self.visibility == "forward_backward":
            if visible is None:
                raise ValueError("visibility 'forward_backward' needs the visible pixels")
            weight = visible.to(image_t.dtype)
        else:
            weight = visibility(image_t, resample2d(image_k, flow_t_to_k), self.visibility)
        if self.mask_padding:
            weight = weight * usable_pixels(image_t, image_k, flow_t_to_k)
        return weight


def _is_normalised(*images: Tensor) -> bool:
    """Whether frames are certainly normalised; false where they may be: padding, white, or a narrow range of colours.

    Raises:
        ValueError: they are integers, or colours of 0..255 or 0..1.
    """
    cure = "give (rgb / 255 - mean) / std, as the network gets them"
    if any(not image.is_floating_point() for image in images):
        raise ValueError(f"frames are {images[0].dtype}, expected normalised frames, float: {cure}")
    images = tuple(image for image in images if image.numel())
    if not images:
        return False
    smallest = min(image.min().item() for image in images)
    largest = max(image.max().item() for image in images)
    if largest > _LARGEST_NORMALISED or (smallest >= 0 and largest <= 1 and largest - smallest > _CONTRAST):
        scale = "0..1" if largest <= 1 else "0..255"
        raise ValueError(
            f"frames have values from {smallest:.4g} to {largest:.4g}, as colours of {scale} have; "
            f"expected normalised frames, about -2.1 to 2.6: {cure}"
        )
    return smallest < 0


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def usable_pixels(image_t: Tensor, image_k: Tensor, flow: Tensor) -> Tensor:
    """1 where neither the pixel nor its source is padding, and the source lies inside the neighbour; else 0.

    Args:
        image_t: frame t, normalised, float ``[N, 3, H, W]``; padding is exactly 0 in all channels.
        image_k: its neighbour k, same shape.
        flow: from t to k, float ``[N, 2, H, W]``, pixels.

    Returns:
        float ``[N, 1, H, W]``.
    """
    height, width = image_t.shape[-2:]
    real_t, real_k = ((image != 0).any(1, keepdim=True).to(flow.dtype) for image in (image_t, image_k))
    x = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, :1]
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # A warped mask below 1 means that padding takes part in the bilinear sample.
    return real_t * inside * (resample2d(real_k, flow) > 1 - 1e-4)
