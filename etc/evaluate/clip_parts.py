"""Parts of clips, counted apart: the counts of a clip are the sum of those of its parts, to the last pixel."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from etc.config.schema import Settings
from etc.data.labels import IGNORE, label_table_of, read_train_ids
from etc.data.lists import Frame
from etc.errors import UserError
from etc.evaluate.clip_metrics import ClipCounts, ClipScorer, Counts, PairScorer, ScoredFrame
from etc.evaluate.flows import FlowSetting

# Frames of a part: it reads up to 16 frames before it again, for the windows of VC16; and its files are named in one
# message to a worker.
_SHORTEST, _LONGEST = 16, 256
# Frames that could be counted while a part reads those before it; estimated, as those need no flow: a third of 16.
_READ_AGAIN = 5.0

# Index of a clip, index of a frame in it -> the pixels to set aside, bool [H, W]; None: none of them.
SetAside = Callable[[int, int], np.ndarray | None]


class Part(NamedTuple):
    """The frames ``start`` to ``stop`` - 1 of a clip, which is named by its index."""

    clip: int
    start: int
    stop: int


class PartFrames(NamedTuple):
    """A part with its frames, and with those before them that its pairs, triples and windows reach back to.

    Attributes:
        part: which frames are counted.
        frames: they, and those before.
        files: their predictions; ``None``: a gap.
    """

    part: Part
    frames: list[Frame]
    files: list[Path | None]


class PartCounts(NamedTuple):
    """What was counted in a part.

    Attributes:
        counts: all counts; of the figures of its pairs, its own alone.
        so_far: for each of the segments' ends the counts of the frames of this part that lie before it, as of
            :meth:`etc.evaluate.clip_metrics.ClipScorer.counts_so_far`.
        shape: of the predictions; empty where there are none.
    """

    counts: ClipCounts
    so_far: list[list[Counts]]
    shape: tuple[int, ...]


def cut(lengths: Sequence[int], workers: int) -> list[Part]:
    """The parts to count: whole clips for one worker; for several, long clips are cut, the longest part comes first.

    Into one or two parts per worker: two let the workers end at nearly the same time, one reads fewer frames again.

    Args:
        lengths: numbers of frames of the clips.
        workers: how many will share the parts.
    """
    if workers == 1:
        return [Part(i, 0, length) for i, length in enumerate(lengths)]
    ways = []
    for per_worker in (1, 2):
        longest = min(_LONGEST, math.ceil(sum(lengths) / (workers * per_worker)))
        parts = []
        for i, length in enumerate(lengths):
            count = max(1, min(math.ceil(length / longest), length // _SHORTEST))
            bounds = [round(length * k / count) for k in range(count + 1)]
            parts += [Part(i, start, stop) for start, stop in pairwise(bounds)]
        ways.append(sorted(parts, key=lambda part: part.start - part.stop))
    return min(ways, key=lambda parts: _duration(parts, workers))


def _duration(parts: list[Part], workers: int) -> float:
    """How long the workers need, in frames that are counted, if each takes the next part when it is free."""
    busy = [0.0] * workers
    for part in parts:
        heapq.heapreplace(busy, busy[0] + part.stop - part.start + (_READ_AGAIN if part.start else 0))
    return max(busy)


class PartCounter:
    """Counts parts of clips.

    Args:
        settings: the settings.
        flows: what clips are scored with.
        read: reads a prediction as train ids, uint8 ``[H, W]``.
        ends: where the segments of the only clip end; empty without segments.
    """

    def __init__(
        self, settings: Settings, flows: list[FlowSetting], read: Callable[[Path], np.ndarray], ends: list[int]
    ) -> None:
        self.settings, self.flows, self.read, self.ends = settings, flows, read, ends

    def scorer(self, lead: int = 0) -> ClipScorer:
        """What counts a clip, or a part of one after ``lead`` frames that are not counted."""
        classes, occlusion = self.settings.DATA.classes, self.settings.FLOW.occlusion
        protocols = self.settings.TEST.protocols
        pairs = [
            PairScorer(classes, flow.source, occlusion=occlusion, stride=flow.stride, protocols=protocols)
            for flow in self.flows
        ]
        return ClipScorer(classes, pairs, protocols, lead=lead)

    def frames_of(self, part: Part, frames: list[Frame], files: list[Path | None]) -> PartFrames:
        """A part, with what it needs of the frames and files of its clip."""
        scorer = self.scorer()
        # Windows of VC need labels: back to the last frame without.
        reach = max((chunks.accumulator.overlap for chunks in scorer.chunks.values()), default=0)
        before = range(part.start - 1, max(-1, part.start - 1 - reach), -1)
        labelled = len(list(takewhile(lambda t: frames[t].label is not None and files[t] is not None, before)))
        first = part.start - min(part.start, max(labelled, *(pairs.reach for pairs in scorer.pairs)))
        return PartFrames(part, frames[first : part.stop], files[first : part.stop])

    def __call__(
        self,
        given: PartFrames,
        *,
        set_aside: SetAside | None = None,
        progress: Callable[[int], object] = lambda frames: None,
    ) -> PartCounts:
        """Count a part; ``progress`` is told of every frame that is counted.

        Raises:
            UserError: as :func:`etc.evaluate.clips.score_clips`.
        """
        clip, start, stop = given.part
        first = stop - len(given.frames)
        scorer = self.scorer(lead=start - first)
        so_far: list[list[Counts]] = []
        for t, (frame, file) in enumerate(zip(given.frames, given.files, strict=True), start=first):
            while len(so_far) < len(self.ends) and self.ends[len(so_far)] <= t:
                so_far.append(scorer.counts_so_far())
            scored = None if file is None else self._scored_frame(frame, file)
            scorer.add(_without(scored, set_aside and set_aside(clip, t)))
            if t >= start:
                progress(1)
        so_far += [scorer.counts_so_far() for _ in self.ends[len(so_far) :]]
        return PartCounts(scorer.counts(), so_far, scorer.shape)

    def _scored_frame(self, frame: Frame, file: Path) -> ScoredFrame:
        root, label, prediction = Path(self.settings.DATA.data_root), None, self.read(file)
        if frame.label is not None:
            label = read_train_ids(root / frame.label, label_table_of(self.settings), prediction.shape)
            holes = int(((prediction == IGNORE) & (label != IGNORE)).sum())
            if holes:
                raise UserError(
                    f"{file}: {holes} pixels have no class (255) where {root / frame.label} has one, and mIoU needs "
                    "one everywhere: predict a class there, or score against a list without labels"
                )
        return ScoredFrame(root / frame.image, prediction, label)


def _without(frame: ScoredFrame | None, aside: np.ndarray | None) -> ScoredFrame | None:
    """A frame whose pixels that are set aside have neither a class nor a label."""
    if frame is None or aside is None:
        return frame
    label = None if frame.label is None else np.where(aside, np.uint8(IGNORE), frame.label)
    return ScoredFrame(frame.path, np.where(aside, np.uint8(IGNORE), frame.prediction), label)


class PartTables:
    """The counts of clips and of the segments of the only one, zero until the counts of parts are added.

    Args:
        counter: what counts the parts.
        clips: the frames of the clips.

    Attributes:
        counts: of each clip, with room for the figures of the pairs of the longest.
        so_far: for each of the segments' ends the counts of the frames before it.
    """

    def __init__(self, counter: PartCounter, clips: list[list[Frame]]) -> None:
        pairs = max(map(len, clips)) - 1
        self.counts = [counter.scorer().counts(pairs) for _ in clips]
        self.so_far = [counter.scorer().counts_so_far() for _ in counter.ends]
        self._strides = [flow.stride for flow in counter.flows]
        self._clips = clips
        self._shapes: dict[int, tuple[int, ...]] = {}

    def add(self, part: Part, found: PartCounts) -> None:
        """Add the counts of a part.

        Raises:
            UserError: its predictions have another size than those of the other parts of its clip.
        """
        if found.shape and self._shapes.setdefault(part.clip, found.shape) != found.shape:
            first = self._clips[part.clip][0].image
            raise UserError(f"the predictions of the clip that begins with {first} differ in size")
        clip = self.counts[part.clip]
        _add(clip.frames, found.counts.frames)
        for stride, own, more in zip(self._strides, clip.pairs, found.counts.pairs, strict=True):
            _add(own.metrics, more.metrics)
            own.totals.add_(more.totals)
            first_pair = max(0, part.start - stride)  # the one that ends at the first frame that ends any
            own.headline[first_pair : first_pair + len(more.headline)] = more.headline
        for before, added in zip(self.so_far, found.so_far, strict=True):
            for counts, more_counts in zip(before, added, strict=True):
                _add(counts, more_counts)


def _add(counts: Counts, more: Counts) -> None:
    for key, own in counts.items():
        own += more[key]
