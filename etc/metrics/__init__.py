"""The metrics."""

from etc.metrics.bootstrap import bootstrap_difference, bootstrap_interval
from etc.metrics.iou import class_totals, confusion, mean_iou, scores
from etc.metrics.temporal import FlickerRate, TemporalConsistency, VideoConsistency

__all__ = [
    "FlickerRate",
    "TemporalConsistency",
    "VideoConsistency",
    "bootstrap_difference",
    "bootstrap_interval",
    "class_totals",
    "confusion",
    "mean_iou",
    "scores",
]
