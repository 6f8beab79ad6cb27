"""Draws textured planes into a frame: mip-mapped, alpha-blended, depth-tested at every pixel."""

from __future__ import annotations

import cv2
import numpy as np

from etc.data.world.geometry import NEAR, Array, clip_near
from etc.data.world.textures import Texture

BAND = 1.5  # a slanted plane is drawn in bands of this depth ratio, each from its own mip level
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
        corners: Array,
        intrinsics: Array,
        infinite: bool = False,
    ) -> None:
        """Draw surface ``index``. ``to_texture`` ``[3, 3]`` and ``corners`` ``[4, 3]`` as in ``geometry.Planes``."""
        outline = clip_near(corners)
        if len(outline) < 3:
            return
        depths = outline[:, 2]
        pixels = outline @ intrinsics.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        height, width = self.label.shape
        x0, y0 = np.maximum(np.floor(pixels.min(0)), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(pixels.max(0)) + 1, (width, height)).astype(int)
        if x0 >= x1 or y0 >= y1:
            return
        a, b, c = to_texture[2]
        nearness = (a * self._columns[x0:x1] + (b * self._rows[y0:y1] + c)).astype(np.float32)
        if infinite:
            nearness[:] = 0
            self._blend(index, texture, to_texture, nearness, nearness >= 0, (x0, y0))
            return
        nearest, farthest = 1 / max(NEAR, depths.min()), 1 / depths.max()
        bands = max(1, int(np.ceil(np.log(nearest / farthest) / np.log(BAND))))
        free = nearness > np.maximum(self.nearness[y0:y1, x0:x1], np.float32(0))
        if bands == 1:
            self._blend(index, texture, to_texture, nearness, free, (x0, y0))
            return
        edges = np.geomspace(farthest, nearest, bands + 1)
        edges[0], edges[-1] = 0, np.inf  # the plane a little beyond its outline: anti-aliased edges
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            part = free & (nearness > low) & (nearness <= high)
            rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
            if len(rows) and len(columns):
                top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
                window = np.s_[top:bottom, left:right]
                self._blend(index, texture, to_texture, nearness[window], part[window], (x0 + left, y0 + top))

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
        shifted = to_texture @ np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
        level = texture.level(*_mip_level(texture, shifted, width, height))
        patch = _warp(level, shifted, width, height, cv2.INTER_LINEAR)
        alpha = patch[..., 3]
        mask = free.astype(np.uint8)
        clear = cv2.bitwise_not(alpha)
        below = cv2.multiply(self.image[window], cv2.merge((clear, clear, clear, clear)), scale=1 / 255)
        self.image[window] = cv2.copyTo(cv2.add(below, patch), mask, self.image[window].copy())
        solid = free & (alpha >= SOLID)
        np.copyto(self.nearness[window], nearness, where=solid)
        np.copyto(self.surface[window], np.int32(index), where=solid)
        label = texture.label
        if not isinstance(label, int):
            label = _warp(label, shifted, width, height, cv2.INTER_NEAREST)
        np.copyto(self.label[window], np.uint8(label) if isinstance(label, int) else label, where=solid)


def _warp(source: np.ndarray, to_texture: Array, width: int, height: int, interpolation: int) -> np.ndarray:
    rows, columns = source.shape[:2]
    texels = np.array([[columns, 0, -0.5], [0, rows, -0.5], [0, 0, 1]]) @ to_texture
    border = cv2.BORDER_CONSTANT if interpolation == cv2.INTER_LINEAR else cv2.BORDER_REPLICATE
    flags = interpolation | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(source, texels, (width, height), flags=flags, borderMode=border)


def _mip_level(texture: Texture, to_texture: Array, width: int, height: int) -> tuple[int, int]:
    """The level whose texels are about as large as a pixel at the middle of the window."""
    pixel = np.array([(width - 1) / 2, (height - 1) / 2, 1.0])
    s, t, nearness = to_texture @ pixel
    if nearness <= 0:
        return 0, 0
    gradient = (to_texture[:2, :2] - np.outer([s, t], to_texture[2, :2]) / nearness) / nearness
    texels_per_pixel = np.hypot(gradient[:, 0], gradient[:, 1]) * texture.size
    levels = np.round(np.log2(np.maximum(texels_per_pixel, 1e-6)) + 0.2).astype(int)
    limits = np.log2(texture.size).astype(int)
    x, y = np.clip(levels, 0, limits)
    return int(x), int(y)
