"""Distillation: what the student of a training step learns from a frozen teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etc.config.schema import Distill
from etc.motion import usable_pixels
from etc.train.batch import ClipBatch
from flownet import resample2d
from model import SegmentationNetwork
from utils import crit

Outputs = dict[str, Tensor]


class DistillationLoss(NamedTuple):
    """One loss of :data:`LOSSES`.

    Attributes:
        criterion: makes it from its settings.
        compare: applies it to one output of student and teacher: ``(criterion, mode, batch, student, teacher)``, the
            maps ``[N + M + L, C, h, w]`` of a batch's pass -> scalar, 0 for a batch without the frames that it needs.
    """

    criterion: Callable[[Distill], nn.Module]
    compare: Callable[[Any, str, ClipBatch, Tensor, Tensor], Tensor]


def _each_frame(criterion: Any, mode: str, batch: ClipBatch, student: Tensor, teacher: Tensor) -> Tensor:
    """Frames t and neighbours, each with its own mean, by the method ``divergence`` of the criterion."""
    loss = criterion.divergence({mode: batch.frames_t(student)}, {mode: batch.frames_t(teacher)})
    if batch.pair_count:
        loss = loss + criterion.divergence({mode: batch.neighbours(student)}, {mode: batch.neighbours(teacher)})
    return loss


def _pairs(criterion: nn.Module, mode: str, batch: ClipBatch, student: Tensor, teacher: Tensor) -> Tensor:
    """Each frame t with its neighbour."""
    if not batch.pair_count:
        return student.new_zeros(())
    t, k = zip(batch.pairs(student), batch.pairs(teacher), strict=True)
    return criterion(*({mode: x} for x in (*k, *t)))


def _triples(criterion: nn.Module, mode: str, batch: ClipBatch, student: Tensor, teacher: Tensor) -> Tensor:
    """Each frame t with its neighbour and the third frame on its other side."""
    if not batch.triple_count:
        return student.new_zeros(())
    third, k, t = zip(batch.triples(student), batch.triples(teacher), strict=True)
    return criterion(*({mode: x} for x in (*third, *k, *t)))


# Name -> loss. The settings DISTILL.<name>_weight and DISTILL.<name>_on belong to each: its weight, 0 for none, and
# the output that it compares.
LOSSES = {
    "kd": DistillationLoss(
        lambda s: crit.CriterionKD(mode=s.kd_on, T=s.temperature, reduction=s.kd_reduction), _each_frame
    ),
    "pf": DistillationLoss(lambda s: crit.CriterionSDcos_sig(mode=s.pf_on), _pairs),
    "mf": DistillationLoss(lambda s: crit.CriterionLSTM(mode=s.mf_on, pool=s.mf_pool), _triples),
}


class Distillation:
    """The losses of a student against a teacher that sees the same frames.

    Deliberately not an ``nn.Module``: the teacher stays out of the optimizer and of the student's checkpoint, and so
    do the parameters of the losses, those of the ConvLSTM of the multi-frame loss. Student and teacher share this
    ConvLSTM. The published training trained it too; minimising the loss alone would drive its parameters to 0, where
    any two networks agree, so the published code clips them and adds a second term. Here it is a fixed random
    projection, which cannot collapse.

    Args:
        settings: which losses, their weights, and the outputs that they compare.
        teacher: the trained network; it is frozen and put into evaluation mode.
        device: where to compute.
        seed: of the random parameters of the losses.

    Attributes:
        criteria: the losses whose weight is above 0, by name.
        needs_flow: whether the teacher's logits are averaged along the flow (``DISTILL.consistent_teacher``).

    Source: Liu et al., ECCV 2020, section 3.3.
    """

    def __init__(self, settings: Distill, teacher: SegmentationNetwork, *, device: torch.device, seed: int) -> None:
        self.settings = settings
        self.needs_flow = settings.consistent_teacher
        self.teacher = teacher.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self.criteria: dict[str, nn.Module] = {}
        for name, loss in LOSSES.items():
            if self.settings.weight(name):
                # Its own random numbers: a run with distillation draws the same crops and dropout as one without.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    self.criteria[name] = loss.criterion(settings).requires_grad_(False).to(device)

    def __call__(
        self, batch: ClipBatch, student: Outputs, flow: Tensor | None = None, visible: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted losses by name, those whose weight is above 0.

        A loss is 0 for a batch without the frames that it needs.

        Args:
            batch: the clips; where it brings the teacher's logits, the teacher is not run.
            student: its outputs for ``batch.images``.
            flow: of the pairs, float ``[M, 2, H, W]``, pixels; read where :attr:`needs_flow`.
            visible: pixels of the frames t of the pairs that are visible in their neighbours, bool ``[M, 1, H, W]``;
                read where :attr:`needs_flow`.

        Raises:
            ValueError: an output to compare is absent, of too few positions, or of other channels than the teacher's.
        """
        with torch.no_grad():
            if batch.teacher_logits is None:
                teacher = self.teacher.outputs(batch.images.contiguous(memory_format=torch.channels_last))
            else:
                teacher = {"logits": without_padding(batch.teacher_logits, student["logits"], batch.images)}
            if self.needs_flow and batch.pair_count:
                assert flow is not None and visible is not None
                visible = visible & (usable_pixels(*batch.pairs(batch.images), flow) > 0)
                averaged = average_along_flow(*batch.pairs(teacher["logits"]), flow, visible)
                teacher = teacher | {"logits": batch.with_frames_t(teacher["logits"], averaged)}
        losses = {}
        for name, criterion in self.criteria.items():
            mode = getattr(self.settings, f"{name}_on")
            maps = (crit.entry(outputs, mode) for outputs in (student, teacher))
            losses[name] = self.settings.weight(name) * LOSSES[name].compare(criterion, mode, batch, *maps)
        return losses


