"""Refuses images whose values cannot be RGB in 0..255, before flow is estimated from them."""

from __future__ import annotations

import torch
from torch import Tensor

_EVERY = 8  # of the rows and columns of an image, one is looked at
_LOWEST, _HIGHEST = -0.5, 255.5  # room for rounding
_HIGHEST_NORMALIZED = 2.7  # white, in the blue channel, is 2.64 after mean/std normalisation
_CONTRAST = 0.1  # less is a black frame, or rounding
_FRACTION = 0.01  # a value farther from a whole number was not one before it was normalised and back
_EXPECTED = "flow is estimated from RGB in 0..255, these images lie in"


def check_range(rgb_t: Tensor, rgb_k: Tensor) -> None:
    """Look at a sample of the pixels of both images, which costs one read-back from their device.

    Black frames, and frames of the values 0 and 1 alone, are passed.

    Args:
        rgb_t, rgb_k: float ``[N, 3, H, W]``.

    Raises:
        ValueError: values above 255 or below 0, as of 16 bits, mean/std-normalised images or those with an offset;
            images in 0..1; or two images of a pair on different scales.
    """
    if not rgb_t.numel():
        return
    sample = torch.cat([x.detach()[..., ::_EVERY, ::_EVERY].float() for x in (rgb_t, rgb_k)]).flatten(1)
    each = torch.stack([sample.amin(1), sample.amax(1), (sample - sample.round()).abs().amax(1)], 1).tolist()
    for of_t, of_k in zip(each[: len(rgb_t)], each[len(rgb_t) :], strict=True):
        faults = _fault(*of_t), _fault(*of_k)
        shown = [f"{low:.2f}..{high:.2f}" for low, high, _ in (of_t, of_k)]
        if faults[0] != faults[1] and not (_says_nothing(*of_t) or _says_nothing(*of_k)):
            raise ValueError(f"{_EXPECTED} {shown[0]} and {shown[1]}, on different scales")
        if any(faults):
            raise ValueError(f"{_EXPECTED} {shown[0] if faults[0] else shown[1]}{faults[0] or faults[1]}")


def _says_nothing(low: float, high: float, _: float) -> bool:
    return high - low < _CONTRAST and high <= _HIGHEST_NORMALIZED


def _fault(low: float, high: float, fraction: float) -> str | None:
    """What an image is, and the cure; ``None``: RGB in 0..255, or the values do not say."""
    if not high <= _HIGHEST:  # NaN too
        return ": white must be 255 (divide images of 16 bits by 257)"
    if high <= _HIGHEST_NORMALIZED and low < -_CONTRAST and high - low >= _CONTRAST:
        return ", mean/std-normalised: give x * std + mean"
    if low < _LOWEST:
        return ": add the offset that was subtracted, black must be 0"
    if high <= 1 and fraction > _FRACTION and high - low >= _CONTRAST:
        return ": multiply them by 255"
    return None
