"""What stands beside a street: houses, gardens, walls, fences, hedges and parks."""

from __future__ import annotations

import numpy as np

from etc.data.world import facades, furniture
from etc.data.world.geometry import Body
from etc.data.world.ground import REACH
from etc.data.world.street import BEHIND, Street
from etc.data.world.surface import SIDEWALK, Surface, upright


def line_with_lots(street: Street, side: int) -> None:
    """House after house, garden after garden, up to the end of the street."""
    rng, z = street.rng, BEHIND
    front = side * (street.half + street.walk)
    while z < street.end:
        width = float(rng.uniform(9, 18))
        stop = min(z + width, street.end)
        if z < street.crossing[0] < stop + 3:
            stop = street.crossing[0] - 1.5
        elif not street.clear_of_crossing(z, 0):
            z = street.crossing[1] + 1.5
            continue
        if stop - z > 3:
            _lot(street, side, front, z, stop)
        z = stop + (0.0 if rng.random() < 0.8 else rng.uniform(1, 4))
        if abs(stop - street.crossing[0] + 1.5) < 1e-9:
            z = street.crossing[1] + 1.5


def _lot(street: Street, side: int, front: float, z0: float, z1: float) -> None:
    rng = street.rng
    open_lots = 0.9 - 0.65 * street.urban
    odds = [1 - open_lots, *(open_lots * np.array([0.22, 0.32, 0.30, 0.16]))]
    kind = str(rng.choice(["house", "garden", "walled", "fenced", "park"], p=odds))
    if kind == "house":
        street.ground.paint("slabs", (front, side * REACH), (z0, z1), SIDEWALK)
        _house(street, side, front, z0, z1)
        return
    if kind != "park":
        _house(street, side, front + side * float(rng.uniform(3, 8)), z0, z1)
        _border(street, side, front, kind, z0, z1)
    for _ in range(int(rng.integers(3, 6) if kind == "park" else rng.integers(0, 3))):
        x, z = front + side * rng.uniform(1.5, 6 if kind == "park" else 3), rng.uniform(z0 + 1, z1 - 1)
        street.add(furniture.tree(street.city, rng, rng.uniform(4, 9)), Body(x=x, z=z))


def _border(street: Street, side: int, front: float, kind: str, z0: float, z1: float) -> None:
    """A wall, fence or hedge along the pavement, and back towards the house at the near end."""
    city, rng, length = street.city, street.rng, round(z1 - z0)
    index, shade = int(rng.integers(6)), 0.8 if side > 0 else 1.05
    low, high = {"walled": (12, 26), "fenced": (10, 19), "garden": (8, 20)}[kind]
    tall = int(rng.integers(low, high)) / 10
    if kind == "garden":
        texture = furniture.bush(city, length, tall, index)
    else:
        draw = facades.wall if kind == "walled" else facades.fence
        texture = city.get((kind, length, tall, side, index), lambda r: draw(r, length, tall, shade))
    street.add(
        [
            upright((front, z0), (front, z1), 0, tall, texture),
            upright((front, z0), (front + side * 6, z0), 0, tall, texture),
        ]
    )


def _house(street: Street, side: int, front: float, z0: float, z1: float) -> None:
    """A block with its street front, the bare side towards the camera, and maybe a pitched roof."""
    rng, city = street.rng, street.city
    index, length = int(rng.integers(8)), round(z1 - z0)
    floors = int(rng.integers(1, 4) if rng.random() > street.urban else rng.integers(2, 6))
    depth, pitch = 9.0, float(rng.choice([0.0, 3.0]))
    colour = city.get(("house colour", index), facades.tone)
    tall = 3.6 + 3.1 * floors + 0.6
    key = (index, floors, length, side)
    shade = 0.75 if side > 0 else 1.05
    face = city.get(("facade", *key), lambda r: facades.facade(r, length, tall, shade, colour))
    bare = city.get(("gable", *key, pitch), lambda r: facades.gable(r, depth, tall, 0.88, colour, pitch))
    back = front + side * depth
    parts = [
        upright((front, z0), (front, z1), 0, tall, face),
        upright((front, z0), (back, z0), 0, tall + pitch, bare),
    ]
    if pitch:
        tiles = city.get(("roof", *key), lambda r: facades.roof(r, length, 5.4, shade))
        ridge = np.array([front + side * depth / 2, -(tall + pitch), z0])
        parts.append(Surface(ridge, np.array([0.0, 0.0, z1 - z0]), np.array([-side * depth / 2, pitch, 0.0]), tiles))
    street.add(parts)
