"""Counts parts of clips, in this process or in worker processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from etc import distributed
from etc.config.schema import Settings
from etc.data.images import image_size
from etc.data.lists import Frame
from etc.errors import UserError
from etc.evaluate.clip_parts import Part, PartCounter, PartCounts, PartFrames, SetAside
from etc.evaluate.flows import FlowSetting, flow_settings
from etc.interrupts import interrupts_held

logger = logging.getLogger(__name__)

# Pixels of scored pairs that are worth a worker: it takes seconds to start, as long as some pairs of 1024x2048 pixels.
_WORTH_A_WORKER = 16 * 1024 * 2048


def number_of_workers(
    wanted: int | None,
    settings: Settings,
    device: torch.device,
    flows: list[FlowSetting],
    clips: list[list[Frame]],
    *,
    computing: Sequence[str],
) -> int:
    """How many worker processes this process shall start; 1: it counts by itself.

    Args:
        wanted: the number; ``None``: one for each thread of PyTorch (all cores, or ``OMP_NUM_THREADS``, of which
            torchrun gives 1 to each of several processes), as far as each has 16 pairs of 1024x2048 pixels to score, or
            as many pixels in smaller or larger pairs.
        settings: the settings.
        device: where flow is computed.
        flows: what clips are scored with.
        clips: the frames.
        computing: names of the flows that are to be computed; a network on a GPU does that in one process.

    Raises:
        UserError: a number below 1, or a frame that cannot be read.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"{wanted} workers: expected 1 or more")
    networks = [name for name in computing if name.partition("@")[0] not in ("dis", "dataset")]
    if device.type != "cpu" and networks:
        if wanted is not None and wanted > 1:
            logger.warning(
                "%s computes flow on %s: one process scores; torchrun starts more, and a scoring again takes them all",
                networks[0],
                device,
            )
        return 1
    if wanted is not None:
        return wanted
    root, pixels = Path(settings.DATA.data_root), 0
    for clip in clips:
        width, height = image_size(root / clip[0].image)
        pixels += width * height * sum(max(0, len(clip) - flow.stride) for flow in flows)
    return max(1, min(torch.get_num_threads(), pixels // _WORTH_A_WORKER // distributed.world_size()))


def counted_parts(
    counter: PartCounter,
    parts: Sequence[PartFrames],
    device: torch.device,
    workers: int,
    *,
    set_aside: SetAside | None,
    progress: Callable[[int], object],
) -> Generator[tuple[Part, PartCounts], None, None]:
    """Count parts, with several workers in processes of one thread each; in the order in which they are done.

    When the generator is closed, or counting a part fails, all workers end at once.

    Args:
        counter: counts the parts; every worker makes one of its own.
        parts: what to count.
        device: where flow is computed.
        workers: number of workers; this process counts if there is only work for one.
        set_aside: as of :func:`etc.evaluate.clips.score_clips`; not for workers.
        progress: is told how many frames were counted since it was told before.

    Raises:
        BrokenProcessPool: the system ended a worker.
        Exception: what counting a part raises.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        for given in parts:
            yield given.part, counter(given, set_aside=set_aside, progress=progress)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of the caller's threads
    alive, ours = context.Pipe(duplex=False)
    setup = _Setup(counter.settings, device, counter.read, counter.ends)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(setup, alive))
    try:
        with interrupts_held():
            futures = {pool.submit(_count, given): given.part for given in parts}
        for future in as_completed(futures):
            part, counts = futures[future], pickle.loads(future.result())
            progress(part.stop - part.start)
            yield part, counts
    finally:
        ours.close()  # ends all workers at once, whatever they do: nobody wants it any more
        pool.shutdown(cancel_futures=True)
        alive.close()


class _Setup(NamedTuple):
    """What a worker makes its counter of."""

    settings: Settings
    device: torch.device
    read: Callable[[Path], np.ndarray]
    ends: list[int]


_setup: _Setup | None = None  # of this worker


def _start_worker(setup: _Setup, alive: Connection) -> None:
    global _setup
    _setup = setup
    threading.Thread(target=_end_with, args=(alive,), name="end with parent", daemon=True).start()
    # The workers share the cores already.
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _end_with(alive: Connection) -> None:
    """End this process when the other end is closed: the parent wants no more of it, or was killed."""
    alive.poll(None)
    os._exit(1)  # at once: the main thread may be computing


def _count(part: PartFrames) -> bytes:
    # Pickled here: torch's tensors would travel as files in shared memory, one for each of hundreds of small tables.
    return pickle.dumps(_counter()(part))


@cache
def _counter() -> PartCounter:
    """Made for the first part, not when the worker starts: an error belongs to a part, and is raised in the parent."""
    assert _setup is not None, "set by _start_worker"
    logging.disable(logging.WARNING)  # the parent has built the same flow and said what there is to say
    flows = flow_settings(_setup.settings, _setup.device)
    logging.disable(logging.NOTSET)
    return PartCounter(_setup.settings, flows, _setup.read, _setup.ends)
