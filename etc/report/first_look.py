"""The difference between runs at a glance: a looping picture of one clip, and one row of pixels over time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from etc.display.drawing import overlay, side_by_side
from etc.display.tables import percent
from etc.report.clip_views import STRENGTH, ClipViewer, fit_to_panel, highlight_changes
from utils.files import replacing

LOOP_FILE, PROFILE_FILE = "loop.webp", "profile.png"
STEADINESS = "pixel_consistency"  # of a clip: what the clip that is shown is chosen by

_FRAMES = 60  # of the looping picture, at most
_WIDTH = 384  # of a panel of it, pixels
_FPS = 8.0  # slow enough to see what flickers
_QUALITY = 60  # of WebP
_PROFILE_ROWS = 4  # pixels per frame in the profile


class FirstLook(NamedTuple):
    """Two pictures of one clip.

    Attributes:
        clip: its name.
        changing: share of the counted pixels whose label changes in a pair of frames, one per run.
        row: of the profile, pixels from the top: where the labels of all runs together change most.
        loop: animated WebP: above, the labels of each run; below, the pixels whose label changes to the next frame.
        profile: PNG of one row of pixels, time from top to bottom: above, the labels of each run; below, the pixels
            whose label changes to the next frame.
    """

    clip: str
    changing: list[float]
    row: int
    loop: Path
    profile: Path


def write_first_look(viewer: ClipViewer, folder: Path) -> FirstLook:
    """Write :class:`FirstLook` of the runs of a viewer.

    Raises:
        UserError: frames, predictions or flow that cannot be read.
    """
    runs = viewer.runs
    index = median_clip([[clip.figures[STEADINESS] for clip in run.scores.first.clips] for run in runs])
    part = range(min(_FRAMES, len(viewer.clips[index])))
    pairs = [[viewer.changes(run, index, t) for t in part[: -viewer.stride]] for run in runs]
    shares = [_share(own) for own in pairs]
    captions = [f"{run.name}: {percent(share, 2)}% change" for run, share in zip(runs, shares, strict=True)]
    nothing = np.zeros(viewer.image(index, 0).shape[:2], bool)  # of the last frames, which no pair begins with
    changed = [[own[t][0] if t < len(own) else nothing for own in pairs] for t in part]
    loop, profile = folder / LOOP_FILE, folder / PROFILE_FILE
    _write_loop([_frame(viewer, index, t, captions, changed[t]) for t in part], loop)
    row = int(np.sum(changed, axis=(0, 1, 3)).argmax())
    lines = [_lines(viewer, index, t, row, changed[t]) for t in part]
    stacked = [fit_to_panel(np.stack(own).repeat(_PROFILE_ROWS, axis=0)) for own in zip(*lines, strict=True)]
    names = [*(run.name for run in runs), *(" " for _ in runs)]
    with replacing(profile) as temporary:
        picture = side_by_side(list(zip(names, stacked, strict=True)), columns=len(runs))
        Image.fromarray(picture).save(temporary, format="png")
    return FirstLook(runs[0].scores.clips[index], shares, row, loop, profile)


def median_clip(steadiness: list[list[float]]) -> int:
    """The clip on which the last run differs from the first as much as on the median clip; of two, the worse one.

    Args:
        steadiness: of every clip, one list per run; NaN where nothing was counted. A single run is looked at by itself.
    """
    last, first = np.array(steadiness[-1]), np.array(steadiness[0])
    difference = last if len(steadiness) == 1 else last - first
    order = [int(i) for i in np.argsort(difference, kind="stable") if not math.isnan(difference[i])]
    return order[(len(order) - 1) // 2] if order else 0


def _share(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    counted = sum(int(seen.sum()) for _, seen in pairs)
    return sum(int(changed.sum()) for changed, _ in pairs) / counted if counted else math.nan


def _frame(viewer: ClipViewer, index: int, t: int, captions: list[str], changed: list[np.ndarray]) -> np.ndarray:
    names = [*captions, *(" " for _ in captions)]
    pictures = map(_scaled, _labels_and_changes(viewer, index, t, changed))
    return side_by_side(list(zip(names, pictures, strict=True)), columns=len(captions))


def _labels_and_changes(viewer: ClipViewer, index: int, t: int, changed: list[np.ndarray]) -> list[np.ndarray]:
    """The labels of each run over frame t, then for each run its changed pixels, lit."""
    rgb = viewer.image(index, t)
    labels = [overlay(rgb, viewer.prediction(run, index, t), viewer.palette, STRENGTH) for run in viewer.runs]
    return labels + [highlight_changes(rgb, own) for own in changed]


def _lines(viewer: ClipViewer, index: int, t: int, row: int, changed: list[np.ndarray]) -> list[np.ndarray]:
    """One row of pixels of :func:`_labels_and_changes`."""
    return [picture[row] for picture in _labels_and_changes(viewer, index, t, changed)]


def _scaled(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    way = cv2.INTER_AREA if width > _WIDTH else cv2.INTER_NEAREST
    return cv2.resize(picture, (_WIDTH, max(1, round(height * _WIDTH / width))), interpolation=way)


def _write_loop(frames: list[np.ndarray], path: Path) -> None:
    first, *others = [Image.fromarray(frame) for frame in frames]
    times = {"duration": round(1000 / _FPS), "loop": 0}
    with replacing(path) as temporary:
        first.save(temporary, format="webp", save_all=True, append_images=others, quality=_QUALITY, method=4, **times)
