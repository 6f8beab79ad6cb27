"""Runs the metrics over clips; labelled frames alone are scored in etc/evaluate/frames.py.

Everything is counted into integer tables with one row per clip. Processes started by torchrun share the clips and
sum their tables, so that the result is the same to the last pixel for any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.frame_values import check_values
from etc.data.labels import IGNORE, class_names, label_table_of, read_train_ids
from etc.data.lists import Clip, Frame, clip_names, frames_sha256
from etc.data.sources import clips_to_score, source_of_clips
from etc.data.synthetic import is_to_be_rendered
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clip_metrics import ClipCounts, ClipScorer, Counts, PairCounts, PairScorer, ScoredFrame
from etc.evaluate.metric_list import HEADLINE, SEGMENTATION, classes_averaged, metrics_of
from etc.evaluate.predictions import check_predictions_folder, predictions_from
from etc.evaluate.results import ClipFigures, ClipScores, ConstantControl, FlowScores
from etc.flow.build import FlowSource, flow_source
from etc.flow.plausible import warn_if_implausible
from etc.metrics import bootstrap_interval, iou_scores
from etc.weights import weight_files
from flownet import VARIANTS

SEGMENTS = 10  # that a single clip is divided into, for intervals
_SEGMENT_FRAMES = 5  # of each segment, at least

# Index of a clip, index of a frame in it -> the pixels to set aside, bool [H, W]; None: none of them.
SetAside = Callable[[int, int], np.ndarray | None]


class FlowSetting(NamedTuple):
    """A flow, and a distance of the frames of a pair (stride), that clips are scored with."""

    name: str
    stride: int
    source: FlowSource


def score_clips(
    settings: Settings, device: torch.device | None = None, *, set_aside: SetAside | None = None
) -> ClipScores:
    """Score the temporal consistency of predictions: ``TEST.predictions``, or those of ``tool/gen_video.py``.

    Each frame is read once, for all of ``FLOW.evaluate_with`` and ``TEST.strides``. Flow is computed the first time, on
    ``device`` (default: that of the settings), and kept in ``FLOW.cache``. Pixels that are set aside count neither in
    predictions nor in labels.

    Raises:
        UserError: as :class:`etc.evaluate.predictions.Predictions`; missing frames or lists; class names that do
            not fit; clips shorter than a stride; predictions that changed meanwhile.
    """
    # All settings and labels are checked first: whatever is wrong with them must not waste the scoring. Everything that
    # can be looked at comes before the clips, which may have to be rendered.
    if is_to_be_rendered(settings):
        check_predictions_folder(settings)
        class_names(settings)
    flows = flow_settings(settings, device or device_of(settings.TEST.device))
    whole = clips_to_score(settings)
    check_values(settings, [frame for clip in whole for frame in clip], source_of_clips(settings))
    predictions = predictions_from(settings, whole)
    names = class_names(settings)  # before what takes long
    breaks = breaks_in(whole, settings)
    clips, files = breaks.split(whole), breaks.split(predictions.files)
    longest = max(map(len, clips)) - 1
    if longest < max(settings.TEST.strides):
        raise UserError(f"TEST.strides {settings.TEST.strides}: the longest clip has {longest + 1} frames")
    distributed.warn_of_idle_processes(len(clips), "clips to score")
    if distributed.rank() == 0:
        _warn_of_flow(settings, flows, clips)
    # Clips of other processes keep the zeros of a scorer that saw no frame.
    counts = [_scorer(settings, flows).counts(longest) for _ in clips]
    ends = segment_ends(len(clips[0])) if len(clips) == 1 else []
    so_far = [_scorer(settings, flows).counts_so_far() for _ in ends]
    own = range(distributed.rank(), len(clips), distributed.world_size())
    for index in tqdm(own, desc="score", unit="clip", disable=distributed.rank() > 0):
        scorer = _scorer(settings, flows)
        for t, (frame, file) in enumerate(zip(clips[index], files[index], strict=True)):
            scored = None if file is None else _scored_frame(settings, frame, file, predictions.read(file))
            scorer.add(_without(scored, set_aside and set_aside(index, t)))
            if t + 1 in ends:
                so_far[ends.index(t + 1)] = scorer.counts_so_far()
        counts[index] = scorer.counts(longest)
    predictions.check_unchanged()
    pooled, segments = _pooled(counts), _of_segments(so_far, len(flows))
    by_flow = [
        _flow_scores(flow, own, pooled.frames, parts, clips, settings)
        for flow, own, parts in zip(flows, pooled.pairs, segments, strict=True)
    ]
    called = clip_names(clips)
    tables = pooled.frames | pooled.pairs[0].metrics
    parts, metrics = tables | segments[0], metrics_of(settings.TEST.protocols)
    return ClipScores(
        classes=names,
        clips=called,
        by_flow=by_flow,
        constant=_constant(tables[SEGMENTATION].sum(0)),
        predictions=predictions.facts(),
        clip_counts={m.key: m.kept(parts[m.key]).numpy() for m in metrics if m.statistic and not m.counts_of},
        settings=settings,
        gaps=[called[part] for part in breaks.parts_after(breaks.gaps)],
        cuts=[called[part] for part in breaks.parts_after(breaks.cuts)],
        frames_sha256=frames_sha256((frame for clip in whole for frame in clip), settings.DATA.data_root),
    )


def _warn_of_flow(settings: Settings, flows: list[FlowSetting], clips: list[list[Frame]]) -> None:
    stride = flows[0].stride
    root = Path(settings.DATA.data_root)
    paths = [(root / t.image, root / k.image) for clip in clips for t, k in zip(clip, clip[stride:], strict=False)]
    for flow in flows:
        if flow.stride == stride:
            warn_if_implausible(settings, flow.name, flow.source, paths)


def segment_ends(frames: int) -> list[int]:
    """Where the segments of a clip end: the numbers of frames before the ends, at most :data:`SEGMENTS` of them.

    Empty for a clip that is too short for two segments.
    """
    segments = min(SEGMENTS, frames // _SEGMENT_FRAMES)
    return [round(frames * (i + 1) / segments) for i in range(segments)] if segments > 1 else []


def flow_settings(settings: Settings, device: torch.device) -> list[FlowSetting]:
    """Every flow of ``FLOW.evaluate_with`` with every stride, the headline first.

    Raises:
        UserError: as :func:`evaluation_flow`.
    """
    flows = {name: evaluation_flow(settings, name, device) for name in evaluation_flow_names(settings)}
    return [FlowSetting(name, stride, flow) for name, flow in flows.items() for stride in settings.TEST.strides]


def evaluation_flow_names(settings: Settings) -> list[str]:
    """The flows that clips are scored with: ``FLOW.evaluate_with``, or ``FLOW.name`` where it is empty."""
    return settings.FLOW.evaluate_with or [settings.FLOW.name]


def evaluation_flow(settings: Settings, name: str, device: torch.device) -> FlowSource:
    """The flow that an entry of ``FLOW.evaluate_with`` names.

    Args:
        settings: ``dis@PRESET`` sets the preset and ``NAME@WEIGHTS`` the weights; otherwise ``FLOW.preset`` applies,
            and ``FLOW.weights`` to the estimator of ``FLOW.name``.
        name: the entry.
        device: where flow is computed.

    Raises:
        UserError: an unknown estimator or preset, or weights that are missing.
    """
    estimator, _, choice = name.partition("@")
    weights = settings.FLOW.weights if estimator == settings.FLOW.name else None
    change: dict[str, Any] = {"name": estimator, "weights": weights}
    if choice:
        change["preset" if estimator == "dis" else "weights"] = choice
    elif weights is None and estimator in VARIANTS and weight_files()[estimator].path.is_file():
        change["weights"] = str(weight_files()[estimator].path)
    # Not validated again: the estimator checks its preset and weights itself.
    return flow_source(settings.model_copy(update={"FLOW": settings.FLOW.model_copy(update=change)}), device)


def _scorer(settings: Settings, flows: list[FlowSetting]) -> ClipScorer:
    classes, occlusion, protocols = settings.DATA.classes, settings.FLOW.occlusion, settings.TEST.protocols
    pairs = [PairScorer(classes, f.source, occlusion=occlusion, stride=f.stride, protocols=protocols) for f in flows]
    return ClipScorer(classes, pairs, protocols)


def _pooled(clips: list[ClipCounts]) -> ClipCounts:
    """One row per clip, filled by the process that counted it."""

    def summed(tables: list[Tensor]) -> Tensor:
        return distributed.sum_counts(torch.stack(tables))

    def each(counts: list[Counts]) -> Counts:
        return {key: summed([own[key] for own in counts]) for key in counts[0]}

    pairs = [
        PairCounts(each([p.metrics for p in own]), summed([p.totals for p in own]), summed([p.headline for p in own]))
        for own in zip(*(clip.pairs for clip in clips), strict=True)
    ]
    return ClipCounts(each([clip.frames for clip in clips]), pairs)


def _of_segments(so_far: list[list[Counts]], flows: int) -> list[Counts]:
    """The counts of each segment of a clip, one row per segment, for each flow and stride; empty without segments.

    A pair of frames belongs to the segment that its second frame lies in.
    """
    if not so_far:
        return [{} for _ in range(flows)]
    found = []
    for own in zip(*so_far, strict=True):
        rows = {key: distributed.sum_counts(torch.stack([counts[key] for counts in own])) for key in own[0]}
        found.append(
            {key: torch.diff(table, dim=0, prepend=torch.zeros_like(table[:1])) for key, table in rows.items()}
        )
    return found


def _flow_scores(
    flow: FlowSetting, counts: PairCounts, frames: Counts, segments: Counts, clips: list[Clip], settings: Settings
) -> FlowScores:
    """The scores under one flow at one stride, of all clips together and of each."""
    classes, metrics = settings.DATA.classes, metrics_of(settings.TEST.protocols)
    tables = frames | counts.metrics
    parts = tables | segments
    results = {m.key: m.compute(classes, m.across_clips(tables[m.counted_by]).sum(0)) for m in metrics}
    pixels, scored, skipped = counts.totals.sum(0).tolist()
    rows = []
    for i, clip in enumerate(clips):
        own = {m.key: m.compute(classes, tables[m.counted_by][i]) for m in metrics}
        figures = {m.key: m.figure(own[m.key]) for m in metrics}
        averaged = {key: classes_averaged(result) for key, result in own.items()}
        pairs = counts.headline[i, : max(0, len(clip) - flow.stride)].tolist()
        rows.append(ClipFigures(figures, pairs, {key: count for key, count in averaged.items() if count is not None}))
    return FlowScores(
        name=flow.name,
        stride=flow.stride,
        flow=flow.source.key,
        results=results,
        intervals={m.key: bootstrap_interval(m.kept(parts[m.counted_by]), m.statistic) for m in metrics if m.statistic},
        coverage=results[HEADLINE]["pixels"] / pixels if pixels else math.nan,
        scored=scored,
        skipped=skipped,
        clips=rows,
    )


def _constant(segmentation: Tensor) -> ConstantControl:
    """mIoU of the control: the most frequent class of the labels, predicted everywhere. It is TC 1 by definition."""
    labels = segmentation.sum(1)
    control = torch.zeros_like(segmentation)
    control[:, labels.argmax()] = labels
    return ConstantControl(int(labels.argmax()), iou_scores(control)["mIoU"])


def _without(frame: ScoredFrame | None, aside: np.ndarray | None) -> ScoredFrame | None:
    """A frame whose pixels that are set aside have neither a class nor a label."""
    if frame is None or aside is None:
        return frame
    label = None if frame.label is None else np.where(aside, np.uint8(IGNORE), frame.label)
    return ScoredFrame(frame.path, np.where(aside, np.uint8(IGNORE), frame.prediction), label)


def _scored_frame(settings: Settings, frame: Frame, file: Path, prediction: np.ndarray) -> ScoredFrame:
    data = settings.DATA
    root, label = Path(data.data_root), None
    if frame.label is not None:
        table = label_table_of(settings)
        label = read_train_ids(root / frame.label, table, prediction.shape)
        holes = int(((prediction == IGNORE) & (label != IGNORE)).sum())
        if holes:
            raise UserError(
                f"{file}: {holes} pixels have no class (255) where {root / frame.label} has one, and mIoU needs one "
                "everywhere: predict a class there, or score against a list without labels"
            )
    return ScoredFrame(root / frame.image, prediction, label)
