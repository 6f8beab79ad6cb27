"""A clip under several runs, in pictures: videos, where labels change along the motion, the worst moments."""

from __future__ import annotations

import copy
import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import torch

from etc.config import with_changes
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.images import read_image, write_png
from etc.data.labels import IGNORE, label_table_of, read_colors, read_train_ids
from etc.data.lists import Clip
from etc.data.sources import clips_to_score, frame_rate
from etc.display.drawing import colorize, overlay, side_by_side
from etc.display.mp4 import Mp4Writer
from etc.display.tables import percent
from etc.distributed import device_of
from etc.errors import UserError
from etc.evaluate.clip_metrics import flow_of_pair
from etc.evaluate.clip_parts import SetAside
from etc.evaluate.flows import evaluation_flow, evaluation_flow_names
from etc.evaluate.metric_list import HEADLINE
from etc.evaluate.predictions import Predictions, predictions_from
from etc.evaluate.results import TC_FILE
from etc.flow.pair_flow import PairFlow
from etc.metrics.warping import warp_labels
from etc.report.runs import Run
from etc.report.same_frames import settings_of_frames

PANEL_WIDTH = 512  # pixels: smaller frames are enlarged by a whole factor, larger ones reduced
STRENGTH = 0.7  # of the class colours over the frame
HEAT_FULL = 0.5  # share of changes that is drawn brightest
_CHANGED = (255, 45, 85)


class WorstPair(NamedTuple):
    """A pair of frames that is the worst of some runs, and how each run looks there.

    Attributes:
        t: index of the first frame in the clip.
        following: index of the second one.
        worst_of: names of the runs whose least consistent pair it is.
        consistency: strict TC of the pair, one per run.
        frame: RGB uint8.
        panels: for each run its prediction of both frames, and what changed between them, RGB uint8.
    """

    t: int
    following: int
    worst_of: list[str]
    consistency: list[float]
    frame: np.ndarray
    panels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ClipView:
    """A clip under several runs.

    Attributes:
        name: the clip's, as in the results.
        length: frames of the clip.
        start: first frame of the part that is shown.
        count: frames that are shown.
        stride: distance of the frames of a pair.
        pairs: strict TC of every pair of the clip, one list per run.
        videos: caption and mp4 file: the frames, the labels where all have one, the runs.
        frame: first frame shown, RGB uint8.
        heatmap: for each run the picture of its changes, and the share of changed pixels.
        moments: the worst moments, in the order of time.
    """

    name: str
    length: int
    start: int
    count: int
    stride: int
    pairs: list[list[float]]
    videos: list[tuple[str, bytes]]
    frame: np.ndarray
    heatmap: list[tuple[np.ndarray, float]]
    moments: list[WorstPair]


def clips_to_show(runs: list[Run], limit: int) -> list[int]:
    """The clips with the lowest TC, averaged over the runs, in the order of the list; at most ``limit``."""
    mean = np.mean([[clip.figures[HEADLINE] for clip in run.scores.first.clips] for run in runs], axis=0)
    # A clip on which nothing was counted has no figure and comes last.
    return sorted(np.argsort(np.nan_to_num(mean, nan=math.inf), kind="stable")[:limit].tolist())


def worst_pairs(pairs: list[list[float]], names: list[str]) -> dict[int, list[str]]:
    """The least consistent pair of each run: index of its first frame -> the runs whose worst it is."""
    found: dict[int, list[str]] = {}
    for name, own in zip(names, pairs, strict=True):
        if not np.isnan(own).all():
            found.setdefault(int(np.nanargmin(own)), []).append(name)
    return dict(sorted(found.items()))


