"""All counts of one clip, fed frame by frame, in memory that does not grow with the clip."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from etc.data.labels import IGNORE
from etc.errors import UserError
from etc.flow.build import FlowSource
from etc.metrics import FlickerRate, TemporalConsistency, VideoConsistency, confusion, iou_scores
from etc.metrics.warping import visible_pixels

BOUNDARY_BAND = 0.005  # of the image diagonal
VC_WINDOWS = (8, 16)
_VC_CHUNK = 64  # frames that are kept for video consistency

Counts = dict[str, Tensor]


class ScoredFrame(NamedTuple):
    """A frame's path, its prediction and, where there is one, its ground truth; ids uint8 ``[H, W]``."""

    path: Path
    prediction: np.ndarray
    label: np.ndarray | None


class PairFlow(NamedTuple):
    """Flow t -> t+1, float32 ``[2, H, W]``, and what is known of occlusion: backward flow, or visible pixels."""

    forward: np.ndarray
    backward: np.ndarray | None
    valid: np.ndarray | None


def metrics_of_pairs(classes: int) -> dict[str, TemporalConsistency | FlickerRate]:
    """Fresh accumulators of all that needs flow, by the name of their counts."""
    return {
        "strict": TemporalConsistency(classes),
        "boundary": TemporalConsistency(classes, boundary_band=BOUNDARY_BAND),
        "published": TemporalConsistency(classes, "published"),
        "truth": TemporalConsistency(classes),
        "flicker": FlickerRate(),
    }


def metrics_of_windows(classes: int) -> dict[str, VideoConsistency]:
    """Fresh accumulators of all that needs none."""
    return {
        f"vc{window}_{definition}": VideoConsistency(classes, window, definition)
        for window in VC_WINDOWS
        for definition in ("vspw", "correct")
    }


class ClipScorer:
    """Counts one clip.

    Args:
        classes: number of classes K.
        pairs: what counts the pairs of its frames, one for each flow and each distance of frames.
    """

    def __init__(self, classes: int, pairs: list[PairScorer]) -> None:
        self.classes, self.pairs = classes, pairs
        self.metrics = metrics_of_windows(classes)
        self.windows = [_Windows(metric) for metric in self.metrics.values()]
        self.segmentation = torch.zeros(classes, classes, dtype=torch.int64)
        self.shape: tuple[int, ...] = ()

    def add(self, frame: ScoredFrame | None) -> None:
        """Count the next frame of the clip; ``None``: it has no prediction.

        Raises:
            UserError: its prediction has another size than those before, or the flow cannot be had.
        """
        if frame is not None:
            self.shape = self.shape or frame.prediction.shape
            if frame.prediction.shape != self.shape:
                raise UserError(f"the predictions of {frame.path.name} and of the frames before differ in size")
            if frame.label is not None:
                self.segmentation += confusion(frame.prediction, frame.label, self.classes)
        for windows in self.windows:
            windows.add(frame)
        for pairs in self.pairs:
            pairs.add(frame)

    def counts(self) -> Counts:
        """Integer counts of the clip that do not depend on flow."""
        for windows in self.windows:
            windows.end()
        return {name: metric.counts for name, metric in self.metrics.items()} | {"segmentation": self.segmentation}


