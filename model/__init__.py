"""Segmentation networks: one frame in, logits out. Imports no other package of the toolkit."""

from model.base import SegmentationNetwork
from model.build import ARCHITECTURES, build_model, parameter_groups
from model.checkpoint import LoadReport, load_student, load_weights, read_weights
from model.pspnet import PSPNet
from model.weights import WeightsUnavailable

__all__ = [
    "ARCHITECTURES",
    "LoadReport",
    "PSPNet",
    "SegmentationNetwork",
    "WeightsUnavailable",
    "build_model",
    "load_student",
    "load_weights",
    "parameter_groups",
    "read_weights",
]
