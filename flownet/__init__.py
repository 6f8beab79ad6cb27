"""FlowNet2 family of optical flow networks and the three operators they are built from."""

from flownet.ops.resample2d import Resample2d, resample2d

__all__ = ["Resample2d", "resample2d"]