class PairScorer:
    """Counts the pairs t, t + stride of the frames of one clip.

    Args:
        classes: number of classes K.
        flow: gives the flow of a pair by the frames' paths.
        occlusion: strict: drop occluded pixels by a backward flow, where the data set itself does not name them.
        stride: distance of the frames of a pair.
    """

    def __init__(self, classes: int, flow: FlowSource, *, occlusion: bool, stride: int = 1) -> None:
        self.flow, self.occlusion, self.stride = flow, occlusion, stride
        self.metrics = metrics_of_pairs(classes)
        self.pixels = self.skipped = 0
        self.figures: list[float] = []
        # The last frames and pairs: the oldest of ``stride`` is the one that the next belongs to.
        self.frames: deque[ScoredFrame | None] = deque(maxlen=stride)
        self.pairs: deque[tuple[np.ndarray, PairFlow] | None] = deque(maxlen=stride)

    def add(self, frame: ScoredFrame | None) -> None:
        """Count the pair that ends at the next frame of the clip; ``None``: it has no prediction."""
        if len(self.frames) == self.stride:
            last = self.frames[0]
            if last is None or frame is None:
                self.skipped += 1
                self.figures.append(math.nan)
                self.pairs.append(None)
            else:
                self.pairs.append((last.prediction, self._add_pair(last, frame)))
        self.frames.append(frame)

    def counts(self, pairs: int) -> Counts:
        """Integer counts, and ``pairs``: strict TC of each pair, filled up with zeros to that many."""
        figures = torch.zeros(pairs, dtype=torch.float64)
        figures[: len(self.figures)] = torch.tensor(self.figures, dtype=torch.float64)
        return {name: metric.counts for name, metric in self.metrics.items()} | {
            "pixels": torch.tensor(self.pixels),
            "skipped": torch.tensor(self.skipped),
            "scored": torch.tensor(len(self.figures) - self.skipped),
            "pairs": figures,
        }

    def _add_pair(self, last: ScoredFrame, frame: ScoredFrame) -> PairFlow:
        flow = flow_of_pair(self.flow, last.path, frame.path, frame.prediction.shape, occlusion=self.occlusion)
        self.pixels += frame.prediction.size
        before = self.metrics["strict"].counts.clone()
        visible = flow.valid
        if flow.backward is not None:
            # The check takes most of the time: once for three metrics.
            visible = visible_pixels(flow.forward, flow.backward)
        for name in ("strict", "boundary"):
            self.metrics[name].update(last.prediction, frame.prediction, flow.forward, valid=visible)
        self.metrics["published"].update(last.prediction, frame.prediction, dequantise_flow(flow.forward))
        self.figures.append(iou_scores(self.metrics["strict"].counts - before)["mIoU"])
        if last.label is not None and frame.label is not None:
            self.metrics["truth"].update(last.label, frame.label, flow.forward, valid=visible)
        pair_before = self.pairs[0] if len(self.pairs) == self.stride else None
        if pair_before is not None:
            self._add_flicker(*pair_before, last.prediction, flow, frame.prediction)
        return flow

    def _add_flicker(self, a: np.ndarray, flow_ab: PairFlow, b: np.ndarray, flow_bc: PairFlow, c: np.ndarray) -> None:
        if flow_bc.valid is not None:
            # A path that lands on a pixel without a visible successor ends there.
            b = np.where(flow_bc.valid, b, np.uint8(IGNORE))
        forward, backward = (flow_ab.forward, flow_bc.forward), (flow_ab.backward, flow_bc.backward)
        self.metrics["flicker"].update(a, b, c, *forward, *backward, flow_ab.valid)


def dequantise_flow(flow: np.ndarray) -> np.ndarray:
    """Flow with the last bits that a store of 1/64 pixel steps took from it, drawn anew, always the same ones.

    The published warp loses pixels to the class below by the rounding of its products. At positions of whole 64ths
    every product is exact: nothing is lost, and the figure comes out points too high. What stands still stays so, and
    flow that was never rounded is left alone.

    Args:
        flow: float32 ``[2, H, W]``, pixels.

    Returns:
        float32 ``[2, H, W]``, at most 1/128 pixel away.
    """
    if not np.array_equal(np.rint(flow * 64), flow * 64):
        return flow
    noise = (np.random.default_rng(0).random(flow.shape, np.float32) - 0.5) / 64
    return np.where((flow == 0).all(0), flow, flow + noise)


def flow_of_pair(flow: FlowSource, path_t: Path, path_k: Path, shape: tuple[int, int], *, occlusion: bool) -> PairFlow:
    """What strict scoring knows of a pair; ``occlusion``: whether it drops occluded pixels.

    Raises:
        UserError: as :meth:`etc.flow.build.FlowSource.with_validity`.
    """
    forward, valid = flow.with_validity(path_t, path_k, shape)
    backward = None
    if occlusion and valid is None and flow.available(path_k, path_t):
        backward = flow(path_k, path_t, shape)
    return PairFlow(forward, backward, valid if occlusion else None)


class _Windows:
    """Video consistency of the runs of labelled frames of a clip, in chunks that overlap by what a window needs."""

    def __init__(self, metric: VideoConsistency) -> None:
        self.metric = metric
        # "vspw" leaves out the last window of what it is given: the next chunk must begin with it.
        self.overlap = metric.window - (metric.definition == "correct")
        self.frames: list[ScoredFrame] = []

    def add(self, frame: ScoredFrame | None) -> None:
        if frame is None or frame.label is None:
            self.end()
            return
        self.frames.append(frame)
        if len(self.frames) == _VC_CHUNK:
            self._flush()
            self.frames = self.frames[-self.overlap :]

    def end(self) -> None:
        self._flush()
        self.frames = []

    def _flush(self) -> None:
        if len(self.frames) > self.overlap:
            predictions = np.stack([frame.prediction for frame in self.frames])
            self.metric.update(predictions, np.stack([frame.label for frame in self.frames]))
