"""Lays out a street from its seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etc.data.world import facades, furniture
from etc.data.world.geometry import Array, Body, Camera
from etc.data.world.ground import REACH, Ground, lay_carriageway, lay_crossing
from etc.data.world.lots import line_with_lots
from etc.data.world.street import BEHIND, Street
from etc.data.world.surface import SKY, SKY_LABEL, City, Surface, upright
from etc.data.world.textures import Texture, sky
from etc.data.world.traffic import drive, park, populate

VIEW = 120.0  # metres of street beyond the last camera position


@dataclass(frozen=True)
class Scene:
    """Everything there is. ``surfaces[i].body`` indexes ``bodies``; body 0 never moves. ``haze``: RGB."""

    surfaces: list[Surface]
    bodies: list[Body]
    camera: Camera
    haze: Array


def build_street(*, seed: int, style_seed: int, height: int, width: int, frames: int) -> Scene:
    """The street of ``seed`` in the looks of ``style_seed``, long enough for ``frames`` frames."""
    rng = np.random.default_rng([seed, 15485863])
    city = City(style_seed)
    half, walk = rng.uniform(4.8, 6.0), rng.uniform(2.6, 5.0)
    camera = Camera.draw(rng, height, width, lane=(half - 2.1) / 2)
    end = camera.speed * frames + VIEW
    middle = rng.uniform(26, 46)
    crossing = (middle - 4.0, middle + 4.0)
    ground = Ground(city, BEHIND, end)
    street = Street(city, rng, end, half, walk, crossing, float(rng.uniform(0, 1)), ground)
    lay_carriageway(ground, rng, half, walk, BEHIND, end)
    for side in (-1, 1):
        line_with_lots(street, side)
    lay_crossing(ground, rng, half, middle, 8.0)
    _close_the_view(street)
    _furnish(street)
    park(street)
    drive(street, camera)
    populate(street)
    street.surfaces.append(ground.surface(rng))
    haze = np.array([196.0, 202.0, 206.0]) * city.rng("haze").uniform(0.85, 1.05)
    return Scene(street.surfaces, street.bodies, camera, haze)


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
            far = facades.facade(rng, width, tall, 0.85, colour)
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
    state = int(rng.integers(3))
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
            street.add(furniture.traffic_light(city, state, side, arm=arm), Body(x=kerb - side * 0.2, z=z))
