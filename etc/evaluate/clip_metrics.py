"""All counts of one clip, or of a part of one, fed frame by frame, in memory that does not grow with the clip."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from etc.data.labels import IGNORE
from etc.errors import UserError
from etc.evaluate.metric_list import HEADLINE, Accumulator, ChunkAccumulator, Needs, metrics_of
from etc.evaluate.windows import REACH, WindowScorer
from etc.flow.build import FlowSource
from etc.flow.files import unknown_flow
from etc.flow.pair_flow import PairFlow

_CHUNK = 64  # labelled frames that are kept for metrics of whole clips
_FEW = 32  # rows, which stay in the processor's cache

Counts = dict[str, Tensor]  # metric -> its counts


class ScoredFrame(NamedTuple):
    """A frame's path, its prediction and, where there is one, its ground truth; ids uint8 ``[H, W]``."""

    path: Path
    prediction: np.ndarray
    label: np.ndarray | None


class PairCounts(NamedTuple):
    """Counts of one clip, or of a part, under one flow at one stride.

    Attributes:
        metrics: counts of the metrics that need flow.
        totals: int64 ``[3]``: pixels of the scored pairs, scored pairs, skipped pairs.
        headline: float64 ``[pairs]``, the headline figure of each pair, NaN where it was skipped; 0 where it was not
            counted.
    """

    metrics: Counts
    totals: Tensor
    headline: Tensor


class ClipCounts(NamedTuple):
    """Counts of one clip: of the metrics that need no flow, and of the others for each flow and stride."""

    frames: Counts
    pairs: list[PairCounts]


class ClipScorer:
    """Counts one clip, or a part of one.

    The first ``lead`` frames of a part are counted in the part before; pairs, triples and windows that end in this
    part reach back to them.

    Args:
        classes: number of classes K.
        pairs: what counts the pairs of its frames, one for each flow and each distance of frames.
        protocols: as ``TEST.protocols``.
        lead: frames that are not counted.
    """

    def __init__(
        self, classes: int, pairs: list[PairScorer], protocols: Collection[str] = (), *, lead: int = 0
    ) -> None:
        self.pairs, self.lead = pairs, lead
        counting = [metric for metric in metrics_of(protocols) if not metric.counts_of]
        self.frames = {m.key: m.accumulator(classes) for m in counting if m.needs == "labelled frame"}
        self.chunks = {m.key: LabelledChunks(m.accumulator(classes)) for m in counting if m.needs == "labelled clip"}
        self.shape: tuple[int, ...] = ()

    def add(self, frame: ScoredFrame | None) -> None:
        """Count the next frame of the clip; ``None``: it has no prediction.

        Raises:
            UserError: its prediction has another size than those before, or its flow cannot be read or computed.
        """
        if frame is not None:
            self.shape = self.shape or frame.prediction.shape
            if frame.prediction.shape != self.shape:
                raise UserError(f"the predictions of {frame.path.name} and of the frames before differ in size")
            if frame.label is not None and not self.lead:
                for accumulator in self.frames.values():
                    accumulator.update(frame.prediction, frame.label)
        for chunks in self.chunks.values():
            chunks.add(frame, counted=not self.lead)
        for pairs in self.pairs:
            if self.lead <= pairs.reach:  # flow takes long to read
                pairs.add(frame, counted=not self.lead)
        self.lead = max(0, self.lead - 1)

    def counts(self, pairs: int | None = None) -> ClipCounts:
        """All counts, with room for the headline figures of that many pairs; ``None``: of those counted."""
        for chunks in self.chunks.values():
            chunks.end()
        accumulators = self.frames | {key: chunks.accumulator for key, chunks in self.chunks.items()}
        frames = {key: accumulator.counts for key, accumulator in accumulators.items()}
        return ClipCounts(frames, [scorer.counts(pairs) for scorer in self.pairs])

    def counts_so_far(self) -> list[Counts]:
        """A copy of the counts of the frames added so far, for each flow and stride; without metrics of whole clips."""
        own = dict(self.frames)
        every = [own | {metric.key: counting for metric, counting in scorer.metrics} for scorer in self.pairs]
        return [{key: counting.counts.clone() for key, counting in counted.items()} for counted in every]


