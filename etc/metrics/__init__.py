"""Accuracy and consistency over time, kept as integer counts that add up over frames, clips and processes.

``confusion`` and ``iou_scores`` give mIoU. ``SegmentationIoU``, ``TemporalConsistency``, ``VideoConsistency`` and
``FlickerRate`` are accumulators: ``update`` adds frames, pairs, clips or triples of frames, ``merge`` adds another
accumulator, and ``counts`` (int64, on the CPU) is all that an all-reduce has to sum for a sharded run to end with
the very same figures. ``protocols`` has the accumulators of other publications.

Label maps are integer tensors or numpy arrays with ids 0..K-1; 255 means "no label". This package imports nothing else
of etc, so that it serves in any evaluation loop; docs/scoring.md says what the figures mean.
"""

from etc.metrics.bootstrap import bootstrap_difference, bootstrap_interval
from etc.metrics.iou import (
    SegmentationIoU,
    confusion,
    frequency_weighted_iou,
    iou_counts,
    iou_scores,
    mean_iou,
    occurring_classes,
    pixel_accuracy,
)
from etc.metrics.protocols import (
    FlowFreeConsistency,
    MajorityAgreement,
    PerPairConsistency,
    VspwTemporalConsistency,
    VspwVideoConsistency,
)
from etc.metrics.temporal import TemporalConsistency
from etc.metrics.video import FlickerRate, VideoConsistency

__all__ = [
    "FlickerRate",
    "FlowFreeConsistency",
    "MajorityAgreement",
    "PerPairConsistency",
    "SegmentationIoU",
    "TemporalConsistency",
    "VideoConsistency",
    "VspwTemporalConsistency",
    "VspwVideoConsistency",
    "bootstrap_difference",
    "bootstrap_interval",
    "confusion",
    "frequency_weighted_iou",
    "iou_counts",
    "iou_scores",
    "mean_iou",
    "occurring_classes",
    "pixel_accuracy",
]
