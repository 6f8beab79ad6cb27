"""The list of clip metrics: one entry per metric, and the only place that names it.

The scorer, the tables of the terminal, ``tc.json``, ``tc.csv``, the comparison and the HTML report all loop over
:data:`METRICS`, and over those of :data:`PROTOCOLS` that ``TEST.protocols`` asks for. A new metric is an accumulator
(``counts``, ``update``, ``compute``) and one entry here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from etc.metrics import (
    FlickerRate,
    FlowFreeConsistency,
    MajorityAgreement,
    PerPairConsistency,
    SegmentationIoU,
    TemporalConsistency,
    VideoConsistency,
    VspwTemporalConsistency,
    VspwVideoConsistency,
    frequency_weighted_iou,
    iou_counts,
    mean_iou,
    pixel_accuracy,
)
from etc.metrics.protocols import mean_of_clips

BOUNDARY_BAND = 0.005  # of the image diagonal
_VIDEO_CONSISTENCY: dict[Literal["vspw", "correct"], str] = {  # definition -> what it counts
    "vspw": "constant where the label is",
    "correct": "constant and right where the label is",
}

HEADLINE = "strict"  # the metric that clips and pairs of frames are ranked by; its compute() gives iou_scores
PUBLISHED = "published"
SEGMENTATION = "segmentation"

# What the accumulator of a metric is updated with, called as
#   pair              update(ids_t, ids_next, flow, valid=visible): predictions of two frames
#   dequantised pair  update(ids_t, ids_next, flow): the same, with the flow as it was before a file rounded it
#   label pair        as pair, with the labels of two frames that both have one
#   triple            update(a, b, c, flow_ab, flow_bc, valid=visible): predictions of three frames; visible is on the
#                     way through both flows
#   window            update(ids, flows): predictions of five frames [5, H, W]; flow from the middle one to the others
#   labelled frame    update(ids, label)
#   labelled clip     update(ids, labels), both [T, H, W]: consecutive labelled frames, in chunks which repeat the last
#                     ``overlap`` frames of the one before; ``overlap`` is an attribute of the accumulator
# All are numpy arrays: ids uint8 [H, W] with 255 for no class, flow float32 [2, H, W] in pixels, visible bool [H, W],
# or None where nothing is known of occlusion.
Needs = Literal["pair", "dequantised pair", "label pair", "triple", "window", "labelled frame", "labelled clip"]


class Accumulator(Protocol):
    """What counts the clips: its ``update`` takes what the entry ``needs``.

    Attributes:
        counts: int64 of a fixed shape, zero at first; the counts of two parts of the data add up to those of both.
    """

    counts: Tensor

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds to the counts; the arguments depend on ``needs``, as the comment above says."""

    def compute(self) -> Any:
        """The result of the counts: a number, or a dict of numbers and lists; NaN where nothing was counted."""


@runtime_checkable
class ChunkAccumulator(Accumulator, Protocol):
    """The accumulator of a metric that needs labelled clips."""

    @property
    def overlap(self) -> int:
        """How many frames each chunk of a clip repeats of the chunk before it."""


def _unchanged(counts: Tensor) -> Tensor:
    return counts


