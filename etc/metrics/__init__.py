"""Metrics on arrays and tensors: mIoU, temporal consistency, video consistency, bootstrap intervals.

Imports nothing else of etc, so that it can be used with anybody's predictions.
"""

from etc.metrics.bootstrap import bootstrap_difference, bootstrap_interval
from etc.metrics.iou import confusion, iou_counts, iou_scores, mean_iou
from etc.metrics.temporal import FlickerRate, TemporalConsistency, VideoConsistency

__all__ = [
    "FlickerRate",
    "TemporalConsistency",
    "VideoConsistency",
    "bootstrap_difference",
    "bootstrap_interval",
    "confusion",
    "iou_counts",
    "iou_scores",
    "mean_iou",
]
