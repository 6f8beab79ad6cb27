"""FlowNet2 family of optical flow networks and the three operators they are built from.

Imports no other package of the toolkit.
"""

from flownet.networks import FlowNet2, FlowNet2C, FlowNet2CS, FlowNet2CSS, FlowNet2S, FlowNet2SD
from flownet.ops.channelnorm import ChannelNorm, channelnorm
from flownet.ops.correlation import Correlation, correlation
from flownet.ops.resample2d import Resample2d, resample2d
from flownet.weights import VARIANTS, load_flownet2

__all__ = [
    "VARIANTS",
    "ChannelNorm",
    "Correlation",
    "FlowNet2",
    "FlowNet2C",
    "FlowNet2CS",
    "FlowNet2CSS",
    "FlowNet2S",
    "FlowNet2SD",
    "Resample2d",
    "channelnorm",
    "correlation",
    "load_flownet2",
    "resample2d",
]