@dataclass(frozen=True)
class ClipMetric:
    """One metric of clips.

    Attributes:
        key: its name in ``tc.json``, ``tc.csv`` and the files of a comparison.
        label: its name for people.
        build: number of classes -> a fresh accumulator.
        needs: what the accumulator is updated with.
        note: one remark beside it in the terminal's table; empty: its interval.
        digits: digits behind the point of the percentage.
        figure: result of ``compute`` -> its one headline figure, a share in [0, 1].
        statistic: pooled ``kept`` counts -> the same figure. A metric that has one gets a 95% interval over clips, and
            the comparison shows its paired difference to the first run; ``None``: neither.
        kept: counts ``[clips, ...]`` -> those that ``statistic`` needs, ``[clips, ...]``; they are kept in ``tc.json``.
        counts_of: the key of the metric whose counts it reads in another way; empty: it counts by itself. Its result is
            its ``statistic``.
        averages: which classes its figure is a mean over: those that ``occur`` in the predictions, those that are
            ``labelled``, or ``fixed``, where the run has no influence on them. A comparison of runs leaves out the
            classes that one of the runs lacks.
        column: its name where room is scarce; empty: its key.
        across_clips: counts of whole clips ``[clips, ...]`` -> what is summed over clips, as they are or weighed.
    """

    key: str
    label: str
    build: Callable[[int], Accumulator]
    needs: Needs
    note: str = ""
    digits: int = 2
    figure: Callable[[Any], float] = float
    statistic: Callable[[np.ndarray], float] | None = None
    kept: Callable[[Tensor], Tensor] = _unchanged
    counts_of: str = ""
    averages: Literal["occur", "labelled", "fixed"] = "fixed"
    column: str = ""
    across_clips: Callable[[Tensor], Tensor] = _unchanged

    def __post_init__(self) -> None:
        if self.needs not in get_args(Needs):
            raise ValueError(
                f"the metric {self.key} needs {self.needs!r}: expected one of {', '.join(get_args(Needs))}"
            )

    @property
    def needs_flow(self) -> bool:
        """Whether it is counted anew for each flow and each stride."""
        return self.needs in ("pair", "dequantised pair", "label pair", "triple", "window")

    @property
    def counted_by(self) -> str:
        """The key of the metric whose counts it reads."""
        return self.counts_of or self.key

    @property
    def of_predictions_alone(self) -> bool:
        """Whether it asks if predictions are stable, not whether they are right."""
        return self.needs not in ("label pair", "labelled frame")

    def accumulator(self, classes: int) -> Accumulator:
        """A fresh accumulator.

        Raises:
            TypeError: its counts are no integers, which alone add up to the same in any order, or ``overlap`` is
                missing.
        """
        made = self.build(classes)
        counts = getattr(made, "counts", None)
        if not isinstance(counts, Tensor) or counts.dtype != torch.int64 or counts.any():
            found = f"{counts.dtype} {tuple(counts.shape)}" if isinstance(counts, Tensor) else type(counts).__name__
            raise TypeError(f"the metric {self.key}: its counts are {found}, expected an int64 tensor, zero at first")
        if self.needs == "labelled clip" and not isinstance(made, ChunkAccumulator):
            raise TypeError(f"the metric {self.key} needs labelled clips: it lacks the attribute overlap")
        return made

    def compute(self, classes: int, counts: Tensor) -> Any:
        """The result of counts that were summed over frames, clips or processes."""
        if self.counts_of:
            assert self.statistic is not None, "a metric of another one's counts is their statistic"
            return self.statistic(self.kept(counts).numpy())
        accumulator = self.accumulator(classes)
        accumulator.counts += counts
        return accumulator.compute()


def classes_averaged(result: Any) -> int | None:
    """How many classes the figure of a result is a mean over; ``None`` where it is no such mean."""
    return result.get("mIoU_classes") if isinstance(result, dict) else None


_mean = itemgetter("mIoU")

# In the order in which they are shown.
METRICS: list[ClipMetric] = [
    ClipMetric(
        key=HEADLINE,
        label="TC strict",
        build=TemporalConsistency,
        needs="pair",
        figure=_mean,
        statistic=mean_iou,
        kept=iou_counts,
        averages="occur",
    ),
    ClipMetric(
        key="pixel_consistency",
        label="pixel consistency",
        build=TemporalConsistency,
        needs="pair",
        statistic=pixel_accuracy,
        kept=iou_counts,
        counts_of=HEADLINE,
        column="pixel",
    ),
    ClipMetric(
        key="frequency_weighted_tc",
        label="TC frequency-weighted",
        build=TemporalConsistency,
        needs="pair",
        statistic=frequency_weighted_iou,
        kept=iou_counts,
        counts_of=HEADLINE,
        column="weighted",
    ),
    ClipMetric(
        key="ground_truth",
        label="TC of the ground truth",
        build=TemporalConsistency,
        needs="label pair",
        note="strict; what perfect predictions would score",
        figure=_mean,
    ),
    ClipMetric(
        key="boundary",
        label="TC boundary",
        build=partial(TemporalConsistency, boundary_band=BOUNDARY_BAND),
        needs="pair",
        note="strict, near class boundaries",
        figure=_mean,
        averages="occur",
    ),
    ClipMetric(
        key=PUBLISHED,
        label="TC published",
        build=partial(TemporalConsistency, protocol="published"),
        needs="dequantised pair",
        note="only to compare with published numbers",
        figure=_mean,
        statistic=partial(mean_iou, convention="published"),
        kept=iou_counts,
    ),
    ClipMetric(
        key="flicker",
        label="flicker rate",
        build=lambda classes: FlickerRate(),
        needs="triple",
        note="share of pixels that go a, b, a",
        digits=3,
    ),
    *(
        ClipMetric(
            key=f"vc{window}_{definition}",
            label=f"VC{window} {definition}",
            build=partial(VideoConsistency, window=window, definition=definition),
            needs="labelled clip",
            note=f"{counted}, over {window} frames",
        )
        for window in (8, 16)
        for definition, counted in _VIDEO_CONSISTENCY.items()
    ),
    ClipMetric(
        key=SEGMENTATION,
        label="mIoU, frames of the clips",
        build=SegmentationIoU,
        needs="labelled frame",
        note="of those that have a label",
        figure=_mean,
        statistic=mean_iou,
        kept=iou_counts,
        averages="labelled",
    ),
]

