"""Planar surfaces and the shapes that street objects are put together from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from etc.data.world.geometry import Array
from etc.data.world.textures import Rng, Texture

SKY, GROUND, DECAL, SOLID = range(4)  # painting layers; within a layer far surfaces come first
T = TypeVar("T")

# Cityscapes labelIds
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN = 7, 8, 11, 12, 13, 17, 19, 20
VEGETATION, TERRAIN, SKY_LABEL, PERSON, RIDER, CAR, TRUCK, BUS = 21, 22, 23, 24, 25, 26, 27, 28
TRAIN, MOTORCYCLE, BICYCLE = 31, 32, 33


@dataclass(frozen=True)
class Surface:
    """A textured parallelogram in the coordinates of its body, see ``geometry``.

    ``infinite``: ``origin`` is a direction. ``facing``: it is seen only from the side to which ``facing *
    (right x down)`` points; 0: from both.
    """

    origin: Array
    right: Array
    down: Array
    texture: Texture
    body: int = 0
    layer: int = SOLID
    infinite: bool = False
    facing: int = 0


@dataclass
class City:
    """Looks shared by all streets of one style: a key gives the same texture whatever was made before."""

    style_seed: int
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def rng(self, *key: Hashable) -> Rng:
        return np.random.default_rng([self.style_seed, crc32(repr(key).encode())])

    def get(self, key: tuple[Hashable, ...], make: Callable[[Rng], T]) -> T:
        if key not in self._made:
            self._made[key] = make(self.rng(*key))
        return self._made[key]


def upright(
    start: tuple[float, float],
    end: tuple[float, float],
    base: float,
    top: float,
    texture: Texture,
    *,
    facing: int = 0,
) -> Surface:
    """A vertical rectangle over the ground line from ``start`` to ``end`` (x, z), between two heights."""
    return Surface(
        origin=np.array([start[0], -top, start[1]]),
        right=np.array([end[0] - start[0], 0.0, end[1] - start[1]]),
        down=np.array([0.0, top - base, 0.0]),
        texture=texture,
        facing=facing,
    )


def flat(
    x: tuple[float, float],
    z: tuple[float, float],
    texture: Texture,
    *,
    height: float = 0.0,
    layer: int = SOLID,
) -> Surface:
    """A horizontal rectangle; the texture's top is at the far end ``z[1]``."""
    return Surface(
        origin=np.array([x[0], -height, z[1]]),
        right=np.array([x[1] - x[0], 0.0, 0.0]),
        down=np.array([0.0, 0.0, z[0] - z[1]]),
        texture=texture,
        layer=layer,
    )


def extrude(profile: Sequence[tuple[float, float]], width: float, skins: Sequence[Texture]) -> list[Surface]:
    """One rectangle across ``width`` for each edge of a side view, textured by ``skins``.

    The profile of (z, height) points runs from the tail over the top to the nose; a texture's top is at the
    higher end of its edge.
    """
    parts = []
    for start, end, skin in zip(profile[:-1], profile[1:], skins, strict=True):
        rising = end[1] >= start[1]
        (z0, y0), (z1, y1) = (start, end) if rising else (end, start)
        origin, down = np.array([-width / 2, -y1, z1]), np.array([0.0, y1 - y0, z0 - z1])
        facing = -1 if rising else 1  # outwards
        parts.append(Surface(origin, np.array([width, 0.0, 0.0]), down, skin, facing=facing))
    return parts
