"""mIoU and temporal consistency of the network in training."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.frame_values import check_values
from etc.data.images import image_size, read_image
from etc.data.sources import source_of_clips, validation_clips, validation_frames
from etc.errors import UserError
from etc.evaluate.frames import confusion_of
from etc.evaluate.metric_list import HEADLINE, METRICS
from etc.flow.build import FlowSource, flow_source
from etc.metrics import TemporalConsistency, iou_scores
from etc.predict.predictor import predictor_from

logger = logging.getLogger(__name__)


def validate(
    network: nn.Module,
    settings: Settings,
    device: torch.device,
    *,
    clips: int | None = None,
    flow: FlowSource | None = None,
) -> dict[str, float]:
    """mIoU on ``DATA.val_list`` and strict TC on the first ``clips`` (all) of the clips to validate.

    Without ``flow`` the flow is that of the settings, built anew.

    Returns:
        ``{"mIoU", "TC"}`` and, by their keys, the other metrics of the counts of strict TC, in [0, 1]; mIoU only where
        there are labelled frames, the others only where there are clips. These are without the
        forward-backward check, which would double the flow needed. The network is left in eval mode.
    """
    predictor = predictor_from(settings, network=network, device=device)
    scores = {}
    frames = validation_frames(settings)
    if frames:
        counts = confusion_of(predictor, frames, settings, desc="validate mIoU")
        scores["mIoU"] = iou_scores(counts)["mIoU"]
    every = validation_clips(settings)[:clips]
    if not every:
        return scores
    flow, root = flow or flow_source(settings, device), Path(settings.DATA.data_root)
    strict = TemporalConsistency(settings.DATA.classes)
    own = breaks_in(every, settings).split(every)[distributed.rank() :: distributed.world_size()]
    for clip in tqdm(own, desc="validate TC", unit="clip", leave=False, disable=distributed.rank() > 0):
        last: tuple[Path, np.ndarray] | None = None
        for frame in clip:
            path = root / frame.image
            prediction = predictor([read_image(path)])[0]
            if last is not None:
                forward, valid = flow.with_validity(last[0], path, prediction.shape)
                strict.update(last[1], prediction, forward, valid=valid)
            last = (path, prediction)
    strict_counts = distributed.sum_counts(strict.counts)
    others = {m.key: m.compute(settings.DATA.classes, strict_counts) for m in METRICS if m.counts_of == HEADLINE}
    return scores | {"TC": iou_scores(strict_counts)["mIoU"], **others}


def validation_flow(settings: Settings, device: torch.device) -> FlowSource | None:
    """The flow that all validations of a training read; ``None`` where they need none.

    A network takes none of the device's memory before a pair is missing in the cache.

    Raises:
        UserError: as :func:`etc.flow.build.flow_source`.
    """
    if settings.TRAIN.val_freq == 0 or not validation_clips(settings):
        return None
    return flow_source(settings, device)


def check_validation(settings: Settings, network: nn.Module, device: torch.device) -> None:
    """Check all that the validations of a training will need; nothing where ``TRAIN.val_freq`` is 0.

    A frame is predicted, and the flow of a pair is computed into the cache, because only that shows whether network
    and estimator take frames of this size. The network is left in the mode it was in.

    Raises:
        UserError: missing or unsuitable lists, frames, labels or flow, frames of several sizes in one clip, or nothing
            to validate on.
    """
    if settings.TRAIN.val_freq == 0:
        logger.info("TRAIN.val_freq 0: no validation; last.pth is the trained network, there will be no best.pth")
        return
    data, root = settings.DATA, Path(settings.DATA.data_root)
    frames, clips = validation_frames(settings), validation_clips(settings)
    if not frames and not clips:
        raise UserError(
            "there is nothing to validate on, no labelled frame in DATA.val_list and no clip in DATA.clip_list: name "
            "one of them, or set TRAIN.val_freq 0"
        )
    if not frames:
        logger.warning(
            "DATA.val_list %s has no label: best.pth will be the network with the highest TC, which a constant "
            "prediction maximises; look at the pictures",
            data.val_list,
        )
    check_values(settings, frames, data.val_list)
    # No labels of clips are read.
    check_values(settings, [f._replace(label=None) for clip in clips for f in clip], source_of_clips(settings))
    distributed.warn_of_idle_processes(len(clips), "clips to validate on")
    flow = flow_source(settings, device) if clips else None
    for clip in clips:
        _check_sizes([root / frame.image for frame in clip])
    for clip in breaks_in(clips, settings).split(clips):
        for t, k in pairwise(root / frame.image for frame in clip):
            if flow is not None and not flow.available(t, k):
                raise UserError(f"FLOW.name dataset: no flow file beside {t} for {k.name}")
    _try_out(network, settings, device, root / (frames[0] if frames else clips[0][0]).image)
    if flow is not None:
        first, second = (root / frame.image for frame in clips[0][:2])
        width, height = image_size(first)
        flow.with_validity(first, second, (height, width))


def _check_sizes(paths: list[Path]) -> None:
    wanted = image_size(paths[0])
    for path in paths:
        size = image_size(path)
        if size != wanted:
            raise UserError(
                f"{path} is {size[0]}x{size[1]}, its clip's first frame {paths[0].name} is {wanted[0]}x{wanted[1]}: "
                "the frames of a clip must have one size"
            )


def _try_out(network: nn.Module, settings: Settings, device: torch.device, frame: Path) -> None:
    """Predict one frame; what is wrong with it is raised now, and not after the first epochs."""
    training = network.training
    # Eager: compiling for this size would take minutes.
    with torch.compiler.set_stance("force_eager"):
        predictor_from(settings, network=network, device=device)([read_image(frame)])
    network.train(training)
