"""The metrics."""

from etc.metrics.temporal import (
    FlickerRate,
    TemporalConsistency,
    VideoConsistency,
    bootstrap_difference,
    bootstrap_interval,
    class_totals,
    confusion,
    mean_iou,
    scores,
)

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
