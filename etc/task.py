"""What one training step computes: named losses from a student and a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etc.config import UserError
from etc.config_schema import Train
from etc.data.transform import MEAN, STD
from etc.flow import FlowEstimator
from etc.motion import MotionLoss
from utils import crit


class MotionTask(nn.Module):
    """One training step on frame pairs: segmentation loss plus motion loss.

    The flow estimator is no sub-module on purpose: it stays out of DDP, of the optimizer and of the
    student's checkpoint.

    Args:
        student: the network; in training mode it returns a dict with ``logits`` and, optionally, ``dsn``.
        segmentation_loss: called as ``(outputs, label)``.
        motion_loss: ``None`` for the baseline.
        flow: estimates the flow of the crops, where the batch does not bring it.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        segmentation_loss: nn.Module,
        motion_loss: MotionLoss | None,
        flow: FlowEstimator | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.segmentation_loss = segmentation_loss
        self.motion_loss = motion_loss
        self.flow = flow

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            batch: collated samples of :class:`etc.data.clips.ClipDataset`.

        Returns:
            ``{"loss", "segmentation", ["motion"], "logits", ["logits_k", "flow"]}``; ``loss`` is what to step
            on, the last three are detached and serve for pictures.
        """
        image, label = batch["image"], batch["label"]
        count = image.shape[0]
        if self.motion_loss is None:
            outputs = self._student(image)
            segmentation = self.segmentation_loss(outputs, label)
            return {"loss": segmentation, "segmentation": segmentation, "logits": outputs["logits"].detach()}
        paired = batch["paired"]
        neighbour = batch["neighbour"][paired]
        # One pass over both frames: one DDP synchronisation, batch norm sees the whole clip.
        outputs = self._student(torch.cat([image, neighbour]))
        segmentation = self.segmentation_loss({k: v[:count] for k, v in outputs.items()}, label)
        logits, logits_k = outputs["logits"][:count], outputs["logits"][count:]
        flow = self._flow(batch, neighbour)
        if paired.any():
            motion = self.motion_loss(image[paired], neighbour, logits[paired], logits_k, flow)
        else:
            motion = segmentation.new_zeros(())
        return {
            "loss": segmentation + motion,
            "segmentation": segmentation,
            "motion": motion,
            "logits": logits.detach(),
            "logits_k": logits_k.detach(),
            "flow": flow,
        }

    def _student(self, image: Tensor) -> dict[str, Tensor]:
        return self.student(image.contiguous(memory_format=torch.channels_last))

    def _flow(self, batch: dict[str, Tensor], neighbour: Tensor) -> Tensor:
        """Flow of the pairs of the batch, float32 ``[M, 2, H, W]``."""
        image = batch["image"][batch["paired"]]
        if "flow" in batch:
            return batch["flow"][batch["paired"]]
        if not len(image):
            return image.new_zeros(0, 2, *image.shape[-2:])
        with torch.no_grad():
            return self.flow.estimate(to_rgb255(image), to_rgb255(neighbour)).float()


def to_rgb255(image: Tensor) -> Tensor:
    """Undo :func:`etc.data.transform.normalise`: float ``[N, 3, H, W]`` -> RGB 0..255."""
    mean, std = (torch.from_numpy(x).to(image.device).view(1, 3, 1, 1) for x in (MEAN, STD))
    return image * std + mean


def segmentation_loss(train: Train, classes: int) -> nn.Module:
    """The segmentation loss that ``TRAIN.loss`` names.

    Raises:
        UserError: ``class_weight cityscapes`` with another number of classes than 19.
    """
    weight = None
    if train.class_weight == "cityscapes":
        weight = torch.as_tensor(crit.CITYSCAPES_CLASS_WEIGHT)
        if len(weight) != classes:
            raise UserError(f"TRAIN.class_weight cityscapes is for 19 classes, DATA.classes is {classes}")
    if train.loss == "cross_entropy":
        return crit.CriterionCrossEntropy(class_weight=weight)
    heads = {
        "dsn": crit.CriterionDSN,
        "ohem_dsn": crit.CriterionOhemDSN,
        "ohem_dsn_single": crit.CriterionOhemDSN_single,
    }
    return heads[train.loss](class_weight=weight, dsn_weight=train.aux_weight)
