"""Runs the metrics over clips; labelled frames alone are scored in etc/evaluate/frames.py.

Everything is counted into integer tables with one row a clip. Processes started by torchrun share the clips and
sum their tables, so that the result is the same to the last pixel for any number of processes.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.labels import IGNORE, label_table, read_train_ids
from etc.data.lists import Clip, Frame, prediction_names
from etc.data.sources import clips_to_score
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clip_metrics import ClipScorer, Counts, PairScorer, ScoredFrame, metrics_of_pairs, metrics_of_windows
from etc.evaluate.predictions import Predictions, predictions_from
from etc.evaluate.results import ClipScores
from etc.flow.build import FlowSource, flow_source
from etc.metrics import bootstrap_interval, iou_counts, iou_scores, mean_iou
from etc.weights import weight_files
from flownet import VARIANTS


class FlowSetting(NamedTuple):
    """One way to look at the clips: whose flow, and how far apart the frames of a pair are."""

    judge: str
    stride: int
    flow: FlowSource


def score_clips(settings: Settings, device: torch.device | None = None) -> ClipScores:
    """Score the temporal consistency of predictions: ``TEST.predictions``, or those of ``tool/gen_video.py``.

    Each frame is read once, for all of ``FLOW.evaluate_with`` and ``TEST.strides``. Flow is computed the first time, on
    ``device`` (default: that of the settings), and kept in ``FLOW.cache``.

    Raises:
        UserError: as :class:`etc.evaluate.predictions.Predictions`; missing frames or lists; clips shorter than
            a stride.
    """
    clips = clips_to_score(settings)
    predictions = predictions_from(settings, clips)
    views = flow_settings(settings, device or device_of(settings.TEST.device))
    longest = max(map(len, clips)) - 1
    if longest < max(settings.TEST.strides):
        raise UserError(f"TEST.strides {settings.TEST.strides}: the longest clip has {longest + 1} frames")
    tables: list[Counts | None] = [None] * len(clips)
    own = range(distributed.rank(), len(clips), distributed.world_size())
    for index in tqdm(own, desc="score", unit="clip", disable=distributed.rank() > 0):
        tables[index] = _counts_of(settings, clips[index], predictions.files[index], predictions, views, longest)
    result = summarise(_pooled(tables), clips, views, settings)
    result.figures["predictions"] = predictions.facts()
    return result


def flow_settings(settings: Settings, device: torch.device) -> list[FlowSetting]:
    """Every judge with every stride, the headline first.

    A judge is an estimator's name; ``dis@PRESET`` and ``NAME@WEIGHTS`` say more than ``FLOW.preset`` and
    ``FLOW.weights``, which belong to ``FLOW.name``.

    Raises:
        UserError: an unknown estimator or preset, or weights that are missing.
    """
    views = []
    for judge in settings.FLOW.evaluate_with or [settings.FLOW.name]:
        name, _, choice = judge.partition("@")
        change: dict[str, Any] = {
            "name": name,
            "weights": settings.FLOW.weights if name == settings.FLOW.name else None,
        }
        if choice:
            change["preset" if name == "dis" else "weights"] = choice
        elif change["weights"] is None and name in VARIANTS and weight_files()[name].path.is_file():
            change["weights"] = str(weight_files()[name].path)
        flow = flow_source(settings.model_copy(update={"FLOW": settings.FLOW.model_copy(update=change)}), device)
        views += [FlowSetting(judge, stride, flow) for stride in settings.TEST.strides]
    return views


def _counts_of(
    settings: Settings,
    clip: Clip,
    files: list[Path | None],
    predictions: Predictions,
    views: list[FlowSetting],
    longest: int,
) -> Counts:
    """All counts of one clip; those of a view begin with its number."""
    classes, occlusion = settings.DATA.classes, settings.FLOW.occlusion
    pairs = [PairScorer(classes, view.flow, occlusion=occlusion, stride=view.stride) for view in views]
    scorer = ClipScorer(classes, pairs)
    for frame, file in zip(clip, files, strict=True):
        scorer.add(None if file is None else _scored_frame(settings, frame, file, predictions.read(file)))
    counts = scorer.counts()
    for number, own in enumerate(pairs):
        counts |= {f"{number}/{name}": table for name, table in own.counts(longest).items()}
    return counts


def summarise(tables: Counts, clips: list[Clip], views: list[FlowSetting], settings: Settings) -> ClipScores:
    """Turn pooled tables, one row a clip, into every figure of the report."""
    classes = settings.DATA.classes
    names = prediction_names([clip[0] for clip in clips])
    seen = [_figures_of(view, _of_view(tables, number), clips, classes) for number, view in enumerate(views)]
    total = {name: table.sum(0) for name, table in tables.items()}
    first = {key: value for key, value in seen[0].items() if key != "clips"}
    figures = first | _computed(metrics_of_windows(classes), total)
    figures["segmentation"] = iou_scores(total["segmentation"])
    figures["constant"] = _constant(total["segmentation"])
    clip_rows = [{"clip": name, **row} for name, row in zip(names, seen[0]["clips"], strict=True)]
    if len(views) > 1:
        figures["views"] = seen
    counts = {name: tables[f"0/{name}"] for name in ("strict", "published")}
    counts["segmentation"] = tables["segmentation"]
    return ClipScores(figures=figures, clips=clip_rows, counts=counts, settings=settings)


def _of_view(tables: Counts, number: int) -> Counts:
    head = f"{number}/"
    return {name.removeprefix(head): table for name, table in tables.items() if name.startswith(head)}


def _figures_of(view: FlowSetting, tables: Counts, clips: list[Clip], classes: int) -> dict[str, Any]:
    """What one flow at one stride says, of all clips and of each."""
    total = {name: table.sum(0) for name, table in tables.items()}
    figures: dict[str, Any] = {"judge": view.judge, "stride": view.stride, "flow": view.flow.key}
    figures |= _computed(metrics_of_pairs(classes), total)
    figures["ceiling"] = figures.pop("truth")["mIoU"]
    for name in ("strict", "published"):
        statistic = partial(mean_iou, convention="present" if name == "strict" else "published")
        figures[f"{name}_interval"] = list(bootstrap_interval(iou_counts(tables[name]), statistic))
    pixels = total["pixels"].item()
    figures["coverage"] = figures["strict"]["pixels"] / pixels if pixels else math.nan
    figures["pairs"] = {name: total[name].item() for name in ("scored", "skipped")}
    figures["clips"] = []
    for i, clip in enumerate(clips):
        own = _computed(metrics_of_pairs(classes), {name: table[i] for name, table in tables.items()})
        row = {name: own[name]["mIoU"] for name in ("strict", "published")} | {"flicker": own["flicker"]}
        row["pairs"] = tables["pairs"][i, : max(0, len(clip) - view.stride)].tolist()
        figures["clips"].append(row)
    return figures


def _computed(metrics: dict[str, Any], counts: Counts) -> dict[str, Any]:
    """What fresh metrics say of summed counts."""
    figures = {}
    for name, metric in metrics.items():
        metric.counts = counts[name]
        figures[name] = metric.compute()
    return figures


def _constant(segmentation: Tensor) -> dict[str, float]:
    """mIoU of the control: the most frequent class of the labels, predicted everywhere. It is TC 1 by definition."""
    labels = segmentation.sum(1)
    control = torch.zeros_like(segmentation)
    control[:, labels.argmax()] = labels
    return {"class": int(labels.argmax()), "mIoU": iou_scores(control)["mIoU"]}


def _pooled(tables: list[Counts | None]) -> Counts:
    """One row a clip, filled by the process that counted it."""
    mine = next((table for table in tables if table is not None), None)
    if mine is None:
        raise UserError(f"{len(tables)} clips are too few for {distributed.world_size()} processes")
    pooled = {}
    for name, example in mine.items():
        rows = [torch.zeros_like(example) if table is None else table[name] for table in tables]
        pooled[name] = distributed.sum_counts(torch.stack(rows))
    return pooled


def _scored_frame(settings: Settings, frame: Frame, file: Path, prediction: np.ndarray) -> ScoredFrame:
    data = settings.DATA
    root, label = Path(data.data_root), None
    if frame.label is not None:
        table = label_table(data.label_map, data.classes, settings.TRAIN.ignore_label)
        label = read_train_ids(root / frame.label, table, prediction.shape)
        holes = int(((prediction == IGNORE) & (label != IGNORE)).sum())
        if holes:
            raise UserError(
                f"{file}: {holes} pixels have no class (255) where {root / frame.label} has one, and mIoU needs one "
                "everywhere: predict a class there, or score against a list without labels"
            )
    return ScoredFrame(root / frame.image, prediction, label)
