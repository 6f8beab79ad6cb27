"""The clip transform: scale, rotation, flip and crop as one affine matrix, the same for a whole clip.

Applied once per image, straight from uint8 to the crop. Because it is one affine map, it also maps the
optical flow of whole frames exactly: a vector f at source point p becomes A f at the crop point that p lands on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from etc.data.labels import IGNORE

# ImageNet statistics in 0..255, RGB: every backbone here was pretrained with them.
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255

OUTPUT_STRIDE = 8  # of the networks here, TRAIN.zoom_factor


class CropMap(NamedTuple):
    """One draw of the transform.

    Attributes:
        matrix: float64 ``[2, 3]``, source pixel (x, y, 1) -> crop pixel (x, y); pixel centres are integers.
        size: height and width of the crop.
        blur: whether the crop is blurred.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    blur: bool


class ClipTransform:
    """Draws the random geometry of a training sample.

    Args:
        size: height and width of the crop.
        scale: smallest and largest random scale.
        rotate: smallest and largest rotation, degrees, counter-clockwise.
        blur: probability of a 5x5 Gaussian blur.
        flip: probability of mirroring.
        rotate_probability: probability of rotating at all (0.5 in semseg, and so in the published training).
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        rotate: tuple[float, float] = (-10.0, 10.0),
        blur: float = 0.5,
        flip: float = 0.5,
        rotate_probability: float = 0.5,
    ) -> None:
        self.size = size
        self.scale = scale
        self.rotate = rotate
        self.blur = blur
        self.flip = flip
        self.rotate_probability = rotate_probability

    def draw(self, rng: np.random.Generator, height: int, width: int) -> CropMap:
        """Draw the map for frames of ``height`` x ``width``.

        The frame is scaled, rotated about its centre, mirrored, then cropped at a random whole pixel; along an axis
        where it is smaller than the crop it is centred (the semseg protocol).
        """
        scale = rng.uniform(*self.scale)
        angle = math.radians(rng.uniform(*self.rotate))
        angle = angle if rng.random() < self.rotate_probability else 0.0
        mirror = -1.0 if rng.random() < self.flip else 1.0
        blur = bool(rng.random() < self.blur)
        crop_h, crop_w = self.size
        scaled_h, scaled_w = round(height * scale), round(width * scale)
        # Rounding the scaled size makes the two scales differ a little, as resizing does.
        scale_x, scale_y = scaled_w / width, scaled_h / height
        left, top = _offset(rng, scaled_w, crop_w), _offset(rng, scaled_h, crop_h)
        cos, sin = math.cos(angle), math.sin(angle)
        linear = np.array([[mirror * cos * scale_x, mirror * sin * scale_y], [-sin * scale_x, cos * scale_y]])
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        target = np.array([(scaled_w - 1) / 2 - left, (scaled_h - 1) / 2 - top])
        return CropMap(np.column_stack([linear, target - linear @ centre]), self.size, blur)


def _offset(rng: np.random.Generator, length: int, crop: int) -> int:
    """Where the crop starts on an axis. A number is drawn in any case: later draws must not depend on the sizes."""
    position = rng.random()
    return math.floor(position * (length - crop + 1)) if length >= crop else -((crop - length) // 2)


def padding_of(crop: CropMap, shape: tuple[int, int]) -> np.ndarray:
    """Crop pixels that no source pixel covers, bool ``[h, w]``; ``shape`` is the source's height and width."""
    inside = np.ones(shape, np.uint8)
    return _warp(inside, crop, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, 0) == 0


