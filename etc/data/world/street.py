"""A street under construction: what its parts have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from etc.data.world.geometry import Body
from etc.data.world.ground import Ground
from etc.data.world.surface import City, Surface
from etc.data.world.textures import Rng

BEHIND = -4.0  # metres: where the street begins; the camera starts at 0


@dataclass
class Street:
    """A street under construction, lengths in metres.

    ``half`` is half the width of the road, ``walk`` the width of a pavement, ``crossing`` the z range of
    the side street, ``urban`` in [0, 1] how closely it is built up.
    """

    city: City
    rng: Rng
    end: float
    half: float
    walk: float
    crossing: tuple[float, float]
    urban: float
    ground: Ground
    surfaces: list[Surface] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=lambda: [Body()])

    def add(self, parts: list[Surface], body: Body | None = None, *, scale: float = 1.0) -> None:
        """Put an object, given in the axes of its ``body``, into the street; without one it never moves."""
        index = 0
        if body is not None:
            index = len(self.bodies)
            self.bodies.append(body)
        for part in parts:
            grown = (part.origin * scale, part.right * scale, part.down * scale)
            self.surfaces.append(Surface(*grown, part.texture, index, part.layer, part.infinite, part.facing))

    def clear_of_crossing(self, z: float, margin: float) -> bool:
        return not self.crossing[0] - margin < z < self.crossing[1] + margin
