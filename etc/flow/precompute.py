"""Fills the flow cache before a training or a scoring, on the GPU where there is one, in any number of processes."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.frame_values import check_frames
from etc.data.images import image_size, read_image
from etc.data.origin import Origin
from etc.data.sources import clips_to_score
from etc.data.training_list import training_pairs
from etc.flow.build import cached_flow
from etc.flow.cache import CachedFlow, FramePair
from etc.metrics.protocols import REACH
from utils.threads import TaskQueue, ordered_map

logger = logging.getLogger(__name__)

Purpose = Literal["train", "clips"]

READERS = WRITERS = 2  # threads; they wait for the estimator on a CPU, and keep up with it on a GPU
AHEAD = 4
_MEASURED = 3  # pairs that an estimate is measured on


def frame_pairs(settings: Settings, purpose: Purpose) -> list[FramePair]:
    """The pairs t, k whose flow t -> k is needed, each once, all files checked.

    Args:
        settings: name the lists, the layout, the neighbours and the strides.
        purpose: ``train``: each frame of ``DATA.train_list`` with every neighbour that may be drawn, and back where
            training checks which pixels are visible; ``clips``: as :func:`scored_pairs`.

    Raises:
        UserError: missing lists or files.
    """
    if purpose == "train":
        return training_pairs(settings)
    root = Path(settings.DATA.data_root)
    whole = clips_to_score(settings)
    clips = [[root / frame.image for frame in clip] for clip in breaks_in(whole, settings).split(whole)]
    return scored_pairs(settings, settings.TEST.strides, clips)


def scored_pairs(settings: Settings, strides: Sequence[int], clips: Sequence[Sequence[Path | None]]) -> list[FramePair]:
    """The pairs t, k whose flow t -> k a scoring reads, each once, in the order in which they come.

    Args:
        settings: ``FLOW.occlusion`` and ``TEST.protocols``.
        strides: distances of the frames of a pair.
        clips: paths of the frames of each clip; ``None``: a gap, whose pairs are not scored.
    """
    pairs: list[FramePair] = []
    for paths in clips:
        ends: list[tuple[Path | None, Path | None]] = []
        for stride in strides:
            for t, k in zip(paths, paths[stride:], strict=False):
                ends += [(t, k), (k, t)] if settings.FLOW.occlusion else [(t, k)]
            if "majority" in settings.TEST.protocols:
                reach = REACH * stride
                windows = (paths[t : t + reach + 1 : stride] for t in range(len(paths) - reach))
                whole = (window for window in windows if None not in window)
                ends += [(w[REACH // 2], other) for w in whole for other in w if other is not w[REACH // 2]]
        pairs += [(t, k) for t, k in ends if t is not None and k is not None]
    return list(dict.fromkeys(pairs))


def precompute(settings: Settings, purposes: Iterable[Purpose], device: str | torch.device = "cpu") -> tuple[int, int]:
    """Compute the flow that the cache lacks; a run that was interrupted continues where it stopped.

    Processes started by torchrun share the pairs.

    Args:
        settings: the estimator and the cache (``FLOW``), and see :func:`frame_pairs`.
        purposes: what the flow is for.
        device: where networks run; the cache does not depend on it.

    Returns:
        Pairs computed, and pairs that were in the cache already, over all processes.

    Raises:
        UserError: missing files, damaged frames, frames that the estimator cannot take, or ``FLOW.name dataset``.
    """
    purposes = list(purposes)
    if "train" in purposes and settings.FLOW.source == "online":
        logger.warning("FLOW.source online: the training will compute its flow in every step and not read this one")
    flow = cached_flow(settings, device)
    pairs = list(dict.fromkeys(pair for purpose in purposes for pair in frame_pairs(settings, purpose)))
    check_frames([path for pair in pairs for path in pair])
    own = pairs[distributed.rank() :: distributed.world_size()]
    computed = fill(flow, own)
    total, kept = distributed.sum_counts(torch.tensor([computed, len(own) - computed])).tolist()
    return total, kept


def fill(flow: CachedFlow, pairs: list[FramePair]) -> int:
    """Compute the flow that the cache lacks; the progress says how long it will take, and how much disk.

    Args:
        flow: the estimator and the cache.
        pairs: those of this process. The others are supposed to have as many.

    Returns:
        Pairs computed.

    Raises:
        UserError: as :meth:`etc.flow.cache.CachedFlow.compute`.
    """
    sizes: list[int] = []
    computed = 0
    loaded = ordered_map(partial(_to_do, flow), pairs, workers=READERS, ahead=AHEAD)
    bar = tqdm(total=len(pairs), desc=f"flow {flow.key}", unit="pair", disable=distributed.rank() > 0)
    with bar, closing(loaded), TaskQueue(workers=WRITERS, pending=2 * WRITERS) as writers:
        for pair, todo in zip(pairs, loaded, strict=True):
            if todo is not None:
                origin, *images = todo
                path = flow.path(*pair, images[0].shape[:2])
                writers.put(_write, flow, path, flow.compute(*pair, *images), origin, sizes)
                computed += 1
            if sizes:
                whole = sum(sizes) / len(sizes) * len(pairs) * distributed.world_size()
                bar.set_postfix_str(f"about {tqdm.format_sizeof(whole, 'B', 1024)} of disk", refresh=False)
            bar.update()
    return computed


def announce(flow: CachedFlow, pairs: Sequence[FramePair]) -> int:
    """Say in one line how much flow the cache lacks, how much disk it will take and how long, before that begins.

    Measured on two or three pairs, which are computed here and kept. Nothing is said where no more are missing.

    Args:
        flow: the estimator and the cache.
        pairs: all that will be read, over all processes.

    Returns:
        How many pairs the cache still lacks.

    Raises:
        UserError: as :meth:`etc.flow.cache.CachedFlow.compute`.
    """
    missing = [pair for pair in pairs if not flow.has(*pair, _shape(pair))]
    if len(missing) <= _MEASURED:
        return len(missing)
    seconds, sizes = [], []
    # From the middle of each third: the first frames of a video are often unlike the others.
    for pair in missing[len(missing) // (2 * _MEASURED) :: math.ceil(len(missing) / _MEASURED)]:
        start = time.perf_counter()
        flow(*pair, _shape(pair))
        seconds.append(time.perf_counter() - start)
        sizes.append(flow.path(*pair, _shape(pair)).stat().st_size)
    # The first pair of a process takes longer than all others.
    left = statistics.median(seconds) * (len(missing) - len(seconds)) / distributed.world_size()
    logger.info(
        "flow %s: %d of %d frame pairs are not in FLOW.cache %s: about %s of disk and %s, once",
        *(flow.key, len(missing), len(pairs), flow.folder),
        tqdm.format_sizeof(statistics.mean(sizes) * len(missing), "B", 1000),
        duration(left),
    )
    return len(missing) - len(seconds)


def duration(seconds: float) -> str:
    """A time in words, as exact as an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _shape(pair: FramePair) -> tuple[int, int]:
    width, height = image_size(pair[0])
    return height, width


def _write(flow: CachedFlow, path: Path, values: np.ndarray, origin: Origin, sizes: list[int]) -> None:
    flow.write(path, values, origin)
    sizes.append(path.stat().st_size)


def _to_do(flow: CachedFlow, pair: FramePair) -> tuple[Origin, np.ndarray, np.ndarray] | None:
    """The origin of the flow and both frames, RGB uint8 ``[H, W, 3]``; ``None`` where their flow is in the cache."""
    origin, image_t = flow.origin(*pair), read_image(pair[0])
    if flow.kept(*pair, image_t.shape[:2]) is not None:
        return None
    return origin, image_t, read_image(pair[1])
