"""What one training step computes: named losses from a student and a batch of clips."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from etc.data.transform import Denormalise
from etc.flow.estimators import FlowEstimator
from etc.flow.visible import visible_in_pairs
from etc.motion import MotionLoss
from etc.train.batch import ClipBatch
from etc.train.distillation import Distillation
from etc.train.self_training import PseudoLabeler


class MotionTask(nn.Module):
    """One training step on clips of one to three frames: segmentation loss, motion loss, distillation.

    Flow estimator, teacher and pseudo labeler are deliberately not sub-modules: they stay out of the optimizer and of
    the student's checkpoint.

    Args:
        student: the network, wrapped in DDP where several processes train; in training mode it returns a dict with
            ``logits`` and, optionally, ``dsn`` and ``fea``.
        segmentation_loss: called as ``(outputs, label)``.
        motion_loss: ``None`` for the baseline.
        motion_flow: the flow that the motion loss gets. ``"estimated"``: the true one; ``"zero"`` and ``"shuffled"``,
            that of another clip of the batch, are the controls of a study.
        flow: estimates the flow of the crops; needed where something needs flow and the batch brings none.
        distillation: ``None`` without a teacher.
        pseudo_labeler: labels the frames that have no label; ``None``: they have no segmentation loss.
    """

    def __init__(
        self,
        *,
        student: nn.Module,
        segmentation_loss: nn.Module,
        motion_loss: MotionLoss | None,
        motion_flow: Literal["estimated", "zero", "shuffled"] = "estimated",
        flow: FlowEstimator | None = None,
        distillation: Distillation | None = None,
        pseudo_labeler: PseudoLabeler | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.segmentation_loss = segmentation_loss
        self.motion_loss = motion_loss
        self.motion_flow = motion_flow
        self.flow = flow
        self.distillation = distillation
        self.pseudo_labeler = pseudo_labeler
        self.denormalise = Denormalise()

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Compute the losses.

        Returns:
            ``{"loss", "segmentation", ["motion", "kd", "pf", "mf"], "logits", ["logits_k", "flow", "visible"]}``:
            ``loss`` is the one to minimise, the sum of the other losses, which are weighted already; the last four are
            for pictures: logits of the frames t, of their neighbours, flow and visible pixels of the pairs, all without
            gradient.
        """
        outputs = self.student(batch.images.contiguous(memory_format=torch.channels_last))
        labels = self._labels(batch)
        of_t = {name: batch.frames_t(values) for name, values in outputs.items()}
        terms = {"segmentation": self.segmentation_loss(of_t, labels)}
        pictures = {"logits": of_t["logits"].detach()}
        flow = visible = None
        if self.motion_loss is not None or (self.distillation is not None and self.distillation.needs_flow):
            flow, visible = self._flow(batch)
        if self.motion_loss is not None:
            assert flow is not None
            given = self._controlled(flow)
            terms["motion"] = _motion(self.motion_loss, batch, outputs["logits"], given, visible)
            pictures |= {"logits_k": batch.neighbours(outputs["logits"]).detach(), "flow": given}
            if visible is not None:
                pictures["visible"] = visible
        if self.distillation is not None:
            terms |= self.distillation(batch, outputs, flow, visible)
        return {"loss": sum(terms.values())} | terms | pictures

    def _labels(self, batch: ClipBatch) -> Tensor:
        if self.pseudo_labeler is None or not batch.unlabelled.size:
            return batch.label
        pseudo = self.pseudo_labeler(batch.unlabelled.of(batch.frames_t(batch.images)))
        return pseudo if batch.unlabelled.rows is None else batch.label.index_copy(0, batch.unlabelled.rows, pseudo)

    def _flow(self, batch: ClipBatch) -> tuple[Tensor, Tensor | None]:
        """Flow of the pairs, float32 ``[M, 2, H, W]``, and the visible pixels, where they are needed."""
        if batch.flow is not None:
            return batch.flow, batch.visible
        image_t, image_k = batch.pairs(batch.images)
        if not batch.pair_count:
            return image_t.new_zeros(0, 2, *image_t.shape[-2:]), None
        assert self.flow is not None, "where the batch brings no flow, an estimator is needed"
        with torch.no_grad():
            pair = self.denormalise(image_t), self.denormalise(image_k)
            flow = self.flow.estimate(*pair).float()
            visible = visible_in_pairs(flow, self.flow.estimate(*pair[::-1]).float()) if self._needs_visible else None
        return flow, visible

    @property
    def _needs_visible(self) -> bool:
        by_motion = self.motion_loss is not None and self.motion_loss.visibility == "forward_backward"
        return by_motion or (self.distillation is not None and self.distillation.needs_flow)

    def _controlled(self, flow: Tensor) -> Tensor:
        if self.motion_flow == "estimated":
            return flow
        # One pair has no other whose flow it could get.
        return flow.roll(1, 0) if self.motion_flow == "shuffled" and len(flow) > 1 else torch.zeros_like(flow)


def _motion(motion_loss: MotionLoss, batch: ClipBatch, logits: Tensor, flow: Tensor, visible: Tensor | None) -> Tensor:
    if not batch.pair_count:
        return logits.new_zeros(())
    return motion_loss(*batch.pairs(batch.images), *batch.pairs(logits), flow, visible)
