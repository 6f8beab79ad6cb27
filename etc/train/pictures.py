"""What a training step looks like, for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import flow_to_image

from etc.config.schema import Train
from etc.data.transform import denormalise
from etc.motion import MotionLoss
from flownet import resample2d


def training_pictures(
    batch: dict[str, Tensor], result: dict[str, Tensor], train: Train, palette: np.ndarray
) -> dict[str, Tensor]:
    """What the first sample of a step looks like, uint8 ``[3, h, w]`` each, for TensorBoard.

    Args:
        batch: the step's batch.
        result: what :class:`etc.train.step.MotionTask` returned for it.
        train: how the motion loss weighs pixels.
        palette: uint8 ``[256, 3]``.

    Returns:
        ``frame``, ``label``, ``prediction`` and, for a pair, ``neighbour``, ``flow``, ``visibility``, ``warped``.
    """
    palette = torch.from_numpy(palette)
    image = batch["image"][:1]
    pictures = {
        "frame": _rgb(image),
        "label": _colored(batch["label"][0], palette),
        "prediction": _colored(_ids(result["logits"][:1], image), palette),
    }
    if "flow" not in result or not batch["paired"].any():
        return pictures
    # The pairs of the step stand in the order of the batch: the first pair need not be the first sample.
    image, neighbour = (batch[name][batch["paired"]][:1] for name in ("image", "neighbour"))
    flow, logits_k = result["flow"][:1], result["logits_k"][:1].float()
    loss = MotionLoss(weight=1.0, visibility=train.visibility, mask_padding=train.mask_padding)
    logits_k = F.interpolate(logits_k, size=image.shape[-2:], mode="bilinear", align_corners=True)
    return pictures | {
        "neighbour": _rgb(neighbour),
        "flow": flow_to_image(flow)[0].cpu(),
        "visibility": (loss.mask(image, neighbour, flow)[0] * 255).to(torch.uint8).expand(3, -1, -1).cpu(),
        "warped": _colored(_ids(resample2d(logits_k, flow), image), palette),
    }


def _ids(logits: Tensor, image: Tensor) -> Tensor:
    size = image.shape[-2:]
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)[0].argmax(0)


def _rgb(image: Tensor) -> Tensor:
    return denormalise(image)[0].clamp(0, 255).to(torch.uint8).cpu()


def _colored(ids: Tensor, palette: Tensor) -> Tensor:
    return palette[ids.cpu().long()].permute(2, 0, 1)