class PairScorer:
    """Counts the pairs t, t + stride of the frames of one clip.

    Args:
        classes: number of classes K.
        flow: gives the flow of a pair by the frames' paths.
        occlusion: strict: drop occluded pixels by a backward flow, where the data set itself does not name them.
        stride: distance of the frames of a pair.
        protocols: as ``TEST.protocols``.
    """

    def __init__(
        self, classes: int, flow: FlowSource, *, occlusion: bool, stride: int = 1, protocols: Collection[str] = ()
    ) -> None:
        self.flow, self.occlusion, self.stride = flow, occlusion, stride
        counting = [metric for metric in metrics_of(protocols) if metric.needs_flow and not metric.counts_of]
        self.metrics = [(metric, metric.accumulator(classes)) for metric in counting]
        self.windows = WindowScorer([own for metric, own in self.metrics if metric.needs == "window"], flow, stride)
        self.headline = next((metric, own) for metric, own in self.metrics if metric.key == HEADLINE)
        self.classes = classes
        self.pixels = self.skipped = 0
        self.figures: list[float] = []
        # The last ``stride`` frames and pairs. The next frame forms a pair with the oldest of them.
        self.frames: deque[ScoredFrame | None] = deque(maxlen=stride)
        self.pairs: deque[tuple[np.ndarray, PairFlow] | None] = deque(maxlen=stride)

    @property
    def reach(self) -> int:
        """How many frames before a frame something begins that ends at it: a triple, or a window if any is counted."""
        return (REACH if self.windows.accumulators else 2) * self.stride

    def add(self, frame: ScoredFrame | None, *, counted: bool = True) -> None:
        """Take the pair that ends at the next frame of the clip; ``None``: it has no prediction.

        A pair that is not counted can still be the first one of a triple.
        """
        if len(self.frames) == self.stride:
            last = self.frames[0]
            if last is None or frame is None:
                self.pairs.append(None)
                if counted:
                    self.skipped += 1
                    self.figures.append(math.nan)
            else:
                flow = self._flow(last, frame)
                if counted:
                    self._add_pair(last, frame, flow)
                self.pairs.append((last.prediction, flow))
        self.frames.append(frame)
        if frame is None:
            self.windows.add_gap()
        else:
            self.windows.add(frame.path, frame.prediction, counted=counted)

    def counts(self, pairs: int | None = None) -> PairCounts:
        """All counts, with room for the headline figures of that many pairs; ``None``: of those counted."""
        figures = torch.zeros(len(self.figures) if pairs is None else pairs, dtype=torch.float64)
        figures[: len(self.figures)] = torch.tensor(self.figures, dtype=torch.float64)
        totals = torch.tensor([self.pixels, len(self.figures) - self.skipped, self.skipped])
        return PairCounts({metric.key: own.counts for metric, own in self.metrics}, totals, figures)

    def _flow(self, last: ScoredFrame, frame: ScoredFrame) -> PairFlow:
        return flow_of_pair(self.flow, last.path, frame.path, frame.prediction.shape, occlusion=self.occlusion)

    def _add_pair(self, last: ScoredFrame, frame: ScoredFrame, flow: PairFlow) -> None:
        headline, accumulator = self.headline
        before = accumulator.counts.clone()
        if flow.valid is not None and (unknown := unknown_flow(flow.forward, flow.valid)).any():
            # For the protocols that look at every pixel, whether its flow is valid or not.
            last = last._replace(prediction=np.where(unknown, np.uint8(IGNORE), last.prediction))
        with _one_thread():
            for metric, own in self.metrics:
                self._update(own, metric.needs, last, frame, flow)
        self.pixels += frame.prediction.size
        self.figures.append(headline.figure(headline.compute(self.classes, accumulator.counts - before)))

    def _update(
        self,
        accumulator: Accumulator,
        needs: Needs,
        last: ScoredFrame,
        frame: ScoredFrame,
        flow: PairFlow,
    ) -> None:
        if needs == "pair":
            accumulator.update(last.prediction, frame.prediction, flow.forward, valid=flow.visible)
        elif needs == "dequantised pair":
            accumulator.update(last.prediction, frame.prediction, dequantise_flow(flow.forward))
        elif needs == "label pair":
            if last.label is not None and frame.label is not None:
                accumulator.update(last.label, frame.label, flow.forward, valid=flow.visible)
        elif (
            needs == "triple" and len(self.pairs) == self.stride and self.pairs[0] is not None
        ):  # the pair that ends where this one begins
            first, flow_before = self.pairs[0]
            middle = last.prediction
            if flow.valid is not None:
                # A path that lands on a pixel without a visible successor ends there.
                middle = np.where(flow.valid, middle, np.uint8(IGNORE))
            visible = flow_before.visible
            if flow.is_checked:
                # The check takes most of the time: its result is kept, so that no backward flow is read again.
                second = self.flow.second_step(last.path, frame.path, flow_before, flow)
                visible = second if visible is None else visible & second
            accumulator.update(first, middle, frame.prediction, flow_before.forward, flow.forward, valid=visible)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Metrics work on blocks that fit the cache: two threads, which wait for each other, take twice as long as one.

    Networks that compute flow keep their threads: they run outside of it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def dequantise_flow(flow: np.ndarray) -> np.ndarray:
    """Adds reproducible noise below 1/64 pixel to flow that a file holds in steps of 1/64 pixel.

    The published warp loses pixels to the class below by the rounding of its products. At positions that are whole
    64ths every product is exact: nothing is lost, and the score is several percentage points too high. Pixels without
    motion, and flow that was never rounded, stay as they are.

    Args:
        flow: float32 ``[2, H, W]``, pixels.

    Returns:
        float32 ``[2, H, W]``, at most 1/128 pixel away.
    """
    noise, moved = _noise(flow.shape), np.empty_like(flow)
    for first in range(0, flow.shape[1], _FEW):
        rows = slice(first, first + _FEW)
        steps = flow[:, rows] * 64
        if not np.array_equal(np.rint(steps), steps):
            return flow
        np.add(flow[:, rows], noise[:, rows] * (flow[:, rows] != 0).any(0), out=moved[:, rows])
    return moved


