"""Vehicles, riders and pedestrians of a street."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from etc.data.world import people, vehicles
from etc.data.world.geometry import Body, Camera, Sway
from etc.data.world.street import Street
from etc.data.world.surface import BICYCLE, MOTORCYCLE, Surface, upright


def _vehicle(street: Street, kind: str) -> list[Surface]:
    paint = int(street.rng.integers(9))
    return (
        vehicles.car(street.city, kind, paint)
        if kind in vehicles.PROFILES
        else vehicles.box_vehicle(street.city, kind, paint % 4)
    )


def park(street: Street) -> None:
    """Vehicles along both kerbs, bicycles and motorcycles on the pavement."""
    rng = street.rng
    for side in (-1, 1):
        full = rng.uniform(0.2, 0.75) if rng.random() < 0.65 else 0.0
        z = rng.uniform(5, 10)
        while z < street.end - 25:
            kind = str(rng.choice(["hatchback", "sedan", "suv", "van", "truck"], p=[0.36, 0.28, 0.2, 0.1, 0.06]))
            room = 9.5 if kind == "truck" else 6.2
            if rng.random() < full and street.clear_of_crossing(z + room / 2, 7):
                x = side * (street.half - 1.05 - 0.25 * (kind == "truck") + rng.uniform(-0.1, 0.1))
                yaw = (0 if side > 0 else np.pi) + rng.normal(0, 0.02)
                street.add(_vehicle(street, kind), Body(x=x, z=z + room / 2, yaw=yaw))
            z += room
        for _ in range(int(rng.integers(3, 7))):
            label = int(rng.choice([BICYCLE, MOTORCYCLE]))
            place = Body(x=side * (street.half + 0.9), z=rng.uniform(8, street.end - 60), yaw=rng.uniform(-0.9, 0.9))
            street.add(_two_wheeler(street, label, ridden=False), place)


def drive(street: Street, camera: Camera) -> None:
    """Traffic: vehicles ahead in our lane, oncoming ones, and one crossing."""
    rng, lane = street.rng, camera.lane
    kinds = ["hatchback", "sedan", "suv", "van", "bus", "truck"]
    odds = [0.32, 0.25, 0.2, 0.11, 0.06, 0.06]
    z = rng.uniform(13, 26)
    for _ in range(int(rng.integers(1, 4))):
        pace = camera.speed * rng.uniform(0.97, 1.2)
        street.add(_vehicle(street, str(rng.choice(kinds, p=odds))), Body(x=lane + rng.normal(0, 0.15), z=z, vz=pace))
        z += rng.uniform(14, 30)
    z, tram = rng.uniform(16, 40), rng.random() < 0.25
    for i in range(int(rng.integers(2, 5))):
        kind = "tram" if tram and i == 0 else str(rng.choice(kinds, p=odds))
        pace = -camera.speed * rng.uniform(0.7, 1.0)
        street.add(_vehicle(street, kind), Body(x=-lane, z=z + 6, yaw=np.pi, vz=pace))
        z += rng.uniform(22, 34)
    heading = int(rng.choice([-1, 1]))
    z = street.crossing[0] + (2.0 if heading > 0 else 6.0)
    pace = rng.uniform(0.15, 0.4)
    body = Body(x=-heading * rng.uniform(4, 14), z=z, yaw=heading * np.pi / 2, vx=heading * pace)
    street.add(_vehicle(street, str(rng.choice(["hatchback", "sedan", "bus"]))), body)


def populate(street: Street) -> None:
    """Pedestrians on the pavements and on the zebra, riders on the road."""
    rng, zebra = street.rng, street.crossing[0] - 2.5
    far = street.end - 70
    for _ in range(int(rng.integers(10, 20) * far / 60)):
        side = int(rng.choice([-1, 1]))
        x = side * (street.half + rng.uniform(0.8, street.walk - 0.2))
        pace = float(rng.choice([-1, 0, 1])) * rng.uniform(0.05, 0.09)
        _pedestrian(street, Body(x=x, z=rng.uniform(7, far), vz=pace), stride=0.10 if pace else 0.0)
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
            x=x,
            z=rng.uniform(9, far),
            yaw=rng.normal(0, 0.05),
            vz=rng.uniform(0.1, 0.3) * (1 if away else -1),
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
        texture = street.city.get(("leg", kind, i), partial(people.leg, shade=shade, key=cloth))
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


def _two_wheeler(street: Street, label: int, *, ridden: bool, along: bool = False, away: bool = True) -> list[Surface]:
    """A side view in local x; ``along`` the street it gets a view from behind or ahead as well."""
    kind = int(street.rng.integers(5))
    draw, length, tall = (people.bicycle_side, 1.8, 1.9) if label == BICYCLE else (people.motorcycle_side, 2.1, 1.8)
    side = street.city.get(("two-wheeler", label, kind, ridden), lambda r: draw(r, ridden))
    if not along:
        return [upright((-length / 2, 0), (length / 2, 0), 0, tall, side)]
    back = street.city.get(("two-wheeler back", label, kind), lambda r: people.two_wheeler_back(r, label))
    ahead = 1 if away else -1
    return [
        upright((0, -ahead * length / 2), (0, ahead * length / 2), 0, tall, side),
        upright((-0.4, -0.15), (0.4, -0.15), 0, 1.85, back),
    ]
