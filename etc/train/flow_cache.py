"""Fills the flow cache before a training, where its flow comes from a network, and says how much of it is missing."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import torch

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.clip_dataset import ClipDataset
from etc.data.images import image_size
from etc.data.sources import validation_clips
from etc.data.training_list import flow_pairs
from etc.flow.build import cached_flow
from etc.flow.cache import CachedFlow, FramePair
from etc.flow.precompute import announce, fill

logger = logging.getLogger(__name__)


def fill_flow_cache(settings: Settings, data: ClipDataset, device: torch.device) -> None:
    """Compute the flow that a training with ``FLOW.source cached`` and its validations lack, on the training's device.

    Left to themselves, the loading workers would compute it on the CPU, and a validation beside all that the training
    holds in memory. DIS runs on the CPU anyway, in the workers at once: of it, a line says how much is missing. The
    processes that torchrun started share the pairs; random numbers are left alone.

    Raises:
        UserError: as :meth:`etc.flow.cache.CachedFlow.compute`.
    """
    pairs = [] if settings.FLOW.name == "dataset" else needed_pairs(settings, data)
    if not pairs:
        return
    if settings.FLOW.name == "dis":
        if distributed.rank() == 0:
            announce(cached_flow(settings, device), pairs)
        # A million pairs take minutes to look up: the others must not wait in NCCL, which gives up after ten.
        distributed.barrier()
        return
    with torch.random.fork_rng(devices=[]):
        flow = cached_flow(settings, device)
    # Shared before they are looked up: the other processes may have begun to write.
    own = pairs[distributed.rank() :: distributed.world_size()]
    missing = [pair for pair in own if not _has(flow, pair)]
    total = int(distributed.sum_counts(torch.tensor([len(missing)])))
    if total:
        logger.info(
            "the flow of %d frame pairs is computed with %s%s, once, into %s; an interrupted run goes on from there",
            total,
            settings.FLOW.name,
            "" if ":" in settings.FLOW.name else f" on {device}",  # an estimator of one's own may be anywhere
            settings.FLOW.cache,
        )
        fill(flow, missing)
        distributed.barrier()
    # In every training: what other processes computed in an earlier one may lie on another machine too.
    absent = sum(not _has(flow, pair) for pair in pairs) if distributed.world_size() > 1 else 0
    distributed.barrier()  # a million pairs take minutes to look up
    if absent:
        logger.warning(
            "FLOW.cache %s lacks the flow of %d pairs that other processes have: their machines do not share that "
            "folder, or have the frames at another path, links followed; the loading workers of this one will compute "
            "it on the CPU (docs/scaling.md)",
            settings.FLOW.cache,
            absent,
        )
    if device.type == "cuda":
        del flow
        torch.cuda.empty_cache()  # for other processes on this GPU; what torch keeps is in its way too


def needed_pairs(settings: Settings, data: ClipDataset) -> list[FramePair]:
    """The pairs t, k whose cached flow t -> k a training and its validations read, each once."""
    pairs: list[FramePair] = []
    if settings.needs_flow and settings.FLOW.source == "cached":
        pairs = flow_pairs(settings, data.frames, data.offsets)
    if settings.TRAIN.val_freq:
        root = Path(settings.DATA.data_root)
        clips = validation_clips(settings)
        for clip in breaks_in(clips, settings).split(clips):
            pairs += pairwise(root / frame.image for frame in clip)
    return list(dict.fromkeys(pairs))


def _has(flow: CachedFlow, pair: FramePair) -> bool:
    width, height = image_size(pair[0])
    return flow.has(*pair, (height, width))
