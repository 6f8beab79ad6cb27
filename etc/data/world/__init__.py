"""A synthetic driving world with exact labels, flow and visibility.

``render`` draws frames of a ``scene``; ``write`` stores them in the Cityscapes layout. Needs no data and no network.
"""

from etc.data.world.render import Frame, World, WorldFlow
from etc.data.world.write import write_world

__all__ = ["Frame", "World", "WorldFlow", "write_world"]