def part_to_show(length: int, moments: dict[int, list[str]], limit: int) -> range:
    """At most ``limit`` frames of a clip, around the first of its worst moments."""
    middle = next(iter(moments), 0)
    start = min(max(0, middle - limit // 2), max(0, length - limit))
    return range(start, min(length, start + limit))


class ClipViewer:
    """Makes :class:`ClipView` of the clips that some runs were scored on.

    Args:
        runs: the runs.
        settings: data, flow and palette.

    Raises:
        UserError: missing lists or frames, or runs of other clips than those of the list.
    """

    def __init__(self, runs: list[Run], settings: Settings) -> None:
        first = runs[0].scores
        settings = _counted_as(first.settings, settings)
        self.runs, self.settings = runs, settings
        whole = clips_to_score(settings)
        breaks = breaks_in(whole, settings)
        self.clips = breaks.split(whole)
        if len(first.clips) != len(self.clips):
            raise UserError(f"{runs[0].folder} scored {len(first.clips)} clips, DATA.clip_list has {len(self.clips)}")
        # Only the first flow: the others may need networks that take long to load.
        self.flow = evaluation_flow(settings, evaluation_flow_names(settings)[0], device_of(settings.TEST.device))
        self.stride = settings.TEST.strides[0]
        for what, own, scored in (
            ("flow", self.flow.key, first.first.flow),
            ("TEST.strides", self.stride, first.first.stride),
        ):
            if own != scored:
                raise UserError(f"{runs[0].folder} was scored with {what} {scored}, the settings say {own}")
        self._predictions = {}
        self._frames = []  # of each run, which may call them otherwise
        for run in runs:
            frames = settings_of_frames(run.scores, first, settings)
            clips = whole if frames is settings else clips_to_score(frames)
            self._frames.append((frames, breaks.split(clips)))
            self._predictions[run.name] = _predictions_of(run, frames, clips)
        self._files = {name: breaks.split(own.files) for name, own in self._predictions.items()}
        self.palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
        self.set_aside: SetAside | None = None

    def view(self, index: int, frames: int) -> ClipView:
        """A clip, with at most this many frames as video and as flicker.

        Raises:
            UserError: frames, predictions or flow that cannot be read.
        """
        clip, runs = self.clips[index], self.runs
        pairs = [run.scores.first.clips[index].pairs for run in runs]
        moments = worst_pairs(pairs, [run.name for run in runs])
        part = part_to_show(len(clip), moments, frames)
        return ClipView(
            name=runs[0].scores.clips[index],
            length=len(clip),
            start=part.start,
            count=len(part),
            stride=self.stride,
            pairs=pairs,
            videos=self._videos(index, part),
            frame=fit_to_panel(self.image(index, part.start)),
            heatmap=[self._heat(run, index, part) for run in runs],
            moments=[self._moment(index, t, names) for t, names in moments.items()],
        )

    def image(self, index: int, t: int) -> np.ndarray:
        """Frame t of a clip, RGB uint8."""
        return read_image(Path(self.settings.DATA.data_root) / self.clips[index][t].image)

    def fps(self, index: int) -> float:
        """Frames per second of a clip: of the video that it is for one of the runs, or else ``TEST.fps``."""
        rates = (frame_rate(clips[index], frames) for frames, clips in self._frames)
        return next((rate for rate in rates if rate is not None), self.settings.TEST.fps)

    def prediction(self, run: Run, index: int, t: int) -> np.ndarray:
        """A run's prediction of frame t of a clip, uint8 ``[H, W]``; where there is none, no pixel has a class."""
        ids = self.prediction_if_any(run, index, t)
        return np.full(self.image(index, t).shape[:2], IGNORE, np.uint8) if ids is None else ids

    def prediction_if_any(self, run: Run, index: int, t: int) -> np.ndarray | None:
        """A run's prediction of frame t of a clip, uint8 ``[H, W]``; ``None`` where there is none."""
        file = self._files[run.name][index][t]
        return None if file is None else self._predictions[run.name].read(file)

    def with_runs(self, runs: list[Run], set_aside: SetAside) -> ClipViewer:
        """The same view of the same runs with other scores, whose changes leave out the pixels that are set aside."""
        other = copy.copy(self)
        other.runs, other.set_aside = runs, set_aside
        return other

    def changes(self, run: Run, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
        """As :func:`label_changes`, for the pair of a clip that begins with frame t."""
        ends = (t, t + self.stride)
        before, after = (self._counted(run, index, i) for i in ends)
        path_t, path_k = (Path(self.settings.DATA.data_root) / self.clips[index][i].image for i in ends)
        flow = flow_of_pair(self.flow, path_t, path_k, before.shape, occlusion=self.settings.FLOW.occlusion)
        return label_changes(before, after, flow)

    def flicker(self, run: Run, index: int, part: range) -> tuple[np.ndarray, float]:
        """Share of the pairs in which each pixel's label changes, float ``[H, W]``, and that of all counted pixels."""
        changed, counted, pixels = np.zeros(self.image(index, part.start).shape[:2]), 0, 0
        pairs = part[: -self.stride]
        for t in pairs:
            own, seen = self.changes(run, index, t)
            changed, counted, pixels = changed + own, counted + seen.sum(), pixels + own.sum()
        return changed / max(1, len(pairs)), float(pixels / counted) if counted else math.nan

    def _heat(self, run: Run, index: int, part: range) -> tuple[np.ndarray, float]:
        share, overall = self.flicker(run, index, part)
        return fit_to_panel(heatmap(share)), overall

    def _videos(self, index: int, part: range) -> list[tuple[str, bytes]]:
        clip = self.clips[index]
        captions = ["frames", *(run.name for run in self.runs)]
        labels = {t: label for t in part if (label := clip[t].label) is not None}
        labelled = len(labels) == len(part)
        if labelled:
            captions.insert(1, "ground truth")
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / f"{i}.mp4" for i in range(len(captions))]
            with ExitStack() as stack:
                # A key frame every half second or so, so that the slider answers at once.
                writers = [stack.enter_context(Mp4Writer(f, self.fps(index), crf=24, gop=10)) for f in files]
                for t in part:
                    rgb = self.image(index, t)
                    maps = [self._label(labels[t], rgb.shape[:2])] if labelled else []
                    maps += [self.prediction(run, index, t) for run in self.runs]
                    pictures = [rgb, *(overlay(rgb, ids, self.palette, STRENGTH) for ids in maps)]
                    for writer, picture in zip(writers, pictures, strict=True):
                        writer.write(fit_to_panel(picture))
            return [(caption, file.read_bytes()) for caption, file in zip(captions, files, strict=True)]

    def _counted(self, run: Run, index: int, t: int) -> np.ndarray:
        """A prediction without the pixels that are set aside."""
        ids = self.prediction(run, index, t)
        aside = self.set_aside and self.set_aside(index, t)
        return ids if aside is None else np.where(aside, np.uint8(IGNORE), ids)

    def _label(self, label: str, shape: tuple[int, int]) -> np.ndarray:
        data = self.settings.DATA
        table = label_table_of(self.settings)
        return read_train_ids(Path(data.data_root) / label, table, shape)

    def _moment(self, index: int, t: int, worst_of: list[str]) -> WorstPair:
        ends = (t, t + self.stride)
        frames = [self.image(index, i) for i in ends]
        panels = []
        for run in self.runs:
            maps = [self.prediction(run, index, i) for i in ends]
            both = [overlay(f, ids, self.palette, STRENGTH) for f, ids in zip(frames, maps, strict=True)]
            changed, _ = self.changes(run, index, t)
            panels.append(
                (fit_to_panel(both[0]), fit_to_panel(both[1]), fit_to_panel(highlight_changes(frames[0], changed)))
            )
        consistency = [run.scores.first.clips[index].pairs[t] for run in self.runs]
        return WorstPair(*ends, worst_of, consistency, fit_to_panel(frames[0]), panels)


def _counted_as(scored: Settings, settings: Settings) -> Settings:
    """The settings with those of a scoring that say where clips break, and which pixels count as what."""
    data = {key: getattr(scored.DATA, key) for key in ("gaps", "cuts", "label_map")}
    ignored = scored.TRAIN.ignore_label
    return with_changes(settings, DATA=data, FLOW={"occlusion": scored.FLOW.occlusion}, TRAIN={"ignore_label": ignored})


def settings_of_predictions(run: Run, settings: Settings) -> Settings:
    """The settings with those that a run's predictions were read with."""
    own = run.scores.settings.TEST
    mapping = isinstance(own.prediction_ids, dict)
    kind = own.prediction_ids if mapping else run.scores.predictions["ids"]
    change = {"predictions": own.predictions, "prediction_ids": kind, "allow_gaps": own.allow_gaps}
    return with_changes(settings, TEST=change | {"save_folder": str(run.folder)})


def _predictions_of(run: Run, settings: Settings, clips: list[Clip]) -> Predictions:
    """The predictions that the run was scored on, with the settings of that scoring.

    Raises:
        UserError: predictions that cannot be read, or that are others than those that were scored.
    """
    predictions = predictions_from(settings_of_predictions(run, settings), clips)
    if predictions.fingerprint != run.scores.predictions.get("fingerprint"):
        raise UserError(
            f"{run.folder / TC_FILE} is of other predictions than {predictions.folder} holds now: score them "
            f"again with tool/eval_tc.py TEST.save_folder {run.folder}"
        )
    return predictions


def label_changes(before: np.ndarray, after: np.ndarray, flow: PairFlow) -> tuple[np.ndarray, np.ndarray]:
    """Where the label of a pixel differs from that of the pixel it moves to, by the rules of strict TC.

    Args:
        before: ids of frame t, uint8 ``[H, W]``; 255 has no label.
        after: ids of frame t+1, same shape.
        flow: from t to t+1, and what is known of occlusion.

    Returns:
        Two bool ``[H, W]``: what changes, and what counts (visible in both frames, with a label in both).
    """
    (warped,) = warp_labels([torch.from_numpy(after)], [torch.from_numpy(flow.forward)], [None], ignore=IGNORE).numpy()
    counted = (before != IGNORE) & (warped != IGNORE)
    if flow.visible is not None:
        counted &= flow.visible
    return counted & (before != warped), counted


def write_pictures(viewer: ClipViewer, folder: Path) -> tuple[Path, Path]:
    """The clip on which the runs are least consistent: a side-by-side video and a picture of the flicker.

    Returns:
        The paths of the video and of the picture.
    """
    runs = viewer.runs
    (index,) = clips_to_show(runs, 1)
    part = range(len(viewer.clips[index]))
    video, picture = folder / "side_by_side.mp4", folder / "flicker.png"
    with Mp4Writer(video, viewer.fps(index)) as writer:
        for t in part:
            panels = [("frame", viewer.image(index, t))]
            panels += [(run.name, colorize(viewer.prediction(run, index, t), viewer.palette)) for run in runs]
            writer.write(side_by_side([(caption, fit_to_panel(panel)) for caption, panel in panels]))
    panels = [("frame", viewer.image(index, 0))]
    for run in runs:
        share, overall = viewer.flicker(run, index, part)
        panels.append((f"{run.name}: labels that change along the flow, {percent(overall)}%", heatmap(share)))
    write_png(picture, side_by_side([(caption, fit_to_panel(panel)) for caption, panel in panels]))
    return video, picture


def heatmap(share: np.ndarray, full: float = HEAT_FULL) -> np.ndarray:
    """Shares as RGB uint8 ``[H, W, 3]``, black (never) to bright (``full`` or more)."""
    colors = matplotlib.colormaps["inferno"](np.clip(share / full, 0, 1))
    return (colors[:, :, :3] * 255).astype(np.uint8)


def highlight_changes(frame: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """A frame in pale gray, RGB uint8 ``[H, W, 3]``, with the pixels of a bool ``[H, W]`` in a loud colour."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) // 2 + 110
    picture = np.repeat(gray[:, :, None], 3, axis=2)
    picture[changed] = _CHANGED
    return picture


def fit_to_panel(picture: np.ndarray) -> np.ndarray:
    """Enlarged by a whole factor, pixel for pixel, or reduced to the panel's width."""
    height, width = picture.shape[:2]
    if width > PANEL_WIDTH:
        size = (PANEL_WIDTH, max(1, round(height * PANEL_WIDTH / width)))
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    factor = max(1, PANEL_WIDTH // width)
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
