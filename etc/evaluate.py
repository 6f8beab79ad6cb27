"""Runs the metrics over clips; labelled frames alone are scored in etc/frame_scorer.py.

Everything is counted into integer tables with one row a clip. Processes started by torchrun share the clips and
sum their tables, so that the result is the same to the last pixel for any number of processes.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from etc import distributed
from etc.clip_scorer import ClipScorer, Counts, ScoredFrame, metrics_of_clip
from etc.config import UserError
from etc.config_schema import Settings
from etc.data.images import read_image, read_label
from etc.data.labels import IGNORE, label_table, read_train_ids
from etc.data.lists import Clip, Frame, prediction_names
from etc.datasets import clips_to_score, flow_of_pairs, labelled_frames
from etc.frame_scorer import confusion_of
from etc.metrics import TemporalConsistency, bootstrap_interval, class_totals, mean_iou, scores
from etc.networks import device_of
from etc.predictor import predictor_from
from etc.results import ClipScores


def score_clips(settings: Settings, device: torch.device | None = None) -> ClipScores:
    """Score the temporal consistency of the predictions below ``TEST.save_folder``.

    Predictions are read from ``<save_folder>/video/gray`` as ``tool/gen_video.py`` writes them. Flow is computed
    the first time, on ``device`` (default: that of the settings), and kept in ``FLOW.store``.

    Raises:
        UserError: missing predictions (how many, and the first few), frames or lists; predictions of the wrong
            size, or with ids outside the classes.
    """
    clips = clips_to_score(settings)
    folder = Path(settings.TEST.save_folder) / "video" / "gray"
    names = _prediction_files(clips, folder)
    tables: list[Counts | None] = [None] * len(clips)
    flow = flow_of_pairs(settings, device or device_of(settings))
    classes = settings.DATA.classes
    own = range(distributed.rank(), len(clips), distributed.world_size())
    for index in tqdm(own, desc="score", unit="clip", disable=distributed.rank() > 0):
        scorer = ClipScorer(classes, flow, occlusion=settings.FLOW.occlusion)
        for frame, file in zip(clips[index], names[index], strict=True):
            scorer.add(_scored_frame(settings, frame, _read_prediction(file, classes)))
        tables[index] = scorer.counts(pairs=max(map(len, clips)) - 1)
    return summarise(_pooled(tables), clips, settings)


def validate(
    network: nn.Module, settings: Settings, device: torch.device, *, clips: int | None = None
) -> dict[str, float]:
    """mIoU on ``DATA.val_list`` and strict TC on the first ``clips`` (all) of ``DATA.clip_list``.

    Returns:
        ``{"mIoU", "TC"}`` in [0, 1]; TC without the forward-backward check, which would
        double the flow needed. The network is left in eval mode.
    """
    predictor = predictor_from(settings, network=network, device=device)
    counts = confusion_of(predictor, labelled_frames(settings), settings, desc="validate mIoU")
    flow, root = flow_of_pairs(settings, device), Path(settings.DATA.data_root)
    strict = TemporalConsistency(settings.DATA.classes)
    own = clips_to_score(settings)[:clips][distributed.rank() :: distributed.world_size()]
    for clip in tqdm(own, desc="validate TC", unit="clip", leave=False, disable=distributed.rank() > 0):
        last: tuple[Path, np.ndarray] | None = None
        for frame in clip:
            path = root / frame.image
            prediction = predictor([read_image(path)])[0]
            if last is not None:
                forward, valid = flow.with_validity(last[0], path, prediction.shape)
                strict.update(last[1], prediction, forward, valid=valid)
            last = (path, prediction)
    strict_counts = distributed.sum_counts(strict.counts)
    return {"mIoU": scores(counts)["mIoU"], "TC": scores(strict_counts)["mIoU"]}


def summarise(tables: Counts, clips: list[Clip], settings: Settings) -> ClipScores:
    """Turn pooled tables, one row a clip, into every figure of the report."""
    total = {name: table.sum(0) for name, table in tables.items()}
    figures: dict[str, Any] = _figures(total, settings.DATA.classes)
    figures["ceiling"] = figures.pop("truth")["mIoU"]
    for name in ("strict", "published"):
        statistic = partial(mean_iou, convention="present" if name == "strict" else "published")
        figures[f"{name}_interval"] = list(bootstrap_interval(class_totals(tables[name]), statistic))
    figures["segmentation"] = scores(total["segmentation"])
    pixels = total["pixels"].item()
    figures["coverage"] = figures["strict"]["pixels"] / pixels if pixels else math.nan
    rows = []
    for i, clip in enumerate(clips):
        own = _figures({name: table[i] for name, table in tables.items()}, settings.DATA.classes)
        row = {"clip": Path(clip[0].image).stem, "strict": own["strict"]["mIoU"]}
        row |= {"published": own["published"]["mIoU"], "flicker": own["flicker"]}
        rows.append(row | {"pairs": tables["pairs"][i, : len(clip) - 1].tolist()})
    counts = {name: tables[name] for name in ("strict", "published", "segmentation")}
    return ClipScores(figures=figures, clips=rows, counts=counts, settings=settings)


def _figures(counts: Counts, classes: int) -> dict[str, Any]:
    """What the metrics of :func:`metrics_of_clip` say of summed counts."""
    figures = {}
    for name, metric in metrics_of_clip(classes).items():
        metric.counts = counts[name]
        figures[name] = metric.compute()
    return figures


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


def _prediction_files(clips: list[Clip], folder: Path) -> list[list[Path]]:
    """The prediction file of every frame, all of them checked."""
    names = prediction_names([frame for clip in clips for frame in clip])
    files = [folder / f"{name}.png" for name in names]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} predictions are missing, the first is {missing[0]}: "
            "write them with tool/gen_video.py"
        )
    rest = iter(files)
    return [[next(rest) for _ in clip] for clip in clips]


def _read_prediction(file: Path, classes: int) -> np.ndarray:
    prediction = read_label(file)
    highest = int(prediction[prediction != IGNORE].max(initial=0))
    if highest >= classes:
        raise UserError(f"{file}: id {highest} is outside the {classes} classes")
    return prediction


def _scored_frame(settings: Settings, frame: Frame, prediction: np.ndarray) -> ScoredFrame:
    data = settings.DATA
    root, label = Path(data.data_root), None
    if frame.label is not None:
        table = label_table(data.label_map, data.classes, settings.TRAIN.ignore_label)
        label = read_train_ids(root / frame.label, table, prediction.shape)
    return ScoredFrame(root / frame.image, prediction, label)
