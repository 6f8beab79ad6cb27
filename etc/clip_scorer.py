"""All counts of one clip, fed frame by frame, in memory that does not grow with the clip."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from etc.config import UserError
from etc.data.labels import IGNORE
from etc.flow_store import FlowOfPairs
from etc.metrics import FlickerRate, TemporalConsistency, VideoConsistency, confusion, scores

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


def metrics_of_clip(classes: int) -> dict[str, TemporalConsistency | FlickerRate | VideoConsistency]:
    """Fresh accumulators of everything that a clip is scored by, by the name of their counts."""
    return {
        "strict": TemporalConsistency(classes),
        "boundary": TemporalConsistency(classes, boundary_band=BOUNDARY_BAND),
        "published": TemporalConsistency(classes, "published"),
        "truth": TemporalConsistency(classes),
        "flicker": FlickerRate(),
        **{
            f"vc{window}_{definition}": VideoConsistency(classes, window, definition)
            for window in VC_WINDOWS
            for definition in ("vspw", "correct")
        },
    }


class ClipScorer:
    """Counts one clip.

    Args:
        classes: number of classes K.
        flow: gives the flow of a pair by the frames' paths.
        occlusion: strict: drop occluded pixels by a backward flow, where the data set itself does not name them.
    """

    def __init__(self, classes: int, flow: FlowOfPairs, *, occlusion: bool) -> None:
        self.flow, self.occlusion, self.classes = flow, occlusion, classes
        self.metrics = metrics_of_clip(classes)
        self.windows = [_Windows(metric) for metric in self.metrics.values() if isinstance(metric, VideoConsistency)]
        self.segmentation = torch.zeros(classes, classes, dtype=torch.int64)
        self.pixels = 0
        self.pairs: list[float] = []
        self.last: ScoredFrame | None = None
        self.last_pair: tuple[np.ndarray, PairFlow] | None = None

    def add(self, frame: ScoredFrame) -> None:
        """Count the next frame of the clip.

        Raises:
            UserError: its prediction has another size than the one before, or the flow cannot be had.
        """
        if frame.label is not None:
            self.segmentation += confusion(frame.prediction, frame.label, self.classes)
        for windows in self.windows:
            windows.add(frame)
        if self.last is not None:
            self._add_pair(self.last, frame)
        self.last = frame

    def counts(self, pairs: int) -> Counts:
        """Integer counts of the clip, and ``pairs``: strict TC of each pair, filled up with zeros to that many."""
        for windows in self.windows:
            windows.end()
        table = {name: metric.counts for name, metric in self.metrics.items()}
        figures = torch.zeros(pairs, dtype=torch.float64)
        figures[: len(self.pairs)] = torch.tensor(self.pairs, dtype=torch.float64)
        return table | {"segmentation": self.segmentation, "pixels": torch.tensor(self.pixels), "pairs": figures}

    def _add_pair(self, last: ScoredFrame, frame: ScoredFrame) -> None:
        shape = frame.prediction.shape
        if last.prediction.shape != shape:
            raise UserError(f"the predictions of {last.path.name} and {frame.path.name} have different sizes")
        flow = flow_of_pair(self.flow, last.path, frame.path, shape, occlusion=self.occlusion)
        self.pixels += frame.prediction.size
        before = self.metrics["strict"].counts.clone()
        for name in ("strict", "boundary", "published"):
            self.metrics[name].update(last.prediction, frame.prediction, *flow)
        self.pairs.append(scores(self.metrics["strict"].counts - before)["mIoU"])
        if last.label is not None and frame.label is not None:
            self.metrics["truth"].update(last.label, frame.label, *flow)
        if self.last_pair is not None:
            before, flow_before = self.last_pair
            middle = last.prediction
            if flow.valid is not None:
                # A path that lands on a pixel without a visible successor ends there.
                middle = np.where(flow.valid, middle, np.uint8(IGNORE))
            self.metrics["flicker"].update(
                before,
                middle,
                frame.prediction,
                flow_before.forward,
                flow.forward,
                flow_before.backward,
                flow.backward,
                flow_before.valid,
            )
        self.last_pair = (last.prediction, flow)


def flow_of_pair(flow: FlowOfPairs, path_t: Path, path_k: Path, shape: tuple[int, int], *, occlusion: bool) -> PairFlow:
    """What strict scoring knows of a pair; ``occlusion``: whether it drops occluded pixels.

    Raises:
        UserError: as :meth:`etc.flow_store.FlowOfPairs.with_validity`.
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

    def add(self, frame: ScoredFrame) -> None:
        if frame.label is None:
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
