"""FlowNet2 family of optical flow networks and the three operators they are built from."""

from flownet.ops.channelnorm import ChannelNorm, channelnorm
from flownet.ops.correlation import Correlation, correlation
from flownet.ops.resample2d import Resample2d, resample2d

__all__ = ["ChannelNorm", "Correlation", "Resample2d", "channelnorm", "correlation", "resample2d"]
