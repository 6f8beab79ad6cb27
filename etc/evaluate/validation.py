"""mIoU and temporal consistency of the network in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.images import read_image
from etc.data.sources import clips_to_score, labelled_frames
from etc.evaluate.frames import confusion_of
from etc.flow.build import flow_source
from etc.metrics import TemporalConsistency, iou_scores
from etc.predict.predictor import predictor_from


def validate(
    network: nn.Module, settings: Settings, device: torch.device, *, clips: int | None = None
) -> dict[str, float]:
    """mIoU on ``DATA.val_list`` and strict TC on the first ``clips`` (all) of ``DATA.clip_list``.

    Returns:
        ``{"mIoU", "TC"}`` in [0, 1]; TC without the forward-backward check, which would
        double the flow needed. The network is left in eval mode.
    """
    predictor = predictor_from(settings, network=network, device=device)
    counts = confusion_of(predictor, labelled_frames(settings), settings, desc="validate mIoU")
    flow, root = flow_source(settings, device), Path(settings.DATA.data_root)
    strict = TemporalConsistency(settings.DATA.classes)
    scored = clips_to_score(settings)[:clips]
    own = breaks_in(scored, settings).split(scored)[distributed.rank() :: distributed.world_size()]
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
    return {"mIoU": iou_scores(counts)["mIoU"], "TC": iou_scores(strict_counts)["mIoU"]}
