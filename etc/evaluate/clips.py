"""Runs the metrics over clips; labelled frames alone are scored in etc/evaluate/frames.py.

Everything is counted into integer tables with one row per clip. Worker processes, and processes started by torchrun,
share the clips or parts of them, and their tables are summed, so that the result is the same to the last pixel for any
number of processes.
"""

from __future__ import annotations

import logging
import math
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import Breaks, breaks_in
from etc.data.frame_values import check_values
from etc.data.labels import class_names
from etc.data.lists import Clip, Frame, clip_names, frames_sha256
from etc.data.sources import clips_to_score, source_of_clips
from etc.data.synthetic import is_to_be_rendered
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clip_metrics import ClipCounts, Counts, PairCounts
from etc.evaluate.clip_parts import Part, PartCounter, PartTables, SetAside, cut
from etc.evaluate.flows import FlowSetting, announce_flow, flow_settings
from etc.evaluate.metric_list import HEADLINE, PROTOCOLS, SEGMENTATION, classes_averaged, metrics_of
from etc.evaluate.predictions import Predictions, check_not_written, check_predictions_folder, predictions_from
from etc.evaluate.results import ClipFigures, ClipScores, ConstantControl, FlowScores
from etc.evaluate.workers import counted_parts, number_of_workers
from etc.flow.plausible import warn_if_implausible
from etc.metrics import bootstrap_interval, iou_scores
from etc.metrics.protocols import REACH

logger = logging.getLogger(__name__)

SEGMENTS = 10  # that a single clip is divided into, for intervals
_SEGMENT_FRAMES = 5  # of each segment, at least
_FEW = 0.05  # of the pixels: a score of fewer says nothing about the video


class _Checked(NamedTuple):
    """All that is known before the first pair is scored.

    Attributes:
        flows: what clips are scored with.
        computing: names of the flows of which the cache lacks some.
        whole: the clips as they are listed.
        predictions: their predictions.
        classes: names of the classes.
        breaks: where the clips break.
        clips: the parts between breaks, which are scored as clips.
        files: the prediction of each of their frames; ``None``: a gap.
    """

    flows: list[FlowSetting]
    computing: list[str]
    whole: list[Clip]
    predictions: Predictions
    classes: list[str]
    breaks: Breaks
    clips: list[list[Frame]]
    files: list[list[Path | None]]


def score_clips(
    settings: Settings,
    device: torch.device | None = None,
    *,
    workers: int | None = 1,
    set_aside: SetAside | None = None,
) -> ClipScores:
    """Score the temporal consistency of predictions: ``TEST.predictions``, or those of ``tool/gen_video.py``.

    Each frame is read once, for all of ``FLOW.evaluate_with`` and ``TEST.strides``. Flow is computed the first time, on
    ``device`` (default: that of the settings), and kept in ``FLOW.cache``. Pixels that are set aside count neither in
    predictions nor in labels.

    With several workers, processes of one thread each share the clips; long clips are cut into parts, which read up to
    16 frames before them again. The result is the same to the last pixel. A script that asks for them must keep its
    work behind ``if __name__ == "__main__"``, because every worker imports it.

    Args:
        settings: the settings.
        device: where flow is computed.
        workers: number of worker processes; 1: none, this process scores; ``None``: all cores, as far as it is worth
            it, see :func:`etc.evaluate.workers.number_of_workers`.
        set_aside: which pixels to set aside; with one worker only.

    Raises:
        UserError: as :class:`etc.evaluate.predictions.Predictions`; missing frames or lists; class names that do
            not fit; clips shorter than a stride; predictions that changed meanwhile.
        ValueError: ``set_aside`` with several workers.
    """
    if workers != 1 and set_aside is not None:
        raise ValueError("set_aside cannot be called in worker processes: give it with workers=1")
    device = device or device_of(settings.TEST.device)
    checked = _checked(settings, device)
    flows, predictions, clips = checked.flows, checked.predictions, checked.clips
    workers = number_of_workers(workers, settings, device, flows, clips, computing=checked.computing)
    ends = segment_ends(len(clips[0])) if len(clips) == 1 else []
    counter = PartCounter(settings, flows, predictions.reader, ends)
    tables = PartTables(counter, clips)
    parts = [counter.frames_of(part, clips[part.clip], checked.files[part.clip]) for part in _own(clips, workers)]
    try:
        frames = sum(given.part.stop - given.part.start for given in parts)
        with (
            tqdm(total=frames, desc="score", unit="frame", disable=distributed.rank() > 0) as bar,
            closing(
                counted_parts(counter, parts, device, workers, set_aside=set_aside, progress=bar.update)
            ) as counted,
        ):
            for part, found in counted:
                tables.add(part, found)
    except UserError:
        check_not_written(predictions.folder)  # which may be the reason
        raise
    predictions.check_unchanged()
    scores = _scores(settings, checked, _pooled(tables.counts), _of_segments(tables.so_far, len(flows)))
    _warn_of_few_pixels(scores)
    return scores