def crop_image(
    image: np.ndarray, crop: CropMap, padding: np.ndarray, change: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Crop and normalise a frame.

    Args:
        image: RGB uint8 ``[H, W, 3]``.
        crop: the map.
        padding: as :func:`padding_of`.
        change: changes the colours of the crop, RGB uint8 ``[h, w, 3]`` -> the same; ``None``: they stay.

    Returns:
        float32 ``[3, h, w]``, ``(rgb - MEAN) / STD``; padding is exactly 0 in all channels (the mean colour),
        which no real 8-bit pixel is; the motion loss relies on that.
    """
    pixels = _warp(image, crop, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE, 0)
    if crop.blur:
        pixels = cv2.GaussianBlur(pixels, (5, 5), 0)
    if change is not None:
        pixels = change(pixels)
    normalised = normalise(pixels)
    normalised[:, padding] = 0
    return normalised


def crop_label(label: np.ndarray, crop: CropMap) -> np.ndarray:
    """Crop a label map, nearest: train ids uint8 ``[H, W]`` -> int64 ``[h, w]``, padding is 255."""
    return _warp(label, crop, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORE).astype(np.int64)


def crop_mask(mask: np.ndarray, crop: CropMap) -> np.ndarray:
    """Crop a mask, nearest: bool ``[H, W]`` -> bool ``[h, w]``, padding is False."""
    return _warp(mask.astype(np.uint8), crop, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, 0) > 0


def crop_flow(flow: np.ndarray, crop: CropMap) -> np.ndarray:
    """Map a flow between two frames to the flow between their crops.

    Args:
        flow: float32 ``[2, H, W]``, pixels.
        crop: the map, the same for both frames.

    Returns:
        float32 ``[2, h, w]`` in crop pixels.
    """
    tensors = _warp(np.ascontiguousarray(flow.transpose(1, 2, 0)), crop, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE, 0)
    linear = crop.matrix[:, :2].astype(np.float32)
    return np.einsum("ij,hwj->ihw", linear, tensors, optimize=False)


def crop_logits(logits: np.ndarray, shape: tuple[int, int], crop: CropMap) -> np.ndarray:
    """Map the logits of a whole frame to an eighth of the crop, the resolution of the networks here.

    Args:
        logits: float ``[K, h, w]``, corners aligned with those of the frame.
        shape: height and width of the frame.
        crop: the map.

    Returns:
        float32 ``[K, (crop height - 1) // 8 + 1, (crop width - 1) // 8 + 1]``; padding repeats the nearest value.
    """
    height, width = ((length - 1) // OUTPUT_STRIDE + 1 for length in crop.size)
    size = height, width
    from_grid, to_grid = (_grid_to_pixels(*pair) for pair in ((logits.shape[1:], shape), (size, crop.size)))
    matrix = np.linalg.inv(to_grid) @ np.vstack([crop.matrix, [0, 0, 1]]) @ from_grid
    coarse = CropMap(matrix[:2], size, False)
    tensors = logits.astype(np.float32)
    # OpenCV warps up to four channels at a time.
    parts = [np.ascontiguousarray(tensors[i : i + 4].transpose(1, 2, 0)) for i in range(0, len(tensors), 4)]
    moved = [_warp(part, coarse, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE, 0).reshape(*size, -1) for part in parts]
    return np.ascontiguousarray(np.concatenate(moved, axis=2).transpose(2, 0, 1))


def _grid_to_pixels(grid: tuple[int, int], pixels: tuple[int, int]) -> np.ndarray:
    """Coarse coordinates (x, y, 1) -> pixel coordinates, corners aligned, ``[3, 3]``."""
    steps = [(p - 1) / (g - 1) if g > 1 else 1.0 for g, p in zip(grid, pixels, strict=True)]
    return np.diag([steps[1], steps[0], 1.0])


def normalise(image: np.ndarray) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` -> float32 ``[3, H, W]``, ``(rgb - MEAN) / STD``."""
    tensors = image.transpose(2, 0, 1).astype(np.float32, order="C")
    tensors -= MEAN[:, None, None]
    tensors /= STD[:, None, None]
    return tensors


def _warp(image: np.ndarray, crop: CropMap, interpolation: int, border: int, value: float) -> np.ndarray:
    h, w = crop.size
    return cv2.warpAffine(image, crop.matrix, (w, h), flags=interpolation, borderMode=border, borderValue=value)


class Denormalise(nn.Module):
    """Undoes :func:`normalise` on tensors: normalised float ``[N, 3, H, W]`` -> RGB 0..255, same shape.

    A module, because its constants then lie on the device: copied there in every call, they would be waited for.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.from_numpy(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return image * self.std + self.mean
