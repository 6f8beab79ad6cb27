"""The flow cache: how large its files are, how fast they are read, and scoring that reads everything from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from etc.benchmark.bench import Bench, BenchClip
from etc.benchmark.measure import Figure, interleaved, ratios, single_threaded
from etc.data.images import read_image, read_label, write_png
from etc.evaluate.clip_metrics import PairScorer, ScoredFrame
from etc.flow.cache import CachedFlow
from etc.flow.cache_files import read_flow_file, write_flow_file
from etc.flow.estimators import DisFlow
from etc.flow.files import write_flo

CLASSES = 19


def store(bench: Bench) -> list[Figure]:
    """Flow as it is cached, for DIS flow of neighbouring 1024x2048 frames: its size relative to `.flo`, the time to
    read it on one thread relative to `cv2.imread` of the PNG of the frame, and the largest error of a component that
    its rounding causes.
    """
    clip = _clip(bench, 4)
    frames = [torch.from_numpy(read_image(clip.root / f.image)).permute(2, 0, 1)[None].float() for f in clip.frames]
    kept, plain = bench.folder / "flow.b2flow", bench.folder / "flow.flo"
    sizes, errors = [], []
    for t, k in pairwise(frames):
        flow = DisFlow().estimate(t, k)[0].numpy()
        write_flow_file(kept, flow)
        write_flo(plain, flow)
        sizes.append(100 * os.path.getsize(kept) / os.path.getsize(plain))
        errors.append(float(np.abs(read_flow_file(kept)[0] - flow).max()))
    image = str(clip.root / clip.frames[-1].image)
    with single_threaded():
        own, reading = interleaved([lambda: read_flow_file(kept), lambda: cv2.imread(image)], bench.rounds(15))
    return [
        Figure("size of the cached flow of a real pair, relative to .flo", sizes, "%", budget=10),
        Figure("reading it, relative to imread of the frame", ratios(own, reading), "x", budget=0.5),
        Figure("largest error of cached flow", errors, "px", budget=0.01),
    ]


def again(bench: Bench) -> list[Figure]:
    """Scoring a 1024x2048 pair whose flow is in the cache, with all metrics that need flow, relative to `cv2.imread` of
    the PNG of the frame, on one thread: with its visible pixels in the cache too (again), and without them. The clip
    is two neighbouring frames in turn; predictions are read from PNGs and are the gray levels of the blurred frame as
    19 classes.
    """
    clip = _clip(bench, 2)
    frames = []
    for number, name in enumerate(frame.image for frame in clip.frames):
        gray = cv2.cvtColor(read_image(clip.root / name), cv2.COLOR_RGB2GRAY)
        prediction = bench.folder / f"prediction_{number}.png"
        write_png(prediction, cv2.GaussianBlur(gray, (0, 0), bench.size(12, 2)) // (256 // CLASSES + 1))
        frames.append((clip.root / name, prediction))
    flows = [CachedFlow(DisFlow(), bench.folder / name) for name in ("flow_again", "flow_first")]
    own, first = (_pair_by_pair(flow, frames) for flow in flows)

    def without_masks() -> None:
        for mask in flows[1].folder.rglob("*.b2mask"):
            mask.unlink()
        first()

    for _ in range(4):  # until both directions and their triples have been scored
        own(), first()
    image, shape = str(frames[0][0]), read_label(frames[0][1]).shape
    calls = [
        lambda: cv2.imread(image),
        own,
        without_masks,
        lambda: flows[0].checked(frames[0][0], frames[1][0], (shape[0], shape[1])),
    ]
    with single_threaded():
        reading, again_, computed, loading = interleaved(calls, bench.rounds(15))
    return [
        Figure("scoring a pair again, relative to imread of the frame", ratios(again_, reading), "x", budget=4),
        Figure("the part of it that reads flow and visible pixels", ratios(loading, reading), "x"),
        Figure("scoring a pair whose visible pixels are not kept yet", ratios(computed, reading), "x"),
    ]


def _pair_by_pair(flow: CachedFlow, frames: list[tuple[Path, Path]]) -> Callable[[], None]:
    """Each call scores the next frame of an endless clip of these frames and predictions."""
    scorer, turns = PairScorer(CLASSES, flow, occlusion=True), cycle(frames)

    def score() -> None:
        path, prediction = next(turns)
        scorer.add(ScoredFrame(path, read_label(prediction), None))

    return score


def _clip(bench: Bench, count: int) -> BenchClip:
    return bench.clip(*bench.size((1024, 2048), (128, 256)), bench.size(count, 2))
