"""Building fronts, walls and fences as textures."""

from __future__ import annotations

import numpy as np

from etc.data.world.surface import BUILDING, FENCE, WALL
from etc.data.world.textures import Floats, Rng, Texture, masonry, noise, plain, to_rgba

TEXELS = 20.0  # a metre
TONES = (
    (176, 166, 146), (150, 84, 66), (188, 176, 124), (128, 122, 116), (110, 84, 66),
    (196, 190, 180), (150, 150, 134), (166, 126, 96), (98, 96, 100), (172, 140, 118),
)  # fmt: skip


def tone(rng: Rng) -> Floats:
    """A colour that houses and walls share, so that colour alone does not tell them apart."""
    return np.asarray(TONES[rng.integers(len(TONES))], np.float32) * np.float32(rng.uniform(0.75, 1.08)) + rng.uniform(
        -10, 10, 3
    ).astype(np.float32)


def facade(rng: Rng, width: float, height: float, shade: float, colour: Floats) -> Texture:
    """A house front of about ``height`` metres with a ground floor, regular windows and a cornice."""
    rows, columns = round(height * TEXELS), round(width * TEXELS)
    image = _render(rng, rows, columns, colour)
    floor = rng.uniform(2.9, 3.4) * TEXELS
    ground = rng.uniform(3.2, 4.0) * TEXELS
    bay = columns / max(2, round(width / rng.uniform(1.9, 3.2)))
    window = bay * rng.uniform(0.42, 0.72), floor * rng.uniform(0.45, 0.62)
    frame = np.float32(rng.choice([230, 200, 90, 60])) * np.array([1, 0.99, 0.95], np.float32)
    ribbon = rng.random() < 0.2  # office block: windows from side to side
    for storey in range(int((rows - ground - 0.5 * TEXELS) / floor)):
        sill = rows - ground - storey * floor - 0.25 * floor
        if ribbon:
            _window(
                rng,
                image,
                0.3 * bay,
                sill - window[1],
                columns - 0.3 * bay,
                sill,
                frame,
                panes=round(columns / bay) * 2,
            )
            continue
        for i in range(round(columns / bay)):
            left = (i + 0.5) * bay - window[0] / 2
            _window(rng, image, left, sill - window[1], left + window[0], sill, frame, panes=2)
            if rng.random() < 0.06:
                _balcony(rng, image, left, sill, window[0])
    _ground_floor(rng, image, ground, bay)
    cornice = max(2, round(rng.uniform(0.3, 0.6) * TEXELS))
    image[:cornice] *= rng.uniform(0.6, 1.15)
    image[cornice : cornice + 3] *= 0.6
    streaks = 1 + 0.05 * noise(rng, rows, columns, cell=60, octaves=2)
    return Texture(to_rgba(image * (shade * streaks)[..., None]), BUILDING)


def gable(rng: Rng, width: float, height: float, shade: float, colour: Floats, pitch: float) -> Texture:
    """The bare side of a house: few windows; its top is a triangle ``pitch`` metres high (0: flat)."""
    rows, columns = round((height + pitch) * TEXELS), round(width * TEXELS)
    image = _render(rng, rows, columns, colour)
    for _ in range(rng.integers(0, 5)):
        left, top = rng.uniform(0.1, 0.8) * columns, rng.uniform(0.3, 0.75) * rows
        _window(rng, image, left, top, left + 1.1 * TEXELS, top + 1.5 * TEXELS, np.full(3, 190.0), panes=1)
    alpha = np.full((rows, columns), 255, np.float32)
    if pitch > 0:
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        alpha = np.clip(y - abs(x - columns / 2) * (2 * pitch * TEXELS / columns) + 0.5, 0, 1) * 255
    return Texture(to_rgba(image * shade, alpha), BUILDING)


def roof(rng: Rng, width: float, depth: float, shade: float) -> Texture:
    rows, columns = round(depth * TEXELS), round(width * TEXELS)
    colour = np.array([(120, 66, 50), (74, 70, 70), (96, 72, 58)][rng.integers(3)]) * rng.uniform(0.8, 1.1)
    image = plain(rng, rows, columns, colour, stain=0.08, grain=0.06)
    masonry(rng, image, rows=7, columns=5, mortar=colour * 0.7, spread=0.07)
    return Texture(to_rgba(image * shade), BUILDING)


