"""What a real camera adds to a picture: exposure drift, motion blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from etc.data.world.geometry import Sway


@dataclass(frozen=True)
class Sensor:
    """``shutter`` is the exposure time in frames; ``read`` and ``shot`` are noise spreads in grey levels."""

    seed: int
    shutter: float
    read: float
    shot: float
    exposure: Sway
    warmth: Sway

    def expose(self, image: NDArray[np.uint8], motion: NDArray[np.float32], t: int) -> NDArray[np.uint8]:
        """The clean ``image`` ``[H, W, 3]`` as the camera records it at ``t``, the same on every call.

        ``motion`` ``[2, H, W]`` is the flow while the shutter is open, in pixels.
        """
        height, width = image.shape[:2]
        rng = np.random.Generator(np.random.SFC64([self.seed, 7919, t]))
        x = np.arange(width, dtype=np.float32)
        y = np.arange(height, dtype=np.float32)[:, None]
        half = np.clip(motion, -12, 12) * np.float32(0.5)
        ends = [
            cv2.remap(
                image,
                x + sign * half[0],
                y + sign * half[1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for sign in (-1, 1)
        ]
        light = cv2.addWeighted(cv2.addWeighted(ends[0], 0.5, ends[1], 0.5, 0), 0.6, image, 0.4, 0)
        gain = (1 + self.exposure.at(t)) * (1 + 0.015 * rng.standard_normal())  # drift and auto-exposure jitter
        warmth = self.warmth.at(t)
        light = light * np.array([gain * (1 + warmth), gain, gain * (1 - warmth)], np.float32)
        spread = np.sqrt(self.read**2 + self.shot**2 * light / 255)
        light = light + spread * rng.standard_normal(light.shape, np.float32)
        return np.clip(light + np.float32(0.5), 0, 255).astype(np.uint8)

    @staticmethod
    def draw(seed: int) -> Sensor:
        rng = np.random.default_rng([seed, 104729])
        return Sensor(
            seed=seed,
            shutter=float(rng.uniform(0.15, 0.35)),
            read=float(rng.uniform(3, 5)),
            shot=float(rng.uniform(4, 8)),
            exposure=Sway.draw(rng, 0.12, 40),
            warmth=Sway.draw(rng, 0.03, 55),
        )
