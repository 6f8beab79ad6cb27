"""The ground of a street as one painted plane: carriageway, markings, pavement, grass, with labels."""

from __future__ import annotations

import cv2
import numpy as np

from etc.data.world.surface import GROUND, ROAD, SIDEWALK, TERRAIN, City, Surface, flat
from etc.data.world.textures import Floats, Image, Rng, Texture, foliage, masonry, noise, plain

ACROSS, ALONG = 0.04, 0.08  # metres a texel: one looks along the street, so its length is seen foreshortened
REACH = 30.0  # metres to either side
TILE = 512


class Ground:
    """Paints rectangles of material and label: ``x`` across in any order, ``z`` from near to far, metres."""

    def __init__(self, city: City, start: float, end: float) -> None:
        self._city, self._start, self._end = city, start, end
        shape = round((end - start) / ALONG), round(2 * REACH / ACROSS)
        self._colour = np.zeros((*shape, 3), np.uint8)
        self._label = np.zeros(shape, np.uint8)
        self.paint("grass", (-REACH, REACH), (start, end), TERRAIN)

    def paint(self, material: str, x: tuple[float, float], z: tuple[float, float], label: int) -> None:
        """Cover a rectangle with ``"asphalt"``, ``"slabs"``, ``"cobbles"``, ``"kerb"`` or ``"grass"``."""
        window = self._window(x, z)
        if window is None:
            return
        tile = self._city.get(("ground", material), lambda rng: _tile(rng, material))
        rows, columns = (np.arange(part.start, part.stop) % TILE for part in window)
        self._colour[window] = tile[rows[:, None], columns[None, :]]
        self._label[window] = label

    def mark(self, x: tuple[float, float], z: tuple[float, float], *, wear: float, bright: float = 200) -> None:
        """A painted marking, worn by traffic; the label stays."""
        window = self._window(x, z)
        if window is not None:
            cover = np.float32(1 - wear)
            self._colour[window] = self._colour[window] * (1 - cover) + np.float32(bright) * cover

    def darken(self, x: tuple[float, float], z: tuple[float, float], factor: float) -> None:
        """Shade, a tar patch or a manhole cover; the label stays."""
        window = self._window(x, z)
        if window is not None:
            self._colour[window] = self._colour[window] * np.float32(factor)

    def surface(self, rng: Rng) -> Surface:
        """The finished plane, with stains."""
        height, width = self._label.shape
        coarse = 1 + 0.07 * noise(rng, height // 10, width // 10, cell=6)
        stains = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        colour = cv2.multiply(self._colour, cv2.merge([stains] * 3), dtype=cv2.CV_8U)
        rgba = cv2.cvtColor(colour, cv2.COLOR_RGB2RGBA)
        return flat((-REACH, REACH), (self._start, self._end), Texture(rgba, self._label), layer=GROUND)

    def _window(self, x: tuple[float, float], z: tuple[float, float]) -> tuple[slice, slice] | None:
        height, width = self._label.shape
        left, right = (round((v + REACH) / ACROSS) for v in sorted(x))
        top, bottom = (round((self._end - v) / ALONG) for v in (z[1], z[0]))  # the far end is on top
        left, right, top, bottom = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _tile(rng: Rng, material: str) -> Image:
    """A repeating patch; pavement and carriageway share a range of greys."""
    grey = rng.uniform(78, 112)
    warm = np.array([1.0, 1.0, 1.0]) + rng.uniform(-0.05, 0.05, 3)
    if material == "grass":
        leaves = foliage(rng, TILE, TILE, np.array([92, 100, 54]) * rng.uniform(0.75, 1.1))
        image: Floats = 0.6 * leaves + 0.4 * leaves.mean((0, 1))
    elif material == "kerb":
        image = plain(rng, TILE, TILE, (grey + 35) * warm, stain=0.05, grain=0.05)
    else:
        image = plain(rng, TILE, TILE, grey * warm, stain=0.05, grain=0.07)
    if material == "slabs":
        image *= rng.uniform(1.0, 1.35)
        masonry(rng, image, rows=0.5 / ALONG, columns=0.5 / ACROSS, mortar=(70, 68, 64), spread=0.06)
    if material == "cobbles":
        masonry(rng, image, rows=0.24 / ALONG, columns=0.2 / ACROSS, mortar=(56, 54, 52), spread=0.13)
    return np.clip(image, 0, 255).astype(np.uint8)


def lay_carriageway(ground: Ground, rng: Rng, half: float, walk: float, start: float, end: float) -> None:
    """A road ``2 * half`` wide with its markings, and pavements ``walk`` wide with their kerbs."""
    paving = "slabs" if rng.random() < 0.7 else "asphalt"
    for side in (-1, 1):
        ground.paint(paving, (side * half, side * (half + walk)), (start, end), SIDEWALK)
        verge = rng.random() < 0.4
        if verge:
            ground.paint("grass", (side * half, side * (half + 0.4 * walk)), (start, end), TERRAIN)
        # a strip of its own label, thinner than a pixel from afar, would make the true labels flicker
        kerb = TERRAIN if verge else SIDEWALK
        ground.paint("kerb", (side * half, side * (half + 0.18)), (start, end), kerb)
    ground.paint("asphalt", (-half, half), (start, end), ROAD)
    if rng.random() < 0.35:
        for side in (-1, 1):
            ground.paint("cobbles", (side * half, side * (half - 2.1)), (start, end), ROAD)
    wear = rng.uniform(0.15, 0.55)
    for z in np.arange(start, end, rng.choice([6.0, 9.0])):
        ground.mark((-0.07, 0.07), (z, z + 3.0), wear=wear)
    for z in np.arange(start, end, 6.0):
        for side in (-1, 1):
            ground.mark((side * (half - 2.2), side * (half - 2.1)), (z, z + 5.0), wear=wear)
    for _ in range(int((end - start) / 7)):
        x, z = rng.uniform(-half, half - 1), rng.uniform(start, end)
        size = (0.6, 0.6) if rng.random() < 0.4 else (rng.uniform(0.5, 3.0), rng.uniform(1, 8))
        ground.darken((x, x + size[0]), (z, z + size[1]), rng.uniform(0.7, 0.9))


def lay_crossing(ground: Ground, rng: Rng, half: float, centre: float, width: float) -> None:
    """A side street across the whole ground at ``z = centre``, with a zebra and a stop line before it."""
    low, high = centre - width / 2, centre + width / 2
    for z in ((low - 2.0, low), (high, high + 2.0)):
        for side in (-1, 1):
            ground.paint("slabs", (side * half, side * REACH), z, SIDEWALK)
    ground.paint("asphalt", (-REACH, REACH), (low, high), ROAD)
    wear = rng.uniform(0.1, 0.4)
    for x in np.arange(-half + 0.3, half - 0.5, 1.0):
        ground.mark((x, x + 0.5), (low - 4.0, low - 1.0), wear=wear)
    ground.mark((0.2, half - 2.2), (low - 5.4, low - 5.0), wear=wear)