def _own(clips: list[list[Frame]], workers: int) -> list[Part]:
    """The parts that this process counts, with its workers."""
    parts = cut([len(clip) for clip in clips], int(distributed.sum_counts(torch.tensor(workers))))
    distributed.warn_of_idle_processes(len(parts), "clips, or parts of clips, to score")
    return parts[distributed.rank() :: distributed.world_size()]


def _checked(settings: Settings, device: torch.device) -> _Checked:
    """Everything is checked first: whatever is wrong must not waste the scoring.

    What can be looked at without the clips comes before them, because they may have to be rendered.
    """
    if is_to_be_rendered(settings):
        check_predictions_folder(settings)
        class_names(settings)
    flows = flow_settings(settings, device)
    whole = clips_to_score(settings)
    labels = settings.TEST.labels
    source = f"TEST.labels {labels}" if labels else source_of_clips(settings)
    check_values(settings, [frame for clip in whole for frame in clip], source)
    predictions = predictions_from(settings, whole)
    names = class_names(settings)  # before what takes long
    breaks = breaks_in(whole, settings)
    clips, files = breaks.split(whole), breaks.split(predictions.files)
    longest = max(map(len, clips))
    if longest <= max(settings.TEST.strides):
        raise UserError(f"TEST.strides {settings.TEST.strides}: the longest clip has {longest} frames")
    computing: list[str] = []
    if distributed.rank() == 0:
        _warn_of_labels(settings, clips)
        _warn_of_short_clips(settings, longest)
        _warn_of_flow(settings, flows, clips)
        computing = announce_flow(settings, flows, clips, files)
    computing = distributed.gathered(computing)[0]
    return _Checked(flows, computing, whole, predictions, names, breaks, clips, files)


def _scores(settings: Settings, checked: _Checked, pooled: ClipCounts, segments: list[Counts]) -> ClipScores:
    """The scores of all counts."""
    clips, breaks = checked.clips, checked.breaks
    by_flow = [
        _flow_scores(flow, own, pooled.frames, parts, clips, settings)
        for flow, own, parts in zip(checked.flows, pooled.pairs, segments, strict=True)
    ]
    called = clip_names(clips)
    tables = pooled.frames | pooled.pairs[0].metrics
    parts, metrics = tables | segments[0], metrics_of(settings.TEST.protocols)
    return ClipScores(
        classes=checked.classes,
        clips=called,
        by_flow=by_flow,
        constant=_constant(tables[SEGMENTATION].sum(0)),
        predictions=checked.predictions.facts(),
        clip_counts={m.key: m.kept(parts[m.key]).numpy() for m in metrics if m.statistic and not m.counts_of},
        settings=settings,
        gaps=[called[part] for part in breaks.parts_after(breaks.gaps)],
        cuts=[called[part] for part in breaks.parts_after(breaks.cuts)],
        frames_sha256=frames_sha256((frame for clip in checked.whole for frame in clip), settings.DATA.data_root),
    )


def _warn_of_few_pixels(scores: ClipScores) -> None:
    for own in scores.by_flow:
        if own.scored and own.coverage < _FEW:
            logger.warning(
                "FLOW.name %s: strict counts %.2f%% of the pixels: the flow leads out of the frames or is occluded, or "
                "there is no class",
                own.name,
                100 * own.coverage,
            )


def _warn_of_labels(settings: Settings, clips: list[list[Frame]]) -> None:
    """Say how many frames have no label, and which figures that were asked for will be missing for want of labels."""
    total = sum(map(len, clips))
    labelled = sum(frame.label is not None for clip in clips for frame in clip)
    if 0 < labelled < total:
        logger.info("%d of %d frames have a label: what needs labels is scored on them", labelled, total)
    asked = [metric for name in settings.TEST.protocols for metric in PROTOCOLS[name]]
    missing = [metric.label for metric in asked if metric.needs.startswith("labelled")]
    if missing and not labelled:
        logger.warning("no frame has a label (--labels FOLDER), which these figures need: %s", ", ".join(missing))


def _warn_of_short_clips(settings: Settings, longest: int) -> None:
    """Say which figures that were asked for will be missing because no clip is long enough."""
    windows = [
        metric.label for name in settings.TEST.protocols for metric in PROTOCOLS[name] if metric.needs == "window"
    ]
    needed = REACH * min(settings.TEST.strides) + 1
    if windows and longest < needed:
        logger.warning("%s: needs clips of %d frames, the longest has %d", ", ".join(windows), needed, longest)


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
