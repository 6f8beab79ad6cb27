"""Cut-outs of pedestrians and two-wheelers. Metres; limbs are separate so that they can swing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from etc.data.world.surface import BICYCLE, MOTORCYCLE, PERSON, RIDER
from etc.data.world.textures import Floats, Rng, Sketch, Texture

SKINS = ((206, 164, 138), (160, 116, 88), (100, 72, 58), (222, 186, 160))
HIP = 0.86  # metres above the ground


def _cloth(rng: Rng) -> Floats:
    """Mostly dark or muted, sometimes bright."""
    grey = rng.uniform(25, 150)
    return np.clip(grey + rng.uniform(-40, 40, 3) * (1 if rng.random() < 0.7 else 2.2), 8, 235).astype(np.float32)


def _skin(rng: Rng) -> Floats:
    return np.asarray(SKINS[rng.integers(len(SKINS))], np.float32)


def torso(rng: Rng) -> Texture:
    """Upper body and head, 0.7 m wide, from the hip to 1.75 m; drawn over 0.95 m of height."""
    pad, coat, skin, hair = (
        Sketch(0.7, 0.95, texels=60, label=PERSON),
        _cloth(rng),
        _skin(rng),
        rng.uniform(20, 110, 3),
    )
    hem = rng.uniform(-0.05, 0.05)
    pad.limb((0.16, 0.62), (0.12, 0.12), 0.11, coat * 0.8)
    pad.polygon([(0.17, 0.02 + hem), (0.53, 0.02 + hem), (0.56, 0.60), (0.46, 0.70), (0.24, 0.70), (0.14, 0.60)], coat)
    pad.limb((0.54, 0.62), (0.58, 0.12), 0.11, coat * 0.9)
    pad.disc(0.58, 0.09, 0.05, None, skin)
    pad.box(0.31, 0.66, 0.39, 0.74, skin * 0.85)
    pad.disc(0.35, 0.80, 0.095, 0.125, skin)
    pad.polygon(
        [(0.25, 0.80), (0.26, 0.90), (0.35, 0.94), (0.44, 0.90), (0.45, 0.80), (0.40, 0.87), (0.30, 0.87)],
        hair,
    )
    if rng.random() < 0.35:
        pad.box(0.10, 0.28, 0.26, 0.56, _cloth(rng))  # a bag
    return pad.texture(rng, grain=0.10)


def leg(rng: Rng, shade: float, key: Floats) -> Texture:
    """One leg, 0.4 m wide, hanging from (0.2, 0.9)."""
    pad = Sketch(0.4, 0.92, texels=60, label=PERSON)
    pad.limb((0.20, 0.80), (0.19, 0.45), 0.17, key * shade)
    pad.limb((0.19, 0.45), (0.17, 0.08), 0.13, key * shade)
    pad.limb((0.17, 0.04), (0.26, 0.04), 0.07, np.full(3, 30.0))
    return pad.texture(rng, grain=0.08)


def trousers(rng: Rng) -> Floats:
    return _cloth(rng) * 0.8


def bicycle_side(rng: Rng, ridden: bool) -> Texture:
    """1.8 m long, 1.9 m high, heading right; with its rider or leaning alone."""
    pad = Sketch(1.8, 1.9, texels=50, label=BICYCLE)
    paint = rng.uniform(20, 200, 3)
    for x in (0.38, 1.42):
        pad.ring(x, 0.34, 0.32, 0.05, (28, 28, 30))
        pad.disc(x, 0.34, 0.05, None, (120, 120, 120))
    bars = [(0.38, 0.34), (0.80, 0.32), (0.68, 0.80), (1.28, 0.82), (0.80, 0.32)]
    for start, end in pairwise(bars):
        pad.limb(start, end, 0.05, paint)
    pad.limb((0.38, 0.34), (0.68, 0.78), 0.04, paint)
    pad.limb((1.42, 0.34), (1.26, 0.98), 0.05, paint)
    pad.limb((1.26, 0.98), (1.14, 1.04), 0.05, (30, 30, 30))
    pad.limb((0.58, 0.90), (0.80, 0.90), 0.07, (30, 30, 30))
    if ridden:
        _rider(rng, pad, saddle=(0.68, 0.94), pedal=(0.86, 0.26), grip=(1.18, 1.08))
    return pad.texture(rng)


def motorcycle_side(rng: Rng, ridden: bool) -> Texture:
    """2.1 m long, 1.8 m high, heading right."""
    pad = Sketch(2.1, 1.8, texels=50, label=MOTORCYCLE)
    paint = rng.uniform(15, 190, 3)
    for x in (0.36, 1.72):
        pad.disc(x, 0.33, 0.33, None, (26, 26, 28))
        pad.disc(x, 0.33, 0.16, None, (110, 110, 112))
    pad.polygon([(0.30, 0.45), (0.75, 0.25), (1.35, 0.25), (1.50, 0.55), (1.35, 0.78), (0.35, 0.80)], (58, 58, 62))
    pad.polygon([(0.95, 0.70), (1.50, 0.72), (1.48, 0.98), (1.05, 0.98)], paint)
    pad.polygon([(0.15, 0.72), (1.00, 0.72), (0.95, 0.86), (0.10, 0.92)], paint * 0.6)
    pad.limb((1.72, 0.33), (1.46, 1.05), 0.08, (120, 120, 120))
    pad.limb((1.46, 1.05), (1.26, 1.10), 0.06, (30, 30, 30))
    pad.disc(1.56, 0.92, 0.09, None, (220, 220, 200))
    if ridden:
        _rider(rng, pad, saddle=(0.80, 0.90), pedal=(1.00, 0.35), grip=(1.28, 1.12), helmet=True)
    return pad.texture(rng)


def two_wheeler_back(rng: Rng, label: int) -> Texture:
    """Rider and machine from behind or ahead, 0.8 m wide, 1.85 m high."""
    pad = Sketch(0.8, 1.85, texels=60, label=label)
    coat, legs, skin = _cloth(rng), trousers(rng), _skin(rng)
    broad = 0.06 if label == BICYCLE else 0.14
    pad.box(0.40 - broad / 2, 0.0, 0.40 + broad / 2, 0.7, (28, 28, 30))
    if label == MOTORCYCLE:
        pad.box(0.22, 0.35, 0.58, 0.85, rng.uniform(15, 190, 3))
        pad.box(0.35, 0.62, 0.45, 0.68, (190, 30, 30))
    pad.limb((0.12, 1.02), (0.68, 1.02), 0.04, (40, 40, 40))
    limbs = [
        ((0.33, 0.88), (0.24, 0.55)),
        ((0.24, 0.55), (0.28, 0.28)),
        ((0.47, 0.88), (0.56, 0.62)),
        ((0.56, 0.62), (0.52, 0.40)),
    ]
    for start, end in limbs:
        pad.limb(start, end, 0.13, legs, RIDER)
    pad.polygon([(0.26, 0.85), (0.54, 0.85), (0.62, 1.36), (0.50, 1.46), (0.30, 1.46), (0.18, 1.36)], coat, RIDER)
    for x, hand in ((0.20, 0.12), (0.60, 0.68)):
        pad.limb((x, 1.34), (hand, 1.06), 0.10, coat * 0.85, RIDER)
    head = skin if label == BICYCLE else rng.uniform(20, 220, 3)
    pad.disc(0.40, 1.60, 0.11, 0.14, head, RIDER)
    pad.disc(0.40, 1.66, 0.12, 0.10, rng.uniform(20, 160, 3), RIDER)
    return pad.texture(rng)


def _rider(
    rng: Rng,
    pad: Sketch,
    *,
    saddle: tuple[float, float],
    pedal: tuple[float, float],
    grip: tuple[float, float],
    helmet: bool = False,
) -> None:
    coat, legs, skin = _cloth(rng), trousers(rng), _skin(rng)
    (x, y), knee = saddle, (saddle[0] + 0.36, saddle[1] - 0.20)
    shoulder = (x + 0.26, y + 0.50)
    pad.limb((x, y + 0.02), knee, 0.17, legs, RIDER)
    pad.limb(knee, pedal, 0.13, legs, RIDER)
    pad.limb(pedal, (pedal[0] + 0.12, pedal[1] - 0.02), 0.08, (30, 30, 30), RIDER)
    pad.limb((x + 0.02, y + 0.08), shoulder, 0.26, coat, RIDER)
    pad.limb(shoulder, grip, 0.10, coat * 0.8, RIDER)
    pad.disc(shoulder[0] + 0.08, shoulder[1] + 0.24, 0.10, 0.12, skin, RIDER)
    cap = 0.14 if helmet else 0.10
    pad.disc(shoulder[0] + 0.06, shoulder[1] + 0.28, cap, cap * 0.9, rng.uniform(20, 200, 3), RIDER)
