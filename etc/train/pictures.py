"""Pictures of a training step, for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import flow_to_image

from etc.data.transform import Denormalise
from etc.motion import MotionLoss
from etc.train.batch import ClipBatch
from flownet import resample2d


def training_pictures(
    batch: ClipBatch, result: dict[str, Tensor], motion_loss: MotionLoss | None, palette: np.ndarray
) -> dict[str, Tensor]:
    """The first clip of a step in pictures, uint8 ``[3, h, w]`` each, for TensorBoard.

    Args:
        batch: the step's batch.
        result: what :class:`etc.train.step.MotionTask` returned for it.
        motion_loss: the one of the step, which gives the visibility mask.
        palette: colour of each train id, RGB uint8 ``[256, 3]``.

    Returns:
        ``frame``, ``label``, ``prediction``, and of the first pair, where there is a motion loss and a pair,
        ``neighbour``, ``flow``, ``visibility`` and ``warped``, the neighbour's prediction warped to the frame.
    """
    colors = torch.from_numpy(palette)
    image = batch.frames_t(batch.images)[:1]
    pictures = {
        "frame": _rgb(image),
        "label": _colored(batch.label[0], colors),
        "prediction": _colored(_ids(result["logits"][:1], image), colors),
    }
    if motion_loss is None or not batch.pair_count:
        return pictures
    # The first pair need not belong to the first clip, which may have no neighbour.
    image, neighbour = (frames[:1] for frames in batch.pairs(batch.images))
    flow, logits_k = result["flow"][:1], result["logits_k"][:1].float()
    visible = result["visible"][:1] if "visible" in result else None
    logits_k = F.interpolate(logits_k, size=image.shape[-2:], mode="bilinear", align_corners=True)
    return pictures | {
        "neighbour": _rgb(neighbour),
        "flow": flow_to_image(flow)[0].cpu(),
        "visibility": (motion_loss.mask(image, neighbour, flow, visible)[0] * 255)
        .to(torch.uint8)
        .expand(3, -1, -1)
        .cpu(),
        "warped": _colored(_ids(resample2d(logits_k, flow), image), colors),
    }


def _ids(logits: Tensor, image: Tensor) -> Tensor:
    size = image.shape[-2:]
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)[0].argmax(0)


def _rgb(image: Tensor) -> Tensor:
    return Denormalise()(image.cpu())[0].clamp(0, 255).to(torch.uint8)


def _colored(ids: Tensor, palette: Tensor) -> Tensor:
    return palette[ids.cpu().long()].permute(2, 0, 1)
