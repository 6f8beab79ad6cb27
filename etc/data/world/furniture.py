"""Trees, poles, lamps, signs and traffic lights.

Local axes: x across, z along the street, origin at the foot.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from etc.data.world.surface import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, City, Surface, upright
from etc.data.world.textures import Rng, Sketch, Texture, crown, hedge, plain, to_rgba

CROWNS = 6  # different crowns in a city
SIGNS = 7


def leaf_colour(city: City, index: int) -> np.ndarray:
    def draw(rng: Rng) -> np.ndarray:
        base = [(70, 88, 46), (58, 80, 52), (92, 96, 48), (112, 92, 46), (64, 74, 40)][rng.integers(5)]
        return np.array(base) * rng.uniform(0.7, 1.15)

    return city.get(("leaf", index), draw)


def tree(city: City, rng: Rng, height: float) -> list[Surface]:
    """A trunk and a crown of four crossing cut-outs."""
    kind = int(rng.integers(CROWNS))
    wide, tall = height * rng.uniform(0.55, 0.75), height * rng.uniform(0.6, 0.7)
    middle = height - tall / 2
    thick = 0.05 * height
    bark = city.get(("bark", kind), _bark)
    parts = [upright((-thick / 2, 0), (thick / 2, 0), 0, middle, bark)]
    for i, (angle, size) in enumerate(((0.0, 1.0), (0.0, 0.75), (0.0, 0.7), (np.pi / 2, 0.9))):
        texture = city.get(
            ("crown", kind, i),
            lambda r: Texture(crown(r, 4.0, 4.0, leaf_colour(city, kind), texels=32), VEGETATION),
        )
        x, z = (0.0, (0.0, -0.22, 0.2, 0.0)[i] * wide)
        x, lift = rng.uniform(-0.15, 0.15) * wide * (i > 0), rng.uniform(-0.12, 0.1) * tall * (i > 0)
        dx, dz = np.cos(angle) * wide * size / 2, np.sin(angle) * wide * size / 2
        half = tall * size / 2
        parts.append(upright((x - dx, z - dz), (x + dx, z + dz), middle + lift - half, middle + lift + half, texture))
    return parts


def bush(city: City, width: float, height: float, index: int) -> Texture:
    """A hedge or shrubbery seen from the side, as a texture of that size."""
    texels = 24 if width < 25 else 8
    key = ("hedge", round(width), round(height, 1), index)
    return city.get(
        key,
        lambda r: Texture(
            hedge(r, width, height, leaf_colour(city, index), ragged=0.3 * height, texels=texels), VEGETATION
        ),
    )


def post(city: City, height: float, thick: float, *, kind: int = 0, z: float = 0.0) -> Surface:
    """A round post seen as a strip, shaded across."""
    return upright((-thick / 2, z), (thick / 2, z), 0, height, city.get(("post", kind), _post))


def lamp(city: City, rng: Rng, side: float) -> list[Surface]:
    """A street lamp whose arm reaches over the road (``side`` = -1: it stands on the left)."""
    height, reach = rng.uniform(6.5, 8.5), rng.uniform(1.2, 2.2)
    arm = city.get(("lamp arm",), _lamp_arm)
    ends = ((0, 0), (-side * reach, 0))
    return [post(city, height, 0.16), upright(*ends, height - 0.35, height + 0.15, arm)]


def sign(city: City, rng: Rng) -> list[Surface]:
    """One or two traffic signs on a thin post."""
    top = rng.uniform(2.3, 3.0)
    parts = [post(city, top, 0.08, kind=1)]
    for i in range(1 if rng.random() < 0.7 else 2):
        kind = int(rng.integers(SIGNS))
        plate = city.get(("sign", kind), partial(_sign, kind=kind))
        size = 0.75 if kind < SIGNS - 1 else 1.3
        parts.append(upright((-size / 2, -0.05), (size / 2, -0.05), top - (i + 1) * 0.75, top - i * 0.75, plate))
    return parts


def traffic_light(city: City, state: int, side: float, *, arm: bool) -> list[Surface]:
    """A signal (``state`` 0 red, 1 amber, 2 green) at the kerb; ``arm``: another one hangs over the lane."""
    head = city.get(("signal", state), lambda r: _signal(r, state))
    parts = [post(city, 3.4, 0.15, kind=2), upright((-0.2, -0.06), (0.2, -0.06), 2.35, 3.35, head)]
    if arm:
        bar = city.get(
            ("signal arm",),
            lambda r: Texture(to_rgba(plain(r, 6, 120, (96, 98, 96), stain=0.1, grain=0.03)), POLE),
        )
        over = -side * 3.6
        parts += [post(city, 5.6, 0.2, kind=2), upright((0, 0), (over, 0), 5.45, 5.6, bar)]
        parts.append(upright((over - 0.22, -0.06), (over + 0.22, -0.06), 4.7, 5.75, head))
    return parts


def _post(rng: Rng) -> Texture:
    colour = np.array([(104, 106, 104), (128, 128, 126), (70, 74, 70), (90, 84, 74)][rng.integers(4)])
    image = plain(rng, 128, 12, colour, stain=0.10, grain=0.03)
    image *= (0.6 + 0.55 * np.sin(np.linspace(0.35, 2.6, 12, dtype=np.float32)))[None, :, None]
    return Texture(to_rgba(image), POLE)


def _bark(rng: Rng) -> Texture:
    image = plain(rng, 96, 16, np.array([74, 62, 50]) * rng.uniform(0.7, 1.3), stain=0.25, grain=0.12, cell=8)
    image *= (0.6 + 0.5 * np.sin(np.linspace(0.3, 2.7, 16, dtype=np.float32)))[None, :, None]
    return Texture(to_rgba(image), VEGETATION)


def _lamp_arm(rng: Rng) -> Texture:
    pad = Sketch(1.6, 0.5, label=POLE)
    pad.limb((0.0, 0.15), (1.1, 0.38), 0.09, (112, 114, 112))
    pad.polygon([(1.0, 0.30), (1.6, 0.34), (1.6, 0.42), (1.0, 0.46)], (150, 150, 146))
    return pad.texture(rng)


def _signal(rng: Rng, state: int) -> Texture:
    pad = Sketch(0.4, 1.0, texels=80, label=TRAFFIC_LIGHT)
    pad.box(0.0, 0.0, 0.4, 1.0, (26, 28, 27))
    for i, colour in enumerate(((230, 40, 30), (240, 170, 40), (60, 220, 150))):
        bright = 1.0 if i == state else 0.22
        pad.disc(0.2, 0.82 - 0.32 * i, 0.13, None, np.asarray(colour) * bright)
    return pad.texture(rng, grain=0.03)


def _sign(rng: Rng, kind: int) -> Texture:
    """Discs, triangle, rhombus, squares, and a wide direction board."""
    wide = kind == SIGNS - 1
    pad = Sketch(1.3 if wide else 0.75, 0.75, texels=64, label=TRAFFIC_SIGN)
    red, white, blue = (176, 30, 34), (226, 226, 222), (34, 74, 150)
    if kind in (0, 1):
        pad.disc(0.375, 0.375, 0.36, None, red)
        if kind == 0:
            pad.disc(0.375, 0.375, 0.27, None, white)
            pad.box(0.25, 0.28, 0.5, 0.47, (30, 30, 30))
        else:
            pad.box(0.14, 0.31, 0.61, 0.44, white)
    elif kind == 2:
        pad.polygon([(0.02, 0.05), (0.73, 0.05), (0.375, 0.72)], red)
        pad.polygon([(0.15, 0.13), (0.60, 0.13), (0.375, 0.55)], white)
    elif kind == 3:
        pad.polygon([(0.375, 0.02), (0.73, 0.375), (0.375, 0.73), (0.02, 0.375)], white)
        pad.polygon([(0.375, 0.12), (0.63, 0.375), (0.375, 0.63), (0.12, 0.375)], (226, 186, 40))
    elif kind == 4:
        pad.disc(0.375, 0.375, 0.36, None, blue)
        pad.polygon([(0.375, 0.62), (0.55, 0.40), (0.2, 0.40)], white)
        pad.box(0.33, 0.14, 0.42, 0.42, white)
    elif kind == 5:
        pad.box(0.04, 0.02, 0.71, 0.73, blue)
        pad.box(0.22, 0.15, 0.32, 0.6, white)
        pad.disc(0.40, 0.48, 0.14, None, white)
    else:
        board = (210, 170, 40) if rng.random() < 0.5 else blue
        pad.box(0.02, 0.05, 1.28, 0.70, board)
        for y in (0.18, 0.44):
            pad.box(0.15, y, rng.uniform(0.6, 1.1), y + 0.12, (30, 30, 30) if board != blue else white)
    return pad.texture(rng, grain=0.03)
