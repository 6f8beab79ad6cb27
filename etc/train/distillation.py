"""Distillation: what the student of a training step learns from a frozen teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etc.config.schema import Distill
from utils import crit

Outputs = dict[str, Tensor]


class Distillation:
    """The losses of a student against a teacher that sees the same frames.

    This is no module on purpose: the teacher stays out of DDP, of the optimizer and of the student's checkpoint.
    So does the ConvLSTM of the multi-frame loss, the same for both networks. The published training let it learn
    along: with the loss alone it falls to the trivial solution, parameters of 0 for which any two networks agree,
    and so needed clipping and a further term. Here it is a fixed random projection instead, which cannot.

    Args:
        settings: which losses, how much they weigh and what they compare.
        teacher: the trained network; it is frozen and put into evaluation mode.
        device: where to compute.
        seed: of the ConvLSTM's parameters.

    Source: Liu et al., ECCV 2020, section 3.3.
    """

    def __init__(self, settings: Distill, teacher: nn.Module, *, device: torch.device, seed: int) -> None:
        self.settings = settings
        self.teacher = teacher.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self.pixel_wise = crit.CriterionKD(mode=settings.kd_on, T=settings.temperature, reduction=settings.kd_reduction)
        self.pair_wise = crit.CriterionSDcos_sig(mode=settings.pf_on)
        # Its own random numbers: a run with distillation draws the same crops and dropout as one without.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.multi_frame = crit.CriterionLSTM(mode=settings.mf_on, pool=settings.mf_pool)
        self.multi_frame.requires_grad_(False).to(device)

    def __call__(
        self,
        images: Tensor,
        student: Outputs,
        paired: Tensor | None = None,
        triple: Tensor | None = None,
        stored: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses by name, ``"kd"``, ``"pf"`` and ``"mf"``: those that the settings ask for.

        A loss is 0 for a batch without the frames that it needs.

        Args:
            images: normalised RGB, float ``[N + M + L, 3, H, W]``: N frames t, the M neighbours k that there are,
                and the L third frames, on the other side of t than k.
            student: its outputs for them.
            paired: which frames t have a neighbour, bool ``[N]``; ``None``: no frame has.
            triple: which have a third frame too, bool ``[N]``; ``None``: no frame has.
            stored: the teacher's logits for the images, float ``[N + M + L, K, h, w]``; ``None``: it is run.

        Raises:
            ValueError: an output to compare is absent, of too few positions, or of other channels than the teacher's.
        """
        with torch.no_grad():
            if stored is None:
                teacher = self.teacher.outputs(images)
            else:
                teacher = {"logits": without_padding(stored, student["logits"], images)}
        none = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        paired, triple = (none if mask is None else mask for mask in (paired, triple))
        weights, losses = self.settings, {}
        if weights.kd_weight:
            losses["kd"] = weights.kd_weight * self._pixel_wise(student, teacher, paired)
        if weights.pf_weight:
            losses["pf"] = weights.pf_weight * self._pair_wise(student, teacher, paired)
        if weights.mf_weight:
            losses["mf"] = weights.mf_weight * self._multi_frame(student, teacher, paired, triple)
        return losses

    def _pixel_wise(self, student: Outputs, teacher: Outputs, paired: Tensor) -> Tensor:
        """Frames t and neighbours, each with its own mean, as :class:`utils.crit.CriterionKD` sums them."""
        count, neighbours = len(paired), int(paired.sum())
        parts = [slice(0, count), slice(count, count + neighbours)] if neighbours else [slice(0, count)]
        mode = self.settings.kd_on
        return sum(self.pixel_wise.divergence(rows(student, mode, part), rows(teacher, mode, part)) for part in parts)

    def _pair_wise(self, student: Outputs, teacher: Outputs, paired: Tensor) -> Tensor:
        mode, t = self.settings.pf_on, paired.nonzero()[:, 0]
        if not len(t):
            return crit.entry(student, mode).new_zeros(())
        k = torch.arange(len(t), device=t.device) + len(paired)
        frames = [rows(outputs, mode, index) for index in (k, t) for outputs in (student, teacher)]
        return self.pair_wise(*frames)

    def _multi_frame(self, student: Outputs, teacher: Outputs, paired: Tensor, triple: Tensor) -> Tensor:
        mode, t = self.settings.mf_on, triple.nonzero()[:, 0]
        if not len(t):
            return crit.entry(student, mode).new_zeros(())
        # The neighbours stand after the frames t, without gaps for the frames that have none.
        k = len(paired) + (paired.cumsum(0) - 1)[t]
        third = torch.arange(len(t), device=t.device) + len(paired) + int(paired.sum())
        frames = [rows(outputs, mode, index) for index in (third, k, t) for outputs in (student, teacher)]
        return self.multi_frame(*frames)


def without_padding(stored: Tensor, logits: Tensor, images: Tensor) -> Tensor:
    """Stored logits, but the student's own where a crop is padding: the teacher never saw any, and so says nothing."""
    size = stored.shape[-2:]
    # Padding is 0 in all channels, which no real pixel is (etc.data.transform.crop_image).
    padding = (images == 0).all(1, keepdim=True).float()
    padding = F.interpolate(padding, size=size, mode="bilinear", align_corners=True) > 0
    if logits.shape[1] != stored.shape[1]:
        raise ValueError(f"the student has {logits.shape[1]} classes, the stored logits {stored.shape[1]}")
    return torch.where(padding, crit.resize(logits.detach().to(stored.dtype), size), stored)


def rows(outputs: Outputs, mode: str, index: Tensor | slice) -> Outputs:
    """One output for some of the images."""
    return {mode: crit.entry(outputs, mode)[index]}
