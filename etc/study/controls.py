"""Filters of the baseline's predictions, which a study compares a training with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from etc.config.schema import Settings
from etc.data.sources import clips_to_score
from etc.evaluate.prediction_files import prediction_files
from utils.files import replacing

# "constant": the most frequent class of all predictions, everywhere. [T, H, W]: the most frequent class in a window of
# so many frames, rows and columns.
Filter = Literal["constant"] | tuple[int, int, int]


def majority(ids: Tensor, window: tuple[int, int, int], classes: int) -> Tensor:
    """The most frequent class in the window around each pixel, cut at the borders; the pixel's own where it is one.

    Args:
        ids: predictions of a clip, uint8 ``[T, H, W]``.
        window: frames, rows and columns, odd.
        classes: number of classes.

    Returns:
        uint8 ``[T, H, W]``.
    """
    best, chosen = torch.full(ids.shape, -1.0), ids.clone()
    volume = window[0] * window[1] * window[2]
    for class_id in range(classes):
        own = (ids == class_id).float()
        padding = [side // 2 for side in reversed(window) for _ in range(2)]
        votes = F.avg_pool3d(F.pad(own, padding)[None], window, 1)[0] * volume + own / 2
        better = votes > best + 0.25  # votes are whole or half: below this, they differ by rounding
        best, chosen = torch.where(better, votes, best), torch.where(better, class_id, chosen)
    return chosen


def regions(ids: np.ndarray) -> int:
    """How many connected regions of one class a prediction consists of: few in a coarse one.

    Args:
        ids: uint8 ``[H, W]``; pixels are connected at their sides.
    """
    return sum(cv2.connectedComponents((ids == k).view(np.uint8), connectivity=4)[0] - 1 for k in np.unique(ids))


def regions_per_frame(settings: Settings) -> float:
    """Mean of :func:`regions` over the predictions of the clips to score in ``TEST.save_folder``."""
    counts = [regions(frame) for clip in _predictions(settings) for frame in clip]
    return float(np.mean(counts))


def write_filtered(control: Filter, settings: Settings, folder: Path) -> None:
    """Write filtered predictions.

    Args:
        control: the filter.
        settings: of the run whose predictions are filtered.
        folder: gets one gray PNG per frame, at the place that it has among the predictions.
    """
    clips = _predictions(settings)
    if control == "constant":
        counts = sum(np.bincount(clip.reshape(-1), minlength=256) for clip in clips)
        filtered = [np.full_like(clip, np.argmax(counts)) for clip in clips]
    else:
        filtered = [majority(torch.from_numpy(clip), control, settings.DATA.classes).numpy() for clip in clips]
    root = _folder(settings)
    for files, frames in zip(_files(settings), filtered, strict=True):
        for file, frame in zip(files, frames, strict=True):
            path = folder / file.relative_to(root)
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                Image.fromarray(frame).save(temporary, format="png")


def _folder(settings: Settings) -> Path:
    return Path(settings.TEST.save_folder) / "video/gray"


def _files(settings: Settings) -> list[list[Path]]:
    clips = clips_to_score(settings)
    found = prediction_files(clips, _folder(settings), data_root=Path(settings.DATA.data_root))
    return [[file for file in files if file is not None] for files in found]


def _predictions(settings: Settings) -> list[np.ndarray]:
    """Class ids of each clip, uint8 ``[T, H, W]``."""
    return [np.stack([np.asarray(Image.open(file)) for file in files]) for files in _files(settings)]
