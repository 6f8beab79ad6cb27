"""Draws textured planes into a frame: mip-mapped, alpha-blended, depth-tested at every pixel."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np

from etc.data.world.geometry import Array
from etc.data.world.textures import Texture

BAND = 1.5  # a slanted plane is drawn in bands of this depth ratio, each from its own mip level
SOFTNESS = 0.6  # mip levels are chosen this much coarser than one texel per pixel: less shimmer
SOLID = 127  # alpha from which a pixel belongs to the surface


class Canvas:
    """One frame in the making. Draw the far surfaces first: blended edges show what was drawn before."""

    def __init__(self, height: int, width: int) -> None:
        self.image = np.zeros((height, width, 4), np.uint8)
        self.label = np.zeros((height, width), np.uint8)
        self.surface = np.zeros((height, width), np.int32)
        self.nearness = np.full((height, width), -1.0, np.float32)  # 1 / depth in metres; 0 at infinity
        self._columns = np.arange(width, dtype=np.float64)
        self._rows = np.arange(height, dtype=np.float64)[:, None]

    def draw(
        self,
        index: int,
        texture: Texture,
        *,
        to_texture: Array,
        window: tuple[int, int, int, int],
        depths: tuple[float, float] | None,
    ) -> None:
        """Draw surface ``index``.

        Args:
            to_texture: ``[3, 3]`` as in ``geometry.Planes``.
            window: columns and rows that may show it, ``x0, y0, x1, y1``.
            depths: its least and greatest depth in metres; None for a surface at infinity.
        """
        x0, y0, x1, y1 = window
        if depths is None:
            nearness = np.zeros((y1 - y0, x1 - x0), np.float32)
            self._blend(index, texture, to_texture, nearness, nearness >= 0, (x0, y0))
            return
        a, b, c = to_texture[2]
        nearness = (a * self._columns[x0:x1] + (b * self._rows[y0:y1] + c)).astype(np.float32)
        free = nearness > np.maximum(self.nearness[y0:y1, x0:x1], 0)
        bands = math.ceil(math.log(depths[1] / depths[0]) / math.log(BAND))
        if bands <= 1:
            self._blend(index, texture, to_texture, nearness, free, (x0, y0))
            return
        edges = np.geomspace(1 / depths[1], 1 / depths[0], bands + 1)
        edges[0], edges[-1] = 0, np.inf  # the plane a little beyond its outline: anti-aliased edges
        for low, high in pairwise(edges):
            part = free & (nearness > low) & (nearness <= high)
            rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            if len(rows):
                top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
                inner = np.s_[top:bottom, left:right]
                self._blend(index, texture, to_texture, nearness[inner], part[inner], (x0 + left, y0 + top))

    def _blend(
        self,
        index: int,
        texture: Texture,
        to_texture: Array,
        nearness: np.ndarray,
        free: np.ndarray,
        corner: tuple[int, int],
    ) -> None:
        """Draw the pixels ``free`` of one window from one mip level."""
        height, width = free.shape
        x0, y0 = corner
        window = np.s_[y0 : y0 + height, x0 : x0 + width]
        shifted = to_texture.copy()
        shifted[:, 2] += to_texture[:, 0] * x0 + to_texture[:, 1] * y0
        level = texture.level(*_mip_level(texture, shifted, width, height))
        patch = _warp(level, shifted, width, height, cv2.INTER_LINEAR)
        alpha = patch[..., 3]
        clear = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGRA)
        blended = cv2.add(cv2.multiply(self.image[window], clear, scale=1 / 255), patch)
        cv2.copyTo(blended, free.view(np.uint8), self.image[window])
        solid = free & (alpha >= SOLID)
        np.copyto(self.nearness[window], nearness, where=solid)
        self.surface[window][solid] = index
        if isinstance(texture.label, int):
            self.label[window][solid] = texture.label
        else:
            label = _warp(texture.label, shifted, width, height, cv2.INTER_NEAREST)
            np.copyto(self.label[window], label, where=solid)


def _warp(source: np.ndarray, to_texture: Array, width: int, height: int, interpolation: int) -> np.ndarray:
    rows, columns = source.shape[:2]
    texels = np.array([[columns, 0, -0.5], [0, rows, -0.5], [0, 0, 1]]) @ to_texture
    border = cv2.BORDER_CONSTANT if interpolation == cv2.INTER_LINEAR else cv2.BORDER_REPLICATE
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(source, texels, (width, height), flags=flags, borderMode=border)


def _mip_level(texture: Texture, to_texture: Array, width: int, height: int) -> tuple[int, int]:
    """The level whose texels are about as large as a pixel at the middle of the window."""
    # plain floats: this runs for every surface, and arrays of three cost more than the sums
    (a, b, c), (d, e, f), (g, h, i) = to_texture.tolist()
    x, y = (width - 1) / 2, (height - 1) / 2
    nearness = g * x + h * y + i
    if nearness <= 0:
        return 0, 0
    s, t = (a * x + b * y + c) / nearness, (d * x + e * y + f) / nearness
    columns, rows = texture.size
    across = columns * math.hypot(a - s * g, b - s * h) / nearness
    down = rows * math.hypot(d - t * g, e - t * h) / nearness
    return _level(across, columns), _level(down, rows)


def _level(texels_per_pixel: float, texels: int) -> int:
    wanted = round(math.log2(max(texels_per_pixel, 1e-6)) + SOFTNESS)
    return min(max(wanted, 0), int(math.log2(texels)))
