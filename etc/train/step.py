"""What one training step computes: named losses from a student and a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etc.config.schema import Train
from etc.data.transform import denormalise
from etc.errors import UserError
from etc.flow.estimators import FlowEstimator
from etc.motion import MotionLoss
from etc.train.distillation import Distillation
from etc.train.self_training import PseudoLabeler
from utils import crit


class MotionTask(nn.Module):
    """One training step on clips of one to three frames: segmentation loss, motion loss, distillation.

    Flow estimator, teacher and pseudo_labeler are no sub-modules on purpose: they stay out of DDP, of the optimizer
    and of the student's checkpoint.

    Args:
        student: the network; in training mode it returns a dict with ``logits`` and, optionally, ``dsn``.
        segmentation_loss: called as ``(outputs, label)``.
        motion_loss: ``None`` for the baseline.
        flow: estimates the flow of the crops, where the batch does not bring it.
        distillation: ``None`` without a teacher.
        pseudo_labeler: labels the frames that have no label; ``None``: they have no segmentation loss.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        segmentation_loss: nn.Module,
        motion_loss: MotionLoss | None,
        flow: FlowEstimator | None = None,
        distillation: Distillation | None = None,
        pseudo_labeler: PseudoLabeler | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.segmentation_loss = segmentation_loss
        self.motion_loss = motion_loss
        self.flow = flow
        self.distillation = distillation
        self.pseudo_labeler = pseudo_labeler

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            batch: collated samples of :class:`etc.data.clip_dataset.ClipDataset`.

        Returns:
            ``{"loss", "segmentation", ["motion", "kd", "pf", "mf"], "logits", ["logits_k", "flow"]}``: ``loss`` is
            what to step on, the sum of the others, which are weighted; the last three are detached and serve for
            pictures.
        """
        paired, triple = batch.get("paired"), batch.get("triple")
        frames = [batch["image"]]
        if paired is not None:
            frames.append(batch["neighbour"][paired])
        if triple is not None:
            frames.append(batch["third"][triple])
        # One pass over all frames: one DDP synchronisation, batch norm sees the whole clip.
        images = torch.cat(frames).contiguous(memory_format=torch.channels_last)
        outputs = self.student(images)
        count = len(frames[0])
        labels = self._labels(batch)
        terms = {"segmentation": self.segmentation_loss({k: v[:count] for k, v in outputs.items()}, labels)}
        pictures = {"logits": outputs["logits"][:count].detach()}
        if self.motion_loss is not None:
            logits_k = outputs["logits"][count : count + len(frames[1])]
            flow = self._flow(batch, frames[1])
            terms["motion"] = self._motion(batch, outputs["logits"][:count], logits_k, flow)
            pictures |= {"logits_k": logits_k.detach(), "flow": flow}
        if self.distillation is not None:
            terms |= self.distillation(images, outputs, paired, triple, self._stored_logits(batch))
        return {"loss": sum(terms.values())} | terms | pictures

    @staticmethod
    def _stored_logits(batch: dict[str, Tensor]) -> Tensor | None:
        """The teacher's logits in the order of the images that the student sees."""
        if "soft" not in batch:
            return None
        parts = [batch["soft"]]
        for name, mask in (("soft_neighbour", "paired"), ("soft_third", "triple")):
            if mask in batch:
                parts.append(batch[name][batch[mask]])
        return torch.cat(parts)

    def _labels(self, batch: dict[str, Tensor]) -> Tensor:
        labels, labelled = batch["label"], batch["labelled"]
        if self.pseudo_labeler is None or labelled.all():
            return labels
        labels = labels.clone()
        labels[~labelled] = self.pseudo_labeler(batch["image"][~labelled])
        return labels

    def _motion(self, batch: dict[str, Tensor], logits: Tensor, logits_k: Tensor, flow: Tensor) -> Tensor:
        paired = batch["paired"]
        if not paired.any():
            return logits.new_zeros(())
        return self.motion_loss(batch["image"][paired], batch["neighbour"][paired], logits[paired], logits_k, flow)

    def _flow(self, batch: dict[str, Tensor], neighbour: Tensor) -> Tensor:
        """Flow of the pairs of the batch, float32 ``[M, 2, H, W]``."""
        image = batch["image"][batch["paired"]]
        if "flow" in batch:
            return batch["flow"][batch["paired"]]
        if not len(image):
            return image.new_zeros(0, 2, *image.shape[-2:])
        with torch.no_grad():
            return self.flow.estimate(denormalise(image), denormalise(neighbour)).float()


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
