"""Cars, vans, lorries, buses and trams: extruded side views.

Local axes: x across, +z ahead, origin under the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from etc.data.world.surface import BUS, CAR, DECAL, TRAIN, TRUCK, City, Surface, extrude, flat, upright
from etc.data.world.textures import Floats, Rng, Sketch, Texture, plain, to_rgba

# side views, tail to nose: (metres ahead of the tail, height)
PROFILES = {
    "hatchback": ((0.0, 0), (0.03, 0.9), (0.38, 1.42), (2.35, 1.45), (3.2, 0.95), (4.1, 0.76), (4.15, 0)),
    "sedan": ((0, 0), (0.02, 0.92), (0.75, 1), (1.45, 1.4), (2.6, 1.4), (3.4, 0.95), (4.5, 0.76), (4.55, 0)),
    "suv": ((0.0, 0.0), (0.02, 1.02), (0.22, 1.68), (2.6, 1.70), (3.3, 1.08), (4.3, 0.96), (4.35, 0.0)),
    "van": ((0.0, 0.0), (0.02, 1.05), (0.10, 1.95), (3.9, 1.95), (4.6, 1.12), (5.0, 0.95), (5.05, 0.0)),
}  # fmt: skip
PAINTS = ((22, 22, 24), (70, 72, 76), (150, 153, 156), (205, 206, 204), (36, 48, 88), (120, 24, 26),
          (60, 72, 60), (96, 88, 76), (176, 160, 60))  # fmt: skip
GLASS = np.array([38.0, 44.0, 50.0])
TYRE = (24, 24, 26)


def car(city: City, kind: str, paint: int) -> list[Surface]:
    """A car of about 1.8 m width."""
    colour = np.asarray(PAINTS[paint % len(PAINTS)], np.float32)
    profile, width = PROFILES[kind], 1.95 if kind == "van" else 1.8
    length, belt = profile[-1][0], profile[1][1]
    key = (kind, paint)
    tail = city.get(("tail", *key), lambda rng: _end(rng, width, belt, colour * 0.85, rear=True))
    nose = city.get(("nose", *key), lambda rng: _end(rng, width, profile[-2][1], colour * 0.9, rear=False))
    glass = city.get(("glass", *key), lambda rng: _screen(rng, width, colour))
    sheet = city.get(("sheet", *key), lambda rng: _sheet(rng, width, colour * 1.1 + 12, CAR))
    skins = [tail, *([sheet] if kind == "sedan" else []), glass, sheet, glass, sheet, nose]
    parts = extrude(profile, width, skins)
    for x, shade in ((-width / 2, 0.8), (width / 2, 0.95)):
        side = city.get(("side", shade, *key), partial(_car_side, profile=profile, belt=belt, colour=colour * shade))
        parts.append(upright((x, 0), (x, length), 0, _roof(profile), side, facing=1 if x < 0 else -1))
    return [*_centred(parts, length), shadow(city, width, length)]


def box_vehicle(city: City, kind: str, paint: int) -> list[Surface]:
    """``"bus"``, ``"tram"`` or ``"truck"`` (a cab before a separate box)."""
    if kind == "truck":
        body, cab = (0.0, 0.5, 6.0, 3.3), (6.15, 0.0, 1.9, 2.6)
        parts = _block(city, "box", TRUCK, paint, body) + _block(city, "cab", TRUCK, paint + 3, cab)
        wheels = city.get(("truck wheels",), lambda rng: _truck_wheels(rng, 8.0))
        parts += [upright((x, 0), (x, 8.0), 0, 1.0, wheels) for x in (-1.15, 1.15)]
        parts.append(upright((-1.2, 0.2), (1.2, 0.2), 0, 0.55, city.get(("truck tail",), _truck_tail)))
        return [*_centred(parts, 8.05), shadow(city, 2.4, 8.05)]
    length, height, label = (11.0, 3.1, BUS) if kind == "bus" else (19.0, 3.4, TRAIN)
    parts = _block(city, kind, label, paint, (0, 0, length, height))
    return [*_centred(parts, length), shadow(city, 2.5, length)]


def shadow(city: City, width: float, length: float) -> Surface:
    """Soft contact shadow: darkens the ground but belongs to no object (its alpha stays below one half)."""

    def make(_: Rng) -> Texture:
        y, x = np.mgrid[-1:1:48j, -1:1:24j].astype(np.float32)
        alpha = np.clip((1 - np.abs(x)) * 4, 0, 1) * np.clip((1 - np.abs(y)) * 8, 0, 1) * 118
        return Texture(to_rgba(np.full((48, 24, 3), 8, np.float32), alpha), 0)

    half = width / 2 + 0.2, length / 2 + 0.25
    texture = city.get(("contact shadow",), make)
    return flat((-half[0], half[0]), (-half[1], half[1]), texture, height=0.015, layer=DECAL)


def _centred(parts: Sequence[Surface], length: float) -> list[Surface]:
    return [replace(part, origin=part.origin - np.array([0, 0, length / 2])) for part in parts]


def _roof(profile: Sequence[tuple[float, float]]) -> float:
    return max(height for _, height in profile)


def _sheet(rng: Rng, width: float, colour: Floats, label: int) -> Texture:
    return Texture(to_rgba(plain(rng, 40, round(width * 25), colour, stain=0.08, grain=0.02, cell=20)), label)


def _screen(rng: Rng, width: float, colour: Floats) -> Texture:
    """A window with its pillars; the sky is mirrored in its upper part."""
    pad = Sketch(width, 0.7, label=CAR)
    pad.box(0, 0, width, 0.7, colour)
    pad.polygon([(0.10, 0.05), (width - 0.10, 0.05), (width - 0.18, 0.65), (0.18, 0.65)], GLASS)
    pad.polygon([(0.16, 0.40), (width - 0.16, 0.55), (width - 0.18, 0.65), (0.18, 0.65)], GLASS + rng.uniform(20, 60))
    return pad.texture(rng)


def _end(rng: Rng, width: float, height: float, colour: Floats, *, rear: bool) -> Texture:
    """Tail or nose: bumper, lamps, number plate, and the tyres under it."""
    pad = Sketch(width, height, label=CAR)
    for x in (0.06, width - 0.28):
        pad.box(x, 0, x + 0.22, 0.4, TYRE)
    pad.box(0, 0.28, width, height, colour)
    pad.box(0, 0.28, width, 0.46, colour * 0.65)
    lamp = (170, 22, 20) if rear else (225, 225, 205)
    for x in (0.05, width - 0.37):
        pad.box(x, height - 0.34, x + 0.32, height - 0.14, lamp)
    if not rear:
        pad.box(width / 2 - 0.4, height - 0.32, width / 2 + 0.4, height - 0.16, (28, 28, 30))
    pad.box(width / 2 - 0.27, 0.42, width / 2 + 0.27, 0.54, (225, 225, 220))
    return pad.texture(rng, grain=0.05)


def _car_side(rng: Rng, profile: Sequence[tuple[float, float]], belt: float, colour: Floats) -> Texture:
    length, roof = profile[-1][0], _roof(profile)
    pad = Sketch(length, roof, label=CAR)
    pad.polygon([(0.05, 0.3), *profile[1:-1], (length - 0.05, 0.3)], colour)
    pad.polygon([(0.02, 0.30), (length - 0.02, 0.30), (length - 0.05, 0.42), (0.05, 0.42)], colour * 0.6)
    top = [z for z, y in profile if y > roof - 0.1]
    screen = next(z for z, y in profile if z > top[-1] and y < roof - 0.2)
    tail = max(z for z, y in profile if z < top[0])
    low, high, middle = belt + 0.04, roof - 0.09, (top[0] + top[-1]) / 2
    shine = GLASS + rng.uniform(0, 50)
    pad.polygon([(tail + 0.18, low), (middle - 0.04, low), (middle - 0.04, high), (top[0] + 0.08, high)], shine)
    pad.polygon([(middle + 0.04, low), (screen - 0.2, low), (top[-1] - 0.03, high), (middle + 0.04, high)], shine)
    for x in (0.19 * length, 0.80 * length):
        pad.disc(x, 0.36, 0.38, None, np.full(3, 14.0))
        pad.disc(x, 0.32, 0.32, None, TYRE)
        pad.disc(x, 0.32, 0.19, None, (128, 130, 132))
    pad.box(0.0, belt - 0.22, 0.14, belt - 0.06, (160, 24, 20))
    return pad.texture(rng, grain=0.05)


def _block(city: City, kind: str, label: int, paint: int, place: tuple[float, float, float, float]) -> list[Surface]:
    """A box from ``place`` = (tail, underside, length, height)."""
    start, base, length, top = place
    width = 2.4
    key = (kind, paint)
    colour = city.get(("livery", *key), _livery)
    parts = []
    for x, shade in ((-width / 2, 0.8), (width / 2, 1.0)):
        flank = partial(_flank, kind=kind, label=label, size=(length, top - base), colour=colour * shade)
        side = city.get(("flank", shade, *key), flank)
        facing = 1 if x < 0 else -1
        parts.append(upright((x, start), (x, start + length), base, top, side, facing=facing))
    for z, rear in ((start, True), (start + length, False)):
        face = partial(_face, kind=kind, label=label, size=(width, top - base), colour=colour, rear=rear)
        end = city.get(("end", rear, *key), face)
        facing = -1 if rear else 1
        parts.append(upright((-width / 2, z), (width / 2, z), base, top, end, facing=facing))
    return parts


def _livery(rng: Rng) -> Floats:
    base = np.array([(200, 200, 195), (190, 150, 40), (150, 40, 36), (50, 90, 140), (60, 120, 80), (120, 116, 108)])
    return (base[rng.integers(len(base))] * rng.uniform(0.75, 1.05)).astype(np.float32)


def _flank(rng: Rng, kind: str, label: int, size: tuple[float, float], colour: Floats) -> Texture:
    length, height = size
    pad = Sketch(length, height, texels=30, label=label)
    pad.box(0, {"box": 0.0, "tram": 0.12}.get(kind, 0.35), length, height, colour)
    if kind == "box":
        stripe = rng.uniform(20, 220, 3)
        pad.box(0.3 * length, 0.35 * height, 0.75 * length, 0.65 * height, stripe)
        for x in np.arange(0.0, length, 1.0):
            pad.box(x, 0, x + 0.04, height, colour * 0.75)
        return pad.texture(rng, grain=0.06)
    glass = GLASS + rng.uniform(0, 45)
    if kind == "tram":  # a skirt hides the wheels, one band of windows, pale above
        pad.box(0, height - 0.6, length, height, colour * 0.3 + 140)
        pad.box(0, 1.2, length, height - 0.7, glass)
        for x in np.arange(1.2, length, 3.0):
            pad.box(x, 0.3, x + 1.3, height - 0.6, colour * 0.8)
            pad.box(x + 0.1, 0.5, x + 1.2, height - 0.75, glass * 1.2)
        return pad.texture(rng)
    pad.box(0, 0.35, length, 0.7, colour * 0.6)
    step = 1.5
    for x in np.arange(0.2, length - 1.0, step):
        door = kind != "cab" and int(x / step) % 4 == 2
        right, top = min(x + step - 0.15, length - 0.1), min(2.4, height - 0.4)
        pad.box(x, 0.45 if door else 1.3, right, top, GLASS + rng.uniform(0, 45))
    for x in (0.22 * length, 0.78 * length) if kind != "cab" else (0.5 * length,):
        pad.disc(x, 0.45, 0.48, None, TYRE)
        pad.disc(x, 0.45, 0.24, None, (110, 110, 112))
    return pad.texture(rng)


def _face(rng: Rng, kind: str, label: int, size: tuple[float, float], colour: Floats, *, rear: bool) -> Texture:
    width, height = size
    pad = Sketch(width, height, texels=40, label=label)
    pad.box(0, 0 if kind == "box" else 0.3, width, height, colour * 0.9)
    if kind == "box":
        pad.box(width / 2 - 0.02, 0, width / 2 + 0.02, height, colour * 0.5)
        for x in (0.15, width - 0.3):
            pad.box(x, 0.1, x + 0.06, height - 0.1, colour * 0.65)
    else:
        if kind == "tram":
            pad.box(0.25, 0.12, width - 0.25, 0.9, colour * 0.5)
        else:
            for x in (0.1, width - 0.4):
                pad.box(x, 0, x + 0.3, 0.5, TYRE)
        low = 1.5 if rear else 1.1
        pad.box(0.15, low, width - 0.15, height - 0.5, GLASS + rng.uniform(0, 30))
        pad.box(0.5, height - 0.42, width - 0.5, height - 0.15, (24, 24, 24))
        pad.box(0.7, height - 0.36, width - 0.9, height - 0.2, (220, 160, 40))
    lamp = (170, 24, 20) if rear else (230, 230, 210)
    for x in (0.08, width - 0.36):
        pad.box(x, 0.55, x + 0.28, 0.75, lamp)
    return pad.texture(rng, grain=0.05)


def _truck_wheels(rng: Rng, length: float) -> Texture:
    pad = Sketch(length, 1.0, texels=40, label=TRUCK)
    pad.box(0.2, 0.42, length - 1.8, 0.62, (44, 44, 46))
    for x in (0.9, 2.0, length - 1.0):
        pad.disc(x, 0.46, 0.46, None, TYRE)
        pad.disc(x, 0.46, 0.22, None, (120, 120, 120))
    return pad.texture(rng)


def _truck_tail(rng: Rng) -> Texture:
    pad = Sketch(2.4, 0.55, label=TRUCK)
    for x in (0.1, 1.8):
        pad.box(x, 0, x + 0.5, 0.5, TYRE)
    pad.box(0.1, 0.4, 2.3, 0.55, (60, 60, 62))
    for x in (0.1, 2.05):
        pad.box(x, 0.42, x + 0.25, 0.53, (180, 26, 22))
    return pad.texture(rng)