# By the name in TEST.protocols: how other publications score, to compare with their tables; shown behind METRICS.
PROTOCOLS: dict[str, list[ClipMetric]] = {
    "vspw": [
        ClipMetric(
            key="tc_vspw",
            label="TC of VSPW",
            build=VspwTemporalConsistency,
            needs="pair",
            figure=_mean,
            statistic=partial(mean_iou, convention="target"),
            kept=iou_counts,
            averages="occur",
        ),
        ClipMetric(
            key="miou_vspw",
            label="mIoU of VSPW",
            build=SegmentationIoU,
            needs="labelled frame",
            note="over the classes of the labels",
            statistic=partial(mean_iou, convention="target"),
            kept=iou_counts,
            counts_of=SEGMENTATION,
            averages="labelled",
        ),
        ClipMetric(
            key="weighted_iou_vspw",
            label="weighted IoU of VSPW",
            build=SegmentationIoU,
            needs="labelled frame",
            note="by the pixels of the labels",
            statistic=frequency_weighted_iou,
            kept=iou_counts,
            counts_of=SEGMENTATION,
        ),
        *(
            ClipMetric(
                key=f"vc{window}_vspw_script",
                label=f"VC{window} of VSPW",
                build=partial(VspwVideoConsistency, window=window),
                needs="labelled clip",
                note="as vspw, with 255 as a label",
            )
            for window in (8, 16)
        ),
    ],
    "per-pair": [
        ClipMetric(
            key="tc_per_pair",
            label="TC per pair",
            build=PerPairConsistency,
            needs="pair",
            note="mIoU of each pair; mean over pairs, then clips",
            across_clips=mean_of_clips,
        )
    ],
    "majority": [
        ClipMetric(
            key="majority",
            label="agreement with the majority",
            build=MajorityAgreement,
            needs="window",
            note="of five frames along the flow",
        )
    ],
    "flow-free": [
        ClipMetric(
            key="flow_free",
            label="flow-free consistency",
            build=FlowFreeConsistency,
            needs="labelled clip",
            note="unchanged where the label is",
        )
    ],
}


def metrics_of(protocols: Collection[str]) -> list[ClipMetric]:
    """All metrics that clips are scored with: the usual ones, and those of the protocols asked for.

    Raises:
        ValueError: two have the same key.
    """
    metrics = [*METRICS, *(metric for name, own in PROTOCOLS.items() if name in protocols for metric in own)]
    for key, count in Counter(metric.key for metric in metrics).items():
        if count > 1:
            raise ValueError(f"{count} metrics have the key {key}: give each a key of its own")
    return metrics


def metrics_in(*results: Mapping[str, Any]) -> list[ClipMetric]:
    """The metrics to show of results by metric: the usual ones, and those of protocols that all the results have."""
    extra = metrics_of(PROTOCOLS)[len(METRICS) :]
    return [*METRICS, *(metric for metric in extra if all(metric.key in own for own in results))]