@lru_cache(maxsize=1)  # drawing it takes as long as the rest, and the frames of a clip have one size
def _noise(shape: tuple[int, ...]) -> np.ndarray:
    return (np.random.default_rng(0).random(shape, np.float32) - 0.5) / 64


def flow_of_pair(flow: FlowSource, path_t: Path, path_k: Path, shape: tuple[int, int], *, occlusion: bool) -> PairFlow:
    """The flow of a pair, and what strict scoring needs to drop occluded pixels, if ``occlusion`` asks for that.

    Raises:
        UserError: as :meth:`etc.flow.build.FlowSource.with_validity`.
    """
    if occlusion:
        return flow.checked(path_t, path_k, shape)
    forward, valid = flow.with_validity(path_t, path_k, shape)
    known = None if valid is None else ~unknown_flow(forward, valid)  # occluded pixels count, those without flow cannot
    return PairFlow(forward) if known is None or known.all() else PairFlow(forward, known, known)


class LabelledChunks:
    """Passes runs of labelled frames of a clip to an accumulator, in chunks that overlap as it requires."""

    def __init__(self, accumulator: Accumulator) -> None:
        assert isinstance(accumulator, ChunkAccumulator), "as ClipMetric.accumulator checks"
        self.accumulator = accumulator
        self.frames: list[tuple[np.ndarray, np.ndarray]] = []  # prediction and label

    def add(self, frame: ScoredFrame | None, *, counted: bool = True) -> None:
        """The next frame of the clip; one without prediction or label ends the run.

        A frame that is not counted belongs to the chunk before, which the first chunk here overlaps.
        """
        if frame is None or frame.label is None:
            self.end()
            return
        self.frames.append((frame.prediction, frame.label))
        if len(self.frames) == _CHUNK and counted:
            self._flush()
        if len(self.frames) == _CHUNK or not counted:
            del self.frames[: max(0, len(self.frames) - self.accumulator.overlap)]

    def end(self) -> None:
        """Count what is left of the run."""
        self._flush()
        self.frames = []

    def _flush(self) -> None:
        if len(self.frames) > self.accumulator.overlap:
            predictions, labels = zip(*self.frames, strict=True)
            self.accumulator.update(np.stack(predictions), np.stack(labels))
