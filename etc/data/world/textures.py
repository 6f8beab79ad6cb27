"""Textures of the synthetic world: a mip-mapped texture type, a sketch pad, and procedural materials.

Materials return straight (not premultiplied) RGBA, uint8 ``[H, W, 4]``; colours are RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.floating]
Rng = np.random.Generator
Colour = Sequence[float] | np.ndarray

SUPERSAMPLE = 2  # sketches are drawn this much finer than the texture they become


class Texture:
    """A texture with its labels and its filtered copies.

    Args:
        rgba: straight RGBA, uint8 ``[H, W, 4]``. Cut-outs have alpha 0 where they are transparent.
        label: Cityscapes labelId of the whole texture, or one per texel, uint8 ``[H, W]``.
    """

    def __init__(self, rgba: np.ndarray, label: int | np.ndarray) -> None:
        self.label = label
        self.cut_out = bool((rgba[..., 3] < 255).any())
        if self.cut_out:
            # premultiplied: filtering must not bleed the colour of transparent texels into the edge
            rgba = cv2.multiply(rgba, cv2.merge((*[rgba[..., 3]] * 3, np.full_like(rgba[..., 3], 255))), scale=1 / 255)
        self._levels: dict[tuple[int, int], np.ndarray] = {(0, 0): rgba}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in texels."""
        height, width = self._levels[0, 0].shape[:2]
        return width, height

    def level(self, x: int, y: int) -> np.ndarray:
        """The texture averaged by ``2**x`` across and ``2**y`` down: planes are mostly seen at a slant."""
        if (x, y) not in self._levels:
            finer = self.level(x - 1, y) if x > 0 else self.level(x, y - 1)
            height, width = finer.shape[:2]
            size = ((width + 1) // 2, height) if x > 0 else (width, (height + 1) // 2)
            self._levels[x, y] = cv2.resize(finer, size, interpolation=cv2.INTER_AREA)
        return self._levels[x, y]


class Sketch:
    """Draws a cut-out in metres, origin at the bottom left, y up; later shapes cover earlier ones."""

    def __init__(self, width: float, height: float, *, texels: float = 50, label: int = 0) -> None:
        self._scale = texels * SUPERSAMPLE
        self._height = height
        shape = max(2, round(height * texels)) * SUPERSAMPLE, max(2, round(width * texels)) * SUPERSAMPLE
        self._rgba = np.zeros((*shape, 4), np.uint8)
        self._labels = np.full(shape, label, np.uint8)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour, label: int | None = None) -> None:
        corners = np.array([[x * self._scale, (self._height - y) * self._scale] for x, y in points])
        fixed = np.round(corners * 16).astype(np.int32)  # 4 fractional bits
        cv2.fillPoly(self._rgba, [fixed], (*map(float, colour), 255.0), lineType=cv2.LINE_8, shift=4)
        if label is not None:
            cv2.fillPoly(self._labels, [fixed], label, lineType=cv2.LINE_8, shift=4)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, label: int | None = None) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, label)

    def disc(self, x: float, y: float, rx: float, ry: float | None, colour: Colour, label: int | None = None) -> None:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ry = rx if ry is None else ry
        self.polygon([(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angles], colour, label)

    def limb(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        thickness: float,
        colour: Colour,
        label: int | None = None,
    ) -> None:
        """A straight bar with round ends."""
        (x0, y0), (x1, y1), half = start, end, thickness / 2
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6)
        nx, ny = -(y1 - y0) / length * half, (x1 - x0) / length * half
        self.polygon([(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)], colour, label)
        for x, y in (start, end):
            self.disc(x, y, half, None, colour, label)

    def ring(self, x: float, y: float, radius: float, thickness: float, colour: Colour) -> None:
        """A circle line; its inside is transparent."""
        centre = (round(x * self._scale), round((self._height - y) * self._scale))
        cv2.circle(
            self._rgba,
            centre,
            round(radius * self._scale),
            (*map(float, colour), 255.0),
            max(1, round(thickness * self._scale)),
        )

    def texture(self, rng: Rng, *, grain: float = 0.06) -> Texture:
        """The sketch with a little wear and tear (``grain``, relative contrast)."""
        height, width = (side // SUPERSAMPLE for side in self._rgba.shape[:2])
        # every drawn texel is opaque and every other one black: the sketch is premultiplied as it is
        small = cv2.resize(self._rgba, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        colour = small[..., :3] * (255 / np.maximum(small[..., 3:], 1))
        colour *= 1 + grain * noise(rng, height, width, cell=max(2, height // 12))[..., None]
        labels = self._labels[::SUPERSAMPLE, ::SUPERSAMPLE][:height, :width]
        label = int(labels.flat[0]) if (labels == labels.flat[0]).all() else np.ascontiguousarray(labels)
        return Texture(to_rgba(colour, small[..., 3]), label)


def to_rgba(colour: Floats, alpha: Floats | float = 255.0) -> Image:
    """Clip float RGB and alpha (both 0..255) into uint8 RGBA."""
    height, width = colour.shape[:2]
    full = np.empty((height, width, 4), np.float32)
    full[..., :3], full[..., 3] = colour, alpha
    return np.clip(full + 0.5, 0, 255).astype(np.uint8)


def noise(rng: Rng, height: int, width: int, *, cell: float, octaves: int = 3) -> Floats:
    """Smooth noise of about unit spread: octaves of random grids, the coarsest ``cell`` texels wide."""
    total = np.zeros((height, width), np.float32)
    amplitude, norm = 1.0, 0.0
    for _ in range(octaves):
        grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        norm += amplitude**2
        amplitude, cell = amplitude * 0.7, max(1.0, cell / 3)
    return total / np.float32(0.75 * np.sqrt(norm))


def plain(rng: Rng, height: int, width: int, colour: Colour, *, stain: float, grain: float, cell: float = 40) -> Floats:
    """A flat colour with large stains and fine grain, both as relative contrast. Float RGB."""
    shade = 1 + stain * noise(rng, height, width, cell=cell) + grain * rng.standard_normal((height, width), np.float32)
    return np.asarray(colour, np.float32) * shade[..., None]


def masonry(rng: Rng, image: Floats, *, rows: float, columns: float, mortar: Colour, spread: float) -> None:
    """Lay bricks or slabs of ``rows`` x ``columns`` texels over ``image``, in place."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    row = np.floor(y / rows).astype(np.int32)
    across = x / columns + 0.5 * (row % 2)
    column = np.floor(across).astype(np.int32)
    tint = 1 + spread * rng.standard_normal((int(row.max()) + 1, int(column.max()) + 1), dtype=np.float32)
    image *= tint[row, column][..., None]
    joint = (y - row * rows < max(1.0, 0.12 * rows)) | ((across - column) * columns < max(1.0, 0.12 * rows))
    image[joint] = 0.5 * image[joint] + 0.5 * np.asarray(mortar, np.float32)


def foliage(rng: Rng, height: int, width: int, colour: Colour) -> Floats:
    """Leaves: clumps lit from above over dark gaps. Float RGB."""
    clumps = noise(rng, height, width, cell=max(6.0, height / 7), octaves=3)
    leaves = noise(rng, height, width, cell=4, octaves=2)
    light = np.clip(0.85 + 0.28 * clumps + 0.25 * leaves, 0.25, 1.6)
    hue = np.asarray(colour, np.float32) * (1 + 0.08 * clumps[..., None] * np.array([1.0, 0.2, -0.6], np.float32))
    return hue * light[..., None] * np.linspace(1.15, 0.7, height, dtype=np.float32)[:, None, None]


def crown(rng: Rng, width: float, height: float, colour: Colour, *, texels: float) -> Image:
    """A tree crown: foliage cut out by an irregular, holey outline."""
    rows, columns = max(8, round(height * texels)), max(8, round(width * texels))
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j].astype(np.float32)
    ragged = 0.16 * noise(rng, rows, columns, cell=rows / 4) + 0.10 * noise(rng, rows, columns, cell=5)
    inside = 0.80 - np.sqrt(x**2 + (y * 1.02) ** 2 + 0.1 * x**2 * y) + ragged
    return to_rgba(foliage(rng, rows, columns, colour), np.clip(inside * 9 + 0.5, 0, 1) * 255)


def hedge(rng: Rng, width: float, height: float, colour: Colour, *, ragged: float, texels: float) -> Image:
    """A row of bushes: foliage with an uneven top edge, ``ragged`` metres high."""
    rows, columns = max(4, round(height * texels)), max(4, round(width * texels))
    rim = noise(rng, 1, columns, cell=max(4.0, 0.6 * height * texels))[0] * 0.35 + 0.5
    depth = np.arange(rows, dtype=np.float32)[:, None] - np.clip(rim, 0, 1.5) * ragged * texels
    depth = depth + 0.06 * texels * noise(rng, rows, columns, cell=4)
    return to_rgba(foliage(rng, rows, columns, colour), np.clip(depth + 0.5, 0, 1) * 255)


def sky(rng: Rng, height: int, width: int) -> Image:
    """Bright at the horizon, with clouds."""
    zenith = np.array([110, 145, 190]) * rng.uniform(0.85, 1.1) + rng.uniform(-12, 12, 3)
    horizon = np.array([205, 212, 215]) * rng.uniform(0.9, 1.08)
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 0.7
    base = zenith * (1 - fall) + horizon * fall
    clouds = noise(rng, height, width, cell=height / 3, octaves=4) + rng.uniform(-0.6, 0.9)
    cover = np.clip(clouds, 0, 1)[..., None] * 0.8
    grey = np.array([222, 222, 224]) - 22 * noise(rng, height, width, cell=height / 5)[..., None]
    return to_rgba((base * (1 - cover) + grey * cover).astype(np.float32))