def average_along_flow(logits_t: Tensor, logits_k: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """``(z_t + V warp(z_k)) / (1 + V)``: logits of frame t, averaged with the neighbour's where the pixel is visible.

    Args:
        logits_t: logits of frame t, float ``[M, K, h, w]``.
        logits_k: those of its neighbour, same shape.
        flow: from t to k, float ``[M, 2, H, W]``, pixels of the frames.
        visible: V, bool ``[M, 1, H, W]``.

    Returns:
        float ``[M, K, h, w]``.
    """
    size = logits_t.shape[-2:]
    # Corners are aligned: one step of the coarse grid is (W - 1) / (w - 1) pixels.
    steps = [(coarse - 1) / max(fine - 1, 1) for coarse, fine in zip(size[::-1], flow.shape[:-3:-1], strict=True)]
    coarse = F.interpolate(flow.float(), size=size, mode="bilinear", align_corners=True)
    coarse = torch.stack([coarse[:, axis] * step for axis, step in enumerate(steps)], 1)
    weight = F.interpolate(visible.float(), size=size, mode="bilinear", align_corners=True)
    return (logits_t + weight * resample2d(logits_k.float(), coarse)) / (1 + weight)


def without_padding(cached: Tensor, logits: Tensor, images: Tensor) -> Tensor:
    """A teacher's cached logits, padding filled with the student's own logits, because the teacher never saw it.

    Args:
        cached: the teacher's logits for the crops, float ``[B, K, h, w]``.
        logits: the student's, ``[B, K, ...]`` of any size.
        images: the crops, normalised, float ``[B, 3, H, W]``.

    Returns:
        float ``[B, K, h, w]`` without gradient.

    Raises:
        ValueError: student and teacher differ in classes.
    """
    size = cached.shape[-2:]
    # Padding is 0 in all channels, which no real pixel is (etc.data.transform.crop_image).
    padding = (images == 0).all(1, keepdim=True).float()
    padding = F.interpolate(padding, size=size, mode="bilinear", align_corners=True) > 0
    if logits.shape[1] != cached.shape[1]:
        raise ValueError(f"the student has {logits.shape[1]} classes, the teacher's cached logits {cached.shape[1]}")
    return torch.where(padding, crit.resize(logits.detach().to(cached.dtype), size), cached)
