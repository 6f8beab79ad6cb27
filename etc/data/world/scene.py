"""Lays out a street: lots with houses and gardens on both sides, furniture, traffic and people."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from etc.data.world import facades, furniture, people, vehicles
from etc.data.world.geometry import Array, Body, Camera, Sway
from etc.data.world.ground import REACH, Ground, lay_carriageway, lay_crossing
from etc.data.world.surface import (
    BICYCLE,
    BUILDING,
    MOTORCYCLE,
    SIDEWALK,
    SKY,
    SKY_LABEL,
    City,
    Surface,
    upright,
)
from etc.data.world.textures import Rng, Texture, sky

VIEW = 120.0  # metres of street beyond the last camera position
BEHIND = -4.0


@dataclass(frozen=True)
class Scene:
    """Everything there is: ``surfaces[i].body`` indexes ``bodies``; body 0 never moves. ``haze`` is an RGB colour."""

    surfaces: list[Surface]
    bodies: list[Body]
    camera: Camera
    haze: Array


@dataclass
class Street:
    """A street under construction. ``half``: half the road's width; ``walk``: the pavements'; ``crossing``: z range."""

    city: City
    rng: Rng
    end: float
    half: float
    walk: float
    crossing: tuple[float, float]
    ground: Ground
    surfaces: list[Surface] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=lambda: [Body()])

    def add(self, parts: list[Surface], body: Body | None = None, *, scale: float = 1.0) -> None:
        """Put an object, given in local coordinates, on its ``body``; without one, ``parts`` are world coordinates."""
        index = 0
        if body is not None:
            index = len(self.bodies)
            self.bodies.append(body)
        for part in parts:
            grown = (part.origin * scale, part.right * scale, part.down * scale)
            self.surfaces.append(Surface(*grown, part.texture, index, part.layer, part.infinite, part.facing))

    def clear_of_crossing(self, z: float, margin: float) -> bool:
        return not self.crossing[0] - margin < z < self.crossing[1] + margin


def build_street(*, seed: int, style_seed: int, height: int, width: int, frames: int) -> Scene:
    """The street of ``seed`` in the looks of ``style_seed``, long enough for ``frames`` frames."""
    rng = np.random.default_rng([seed, 15485863])
    city = City(style_seed)
    half, walk = rng.uniform(5.2, 6.4), rng.uniform(2.2, 3.6)
    camera = Camera.draw(rng, height, width, lane=(half - 2.1) / 2)
    end = camera.speed * frames + VIEW
    middle = rng.uniform(26, 46)
    crossing = (middle - 4.0, middle + 4.0)
    ground = Ground(city, BEHIND, end)
    street = Street(city, rng, end, half, walk, crossing, ground)
    lay_carriageway(ground, rng, half, walk, BEHIND, end)
    for side in (-1, 1):
        _line_with_lots(street, side)
    lay_crossing(ground, rng, half, middle, 8.0)
    _close_the_view(street)
    _furnish(street)
    _park(street)
    _drive(street, camera)
    _populate(street)
    street.surfaces.append(ground.surface(rng))
    haze = np.array([196.0, 202.0, 206.0]) * city.rng("haze").uniform(0.85, 1.05)
    return Scene(street.surfaces, street.bodies, camera, haze)


def _line_with_lots(street: Street, side: int) -> None:
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
    kind = street.rng.choice(["house", "garden", "walled", "fenced", "park"], p=[0.5, 0.12, 0.14, 0.14, 0.10])
    setback = 0.0 if kind == "house" else float(street.rng.uniform(3, 8))
    if kind == "house":
        street.ground.paint("slabs", tuple(sorted((front, side * REACH))), (z0, z1), SIDEWALK)
    if kind != "park":
        _house(street, side, front + side * setback, z0, z1)
    city, shade, length = street.city, 0.8 if side > 0 else 1.05, z1 - z0
    index = int(street.rng.integers(6))
    border = (front, z0), (front, z1)
    if kind == "walled":
        tall = float(street.rng.uniform(1.2, 2.6))
        texture = city.get(("wall", round(length), index), lambda r: facades.wall(r, length, tall, shade))
        street.add(
            [
                upright(*border, 0, tall, texture),
                upright((front, z0), (front + side * 6, z0), 0, tall, texture),
            ]
        )
    elif kind == "fenced":
        tall = float(street.rng.uniform(1.0, 1.9))
        texture = city.get(("fence", round(length), index), lambda r: facades.fence(r, length, tall, shade))
        street.add(
            [
                upright(*border, 0, tall, texture),
                upright((front, z0), (front + side * 6, z0), 0, tall, texture),
            ]
        )
    elif kind == "garden":
        tall = float(street.rng.uniform(0.8, 2.0))
        hedge = furniture.bush(city, length, tall, index)
        street.add(
            [upright(*border, 0, tall, hedge), upright((front, z0), (front + side * 3, z0), 0, tall, hedge)]
        )
    for _ in range(int(street.rng.integers(0, 3)) + 3 * (kind == "park") if kind != "house" else 0):
        x, z = (
            front + side * street.rng.uniform(1.5, 6 if kind == "park" else 3),
            street.rng.uniform(z0 + 1, z1 - 1),
        )
        street.add(furniture.tree(city, street.rng, street.rng.uniform(4, 9)), Body(x=x, z=z))


def _house(street: Street, side: int, front: float, z0: float, z1: float) -> None:
    """A block with its street front, the bare side towards the camera, and maybe a pitched roof."""
    rng, city = street.rng, street.city
    index, length = int(rng.integers(8)), z1 - z0
    floors = int(rng.integers(2, 6))
    depth, pitch = 9.0, float(rng.choice([0.0, 3.0]))
    colour = city.get(("house colour", index), facades.tone)
    tall = 3.6 + 3.1 * floors + 0.6
    key = (index, floors, round(length), side)
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
        ridge = Surface(
            np.array([front + side * depth / 2, -(tall + pitch), z0]),
            np.array([0.0, 0.0, length]),
            np.array([-side * depth / 2, pitch, 0.0]),
            tiles,
        )
        parts.append(ridge)
    street.add(parts)


def _close_the_view(street: Street) -> None:
    """Sky, trees behind the gardens, and houses across the far end."""
    city, rng, end = street.city, street.rng, street.end
    for side in (-1, 1):
        x = side * (REACH - 0.5)
        screen = furniture.bush(city, 40.0, 9.0, 10 + side)
        for z in np.arange(BEHIND, end, 40.0):
            street.add([upright((x, z), (x, z + 40), 0, 9, screen)])
    x = -REACH
    while x < REACH:
        width, tall = float(rng.uniform(10, 16)), float(rng.uniform(7, 16))
        if rng.random() < 0.65:
            colour = facades.tone(rng)
            far = Texture(facades.facade(rng, width, tall, 0.85, colour).level(0, 0), BUILDING)
        else:
            far = furniture.bush(city, width, tall, int(rng.integers(6)))
        street.add([upright((x, end - 1), (x + width, end - 1), 0, tall, far)])
        x += width
    wide, tall = 2.4, 1.2  # in units of the distance: far more than the camera sees
    clouds = city.get(("sky",), lambda r: Texture(sky(r, 384, 768), SKY_LABEL))
    street.surfaces.append(
        Surface(
            np.array([-wide / 2, -tall + 0.1, 1.0]),
            np.array([wide, 0.0, 0.0]),
            np.array([0.0, tall, 0.0]),
            clouds,
            layer=SKY,
            infinite=True,
        )
    )


def _furnish(street: Street) -> None:
    """Lamps, signs, traffic lights and street trees along the kerbs."""
    rng, city = street.rng, street.city
    for side in (-1, 1):
        kerb = side * (street.half + 0.5)
        for z in np.arange(rng.uniform(4, 20), street.end, rng.uniform(18, 26)):
            if street.clear_of_crossing(z, 1):
                street.add(furniture.lamp(city, rng, side), Body(x=kerb, z=z))
        for z in np.arange(rng.uniform(6, 14), street.end - 30, rng.uniform(9, 16)):
            street.add(furniture.sign(city, rng), Body(x=kerb + side * rng.uniform(-0.1, 0.4), z=z))
        trees = rng.random() < 0.6
        for z in np.arange(rng.uniform(6, 14), street.end, rng.uniform(7, 12)) if trees else ():
            if street.clear_of_crossing(z, 3):
                street.add(furniture.tree(city, rng, rng.uniform(4.5, 8.5)), Body(x=kerb + side * 0.5, z=z))
        for z in (street.crossing[0] - 1.0, street.crossing[1] + 1.0):
            arm = bool(rng.random() < 0.5)
            street.add(furniture.traffic_light(city, rng, side, arm=arm), Body(x=kerb - side * 0.2, z=z))


def _vehicle(street: Street, kind: str) -> list[Surface]:
    paint = int(street.rng.integers(9))
    return (
        vehicles.car(street.city, kind, paint)
        if kind in vehicles.PROFILES
        else vehicles.box_vehicle(street.city, kind, paint % 4)
    )


def _park(street: Street) -> None:
    """Vehicles along both kerbs, bicycles and motorcycles on the pavement."""
    rng = street.rng
    for side in (-1, 1):
        full, z = rng.uniform(0.35, 0.8), rng.uniform(5, 10)
        while z < street.end - 10:
            kind = str(
                rng.choice(["hatchback", "sedan", "suv", "van", "truck"], p=[0.36, 0.28, 0.2, 0.1, 0.06])
            )
            room = 9.5 if kind == "truck" else 6.2
            if rng.random() < full and street.clear_of_crossing(z + room / 2, 7):
                x = side * (street.half - 1.05 - 0.25 * (kind == "truck") + rng.uniform(-0.1, 0.1))
                yaw = (0 if side > 0 else np.pi) + rng.normal(0, 0.02)
                street.add(_vehicle(street, kind), Body(x=x, z=z + room / 2, yaw=yaw))
            z += room
        for _ in range(int(rng.integers(3, 7))):
            label = int(rng.choice([BICYCLE, MOTORCYCLE]))
            place = Body(x=side * (street.half + 0.9), z=rng.uniform(8, 60), yaw=rng.uniform(-0.9, 0.9))
            street.add(_two_wheeler(street, label, ridden=False), place)


def _drive(street: Street, camera: Camera) -> None:
    """Traffic: vehicles ahead in our lane, oncoming ones, and one crossing."""
    rng, lane = street.rng, camera.lane
    kinds = ["hatchback", "sedan", "suv", "van", "bus", "truck"]
    odds = [0.28, 0.22, 0.18, 0.1, 0.12, 0.1]
    z = rng.uniform(13, 26)
    for _ in range(int(rng.integers(1, 4))):
        pace = camera.speed * rng.uniform(0.9, 1.2)
        street.add(
            _vehicle(street, str(rng.choice(kinds, p=odds))), Body(x=lane + rng.normal(0, 0.15), z=z, vz=pace)
        )
        z += rng.uniform(14, 30)
    z, tram = rng.uniform(16, 40), rng.random() < 0.4
    for i in range(int(rng.integers(2, 5))):
        kind = "tram" if tram and i == 1 else str(rng.choice(kinds, p=odds))
        pace = -camera.speed * rng.uniform(0.7, 1.0)
        street.add(_vehicle(street, kind), Body(x=-lane, z=z + 6, yaw=np.pi, vz=pace))
        z += rng.uniform(22, 34)
    heading = int(rng.choice([-1, 1]))
    z = street.crossing[0] + (2.0 if heading > 0 else 6.0)
    pace = rng.uniform(0.15, 0.4)
    body = Body(x=-heading * rng.uniform(4, 14), z=z, yaw=heading * np.pi / 2, vx=heading * pace)
    street.add(_vehicle(street, str(rng.choice(["hatchback", "sedan", "bus"]))), body)


def _populate(street: Street) -> None:
    """Pedestrians on the pavements and on the zebra, riders on the road."""
    rng, zebra = street.rng, street.crossing[0] - 2.5
    for _ in range(int(rng.integers(10, 20))):
        side = int(rng.choice([-1, 1]))
        x = side * (street.half + rng.uniform(0.8, street.walk - 0.2))
        pace = float(rng.choice([-1, 0, 1])) * rng.uniform(0.05, 0.09)
        _pedestrian(street, Body(x=x, z=rng.uniform(7, 55), vz=pace), stride=0.10 if pace else 0.0)
    for _ in range(int(rng.integers(1, 4))):
        heading = int(rng.choice([-1, 1]))
        start = -heading * rng.uniform(0, street.half)
        walker = Body(x=start, z=zebra + rng.uniform(-1, 1), vx=heading * rng.uniform(0.05, 0.09))
        _pedestrian(street, walker, stride=0.45)
    for _ in range(int(rng.integers(2, 5))):
        label = BICYCLE if rng.random() < 0.65 else MOTORCYCLE
        away = rng.random() < 0.6
        x = (1 if away else -1) * (street.half - 2.6)
        ride = Body(
            x=x, z=rng.uniform(9, 45), yaw=rng.normal(0, 0.05), vz=rng.uniform(0.1, 0.3) * (1 if away else -1)
        )
        street.add(_two_wheeler(street, label, ridden=True, along=True, away=away), ride)
    heading = int(rng.choice([-1, 1]))
    ride = Body(
        x=-heading * rng.uniform(0, 7),
        z=zebra + 0.5,
        yaw=0.0 if heading > 0 else np.pi,
        vx=heading * rng.uniform(0.1, 0.25),
    )
    street.add(_two_wheeler(street, int(rng.choice([BICYCLE, MOTORCYCLE])), ridden=True), ride)


def _pedestrian(street: Street, body: Body, *, stride: float) -> None:
    """A torso and two legs that swing by ``stride`` radians."""
    rng, kind = street.rng, int(street.rng.integers(12))
    scale = float(rng.uniform(0.88, 1.08)) if rng.random() < 0.85 else 0.7
    cloth = street.city.get(("trousers", kind), people.trousers)
    phase = rng.uniform(0, 2 * np.pi)
    for i, shade in enumerate((0.75, 1.0)):
        texture = street.city.get(("leg", kind, i), lambda r, s=shade: people.leg(r, s, cloth))
        swing = Sway(stride, 14.0, phase + i * np.pi) if stride else None
        limb = upright(
            (-0.2 + (i - 0.5) * 0.14, 0.02 - 0.01 * i),
            (0.2 + (i - 0.5) * 0.14, 0.02 - 0.01 * i),
            0,
            0.92,
            texture,
        )
        street.add([limb], replace(body, swing=swing, pivot=(0.0, people.HIP * scale)), scale=scale)
    chest = street.city.get(("torso", kind), people.torso)
    street.add([upright((-0.35, 0), (0.35, 0), 0.80, 1.75, chest)], body, scale=scale)


def _two_wheeler(
    street: Street, label: int, *, ridden: bool, along: bool = False, away: bool = True
) -> list[Surface]:
    """Side view in the local x direction; ``along`` the street it gets a view from behind or ahead as well."""
    kind = int(street.rng.integers(5))
    draw, length, tall = (
        (people.bicycle_side, 1.8, 1.9) if label == BICYCLE else (people.motorcycle_side, 2.1, 1.8)
    )
    side = street.city.get(("two-wheeler", label, kind, ridden), lambda r: draw(r, ridden))
    if not along:
        return [upright((-length / 2, 0), (length / 2, 0), 0, tall, side)]
    back = street.city.get(("two-wheeler back", label, kind), lambda r: people.two_wheeler_back(r, label))
    ahead = 1 if away else -1
    return [
        upright((0, -ahead * length / 2), (0, ahead * length / 2), 0, tall, side),
        upright((-0.4, -0.15), (0.4, -0.15), 0, 1.85, back),
    ]