def wall(rng: Rng, width: float, height: float, shade: float) -> Texture:
    """A garden or retaining wall with a coping: bricks, blocks or concrete in the colours of houses."""
    rows, columns = round(height * TEXELS * 1.5), round(width * TEXELS * 1.5)
    colour = tone(rng)
    image = plain(rng, rows, columns, colour, stain=0.12, grain=0.06)
    kind = rng.integers(3)
    if kind < 2:
        size = (3.5, 9.0) if kind == 0 else (11.0, 18.0)
        masonry(rng, image, rows=size[0], columns=size[1], mortar=colour * 0.75 + 30, spread=0.10)
    image[: max(2, rows // 14)] *= 1.2
    image[-rows // 8 :] *= 0.8
    return Texture(to_rgba(image * shade), WALL)


def fence(rng: Rng, width: float, height: float, shade: float) -> Texture:
    """Wooden boards with narrow gaps, sheet panels between posts, or a railing; gaps are see-through."""
    scale = TEXELS * 2
    rows, columns = round(height * scale), round(width * scale)
    kind = rng.integers(3)
    colour = [tone(rng) * 0.9, np.array([96, 104, 92.0]), np.array([62, 66, 68.0])][kind] * rng.uniform(0.8, 1.2)
    image = plain(rng, rows, columns, colour, stain=0.10, grain=0.08, cell=20)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    pitch, gap = [(0.16, 0.12), (2.0, 0.0), (0.24, 0.45)][kind]
    board = np.floor(x / (pitch * scale)).astype(int)
    image *= (1 + 0.10 * rng.standard_normal(int(board.max()) + 1, np.float32))[board][..., None]
    across = x / (pitch * scale) - board
    solid = across >= gap
    image[across < gap + 0.05] *= 0.6
    rails = (abs(y - 0.15 * rows) < 0.05 * scale) | (abs(y - 0.85 * rows) < 0.05 * scale)
    image[rails] *= 1.15
    alpha = (solid | rails).astype(np.float32) * 255
    alpha[y < 0.04 * rows * (1 + np.sin(x / (pitch * scale) * np.pi * 2))] = 0  # uneven upper edge
    return Texture(to_rgba(image * shade, alpha), FENCE)


def _render(rng: Rng, rows: int, columns: int, colour: Floats) -> Floats:
    image = plain(rng, rows, columns, colour, stain=0.07, grain=0.05)
    if rng.random() < 0.4:
        masonry(rng, image, rows=2.4, columns=6, mortar=colour * 0.7 + 40, spread=0.09)
    return image


def _window(rng: Rng, image: Floats, x0: float, y0: float, x1: float, y1: float, frame: Floats, *, panes: int) -> None:
    """Glass that mirrors sky or shows a dark room or a curtain, with a frame and a bright sill."""
    left, top, right, bottom = (round(v) for v in (x0, y0, x1, y1))
    left, top = max(left, 0), max(top, 0)
    view = image[top:bottom, left:right]
    if min(view.shape[:2]) < 5:
        return
    high = np.array([130, 150, 170]) if rng.random() < 0.35 else np.array([60, 66, 74])
    low = np.array([34, 36, 40]) * rng.uniform(0.7, 1.6)
    fall = np.linspace(0, 1, view.shape[0])[:, None, None] ** rng.uniform(0.5, 2)
    view[:] = high * (1 - fall) + low * fall
    if rng.random() < 0.3:
        view[: int(view.shape[0] * rng.uniform(0.3, 1.0))] = rng.uniform(140, 215)
    for i in range(panes + 1):
        at = min(round(i * (view.shape[1] - 1) / panes), view.shape[1] - 1)
        view[:, at] = frame
    view[0], view[-1] = frame * 0.8, frame
    image[bottom : bottom + 2, max(left - 1, 0) : right + 1] *= 1.2


def _balcony(rng: Rng, image: Floats, left: float, sill: float, width: float) -> None:
    top, bottom = round(sill - 0.3 * TEXELS), round(sill + 0.7 * TEXELS)
    image[max(top, 0) : bottom, max(round(left - 6), 0) : round(left + width + 6)] = rng.uniform(70, 170)


def _ground_floor(rng: Rng, image: Floats, ground: float, bay: float) -> None:
    """Shops with a lettered sign, or doors and windows over a plinth."""
    rows, columns = image.shape[:2]
    top = rows - round(ground)
    if rng.random() < 0.55:
        sign = rng.uniform(30, 220, 3)
        image[top : top + 14] = np.asarray(sign, np.float32) * 0.8
        for at in range(10, columns - 12, 9):
            if rng.random() < 0.6:
                image[top + 4 : top + 10, at : at + rng.integers(3, 8)] = 235 - np.asarray(sign, np.float32) * 0.6
        for i in range(max(1, round(columns / (2 * bay)))):
            step = columns / max(1, round(columns / (2 * bay)))
            _window(
                rng,
                image,
                (i + 0.08) * step,
                top + 18,
                (i + 0.92) * step,
                rows - 8,
                np.full(3, 60.0),
                panes=3,
            )
    else:
        image[rows - 16 :] *= 0.75
        for i in range(round(columns / bay)):
            left = (i + 0.25) * bay
            low = rows - 2 if rng.random() < 0.3 else rows - 22
            _window(rng, image, left, top + 16, left + 0.5 * bay, low, np.full(3, 120.0), panes=2)
