"""Random changes of a frame's colours: brightness, contrast, saturation, hue, gray, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional as TF

BRIGHTNESS = CONTRAST = SATURATION = (0.5, 1.5)  # factors
HUE = (-0.1, 0.1)  # of the colour circle
GRAY, BLUR = 0.2, 0.5  # probabilities
BLUR_SIGMA = (0.1, 2.0)  # pixels


@dataclass(frozen=True)
class ColorChange:
    """One draw of the colours, the same for every frame that it is applied to; noise differs from frame to frame.

    Attributes:
        brightness, contrast, saturation: factors, 1 leaves as it is.
        hue: shift on the colour circle, 0 leaves as it is.
        gray: whether all colour is removed.
        sigma: of the Gaussian blur, pixels; 0: none.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    gray: bool = False
    sigma: float = 0.0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """RGB uint8 ``[H, W, 3]`` -> the same with other colours."""
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        image = TF.adjust_brightness(image, self.brightness)
        image = TF.adjust_contrast(image, self.contrast)
        image = TF.adjust_saturation(image, self.saturation)
        image = TF.adjust_hue(image, self.hue)
        if self.gray:
            image = TF.rgb_to_grayscale(image, num_output_channels=3)
        if self.sigma:
            image = TF.gaussian_blur(image, kernel_size=[9, 9], sigma=[self.sigma, self.sigma])
        return image.permute(1, 2, 0).numpy()


def draw_color_change(rng: np.random.Generator, probability: float) -> ColorChange | None:
    """Draw a change; ``None``, with 1 minus the probability: the colours stay."""
    if rng.random() >= probability:
        return None
    return ColorChange(
        brightness=float(rng.uniform(*BRIGHTNESS)),
        contrast=float(rng.uniform(*CONTRAST)),
        saturation=float(rng.uniform(*SATURATION)),
        hue=float(rng.uniform(*HUE)),
        gray=bool(rng.random() < GRAY),
        sigma=float(rng.uniform(*BLUR_SIGMA)) if rng.random() < BLUR else 0.0,
    )


def add_noise(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` with Gaussian noise of this standard deviation, in 0..255, on every value."""
    noise = rng.normal(0, deviation, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
