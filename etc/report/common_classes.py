"""Restricts runs to what they have in common, so that none gains by no longer predicting a class.

A mean over the classes that a run predicts rises when the run stops predicting a poor class. The figures of a
comparison are therefore over the classes that all runs predict and that have labels, where there are any. Pixels to
which a run gives another class, or none, are set aside in all runs: a run that is a copy of another one with one class
painted over has the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from etc.config import with_changes
from etc.data.labels import IGNORE
from etc.distributed import device_of
from etc.evaluate.clip_parts import SetAside
from etc.evaluate.clips import score_clips
from etc.evaluate.flows import evaluation_flow_names
from etc.evaluate.metric_list import HEADLINE, PROTOCOLS, SEGMENTATION, metrics_of
from etc.evaluate.results import ClipFigures, ClipScores
from etc.metrics import occurring_classes
from etc.report.clip_views import ClipViewer, settings_of_predictions
from etc.report.runs import Run
from etc.report.same_frames import settings_of_frames

_T = TypeVar("_T")


@dataclass(frozen=True)
class CommonClasses:
    """What runs have in common.

    Attributes:
        common: which classes all runs predict, and which have labels where there are labels, bool ``[K]``.
        lacking: name of a run -> names of the classes that another run predicts and it does not.
        unlabelled: names of the predicted classes that no labelled frame has.
        same_pixels: whether all runs give a class to the same pixels, as far as the number of pixels tells.
    """

    common: np.ndarray
    lacking: dict[str, list[str]]
    unlabelled: list[str]
    same_pixels: bool

    @property
    def complete(self) -> bool:
        """Whether the runs have everything in common."""
        return not any(self.lacking.values()) and not self.unlabelled and self.same_pixels


def common_classes(runs: list[Run]) -> CommonClasses:
    """What runs over the same clips have in common, as their scores tell."""
    names = runs[0].scores.classes
    occurs = np.stack([occurring_classes(run.scores.clip_counts[HEADLINE].sum(0)) for run in runs])
    anywhere = np.logical_or.reduce(occurs)
    labelled = labelled_classes(np.stack([run.scores.clip_counts[SEGMENTATION].sum(0) for run in runs]))
    if not labelled.any():
        labelled = np.ones_like(labelled)
    return CommonClasses(
        common=np.logical_and.reduce(occurs) & labelled,
        lacking={
            run.name: [names[k] for k in np.flatnonzero(anywhere & ~own)] for run, own in zip(runs, occurs, strict=True)
        },
        unlabelled=[names[k] for k in np.flatnonzero(anywhere & ~labelled)],
        same_pixels=len({run.scores.first.results[HEADLINE]["pixels"] for run in runs}) == 1,
    )


def labelled_classes(totals: np.ndarray) -> np.ndarray:
    """Which classes have labels, bool ``[K]``, from the ``iou_counts`` of the runs against labels, ``[runs, 3, K]``."""
    labelled: np.ndarray = np.logical_or.reduce(totals[:, 1] > 0)
    return labelled


def on_common_classes(viewer: ClipViewer, found: CommonClasses) -> ClipViewer:
    """The viewer of the same runs, scored again over what they have in common, where they differ.

    mIoU stays what it was: labels decide which pixels it counts. Every prediction is read once per run; the flow comes
    from the cache.

    Raises:
        UserError: frames, predictions or flow that cannot be read.
    """
    if found.complete:
        return viewer
    set_aside = _pixels_to_set_aside(viewer, found.common)
    runs = [replace(run, scores=_scored_again(run, viewer, set_aside)) for run in viewer.runs]
    return viewer.with_runs(runs, set_aside)


def _pixels_to_set_aside(viewer: ClipViewer, common: np.ndarray) -> SetAside:
    """The pixels of a frame to which a run gives a class that is not common, or none."""
    other = np.ones(IGNORE + 1, bool)
    other[: len(common)] = ~common

    def set_aside(index: int, t: int) -> np.ndarray | None:
        maps = [viewer.prediction_if_any(run, index, t) for run in viewer.runs]
        masks = [other[ids] for ids in maps if ids is not None]
        return np.logical_or.reduce(masks) if masks else None

    return set_aside


def _scored_again(run: Run, viewer: ClipViewer, set_aside: SetAside) -> ClipScores:
    frames = settings_of_frames(run.scores, viewer.runs[0].scores, viewer.settings)
    settings = settings_of_predictions(run, frames)
    first = evaluation_flow_names(settings)[0]
    settings = with_changes(
        settings,
        FLOW={"evaluate_with": [first]},
        TEST={"strides": settings.TEST.strides[:1], "protocols": run.scores.settings.TEST.protocols},
    )
    again = score_clips(settings, device_of(settings.TEST.device), set_aside=set_aside)
    own, new = run.scores, again.first
    clips = [
        ClipFigures(_merged(a.figures, b.figures), b.pairs, _merged(a.classes, b.classes))
        for a, b in zip(own.first.clips, new.clips, strict=True)
    ]
    merged = replace(
        new,
        results=_merged(own.first.results, new.results),
        intervals=_merged(own.first.intervals, new.intervals),
        clips=clips,
    )
    return replace(own, by_flow=[merged], clip_counts=_merged(own.clip_counts, again.clip_counts))


def _merged(own: dict[str, _T], again: dict[str, _T]) -> dict[str, _T]:
    """By metric: what was scored again, and the run's own where labels decide."""
    decided = {metric.key for metric in metrics_of(PROTOCOLS) if not metric.of_predictions_alone}
    return again | {key: value for key, value in own.items() if key in decided}
