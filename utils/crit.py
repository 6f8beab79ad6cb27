"""Every training criterion: segmentation losses, and distillation from a teacher over several frames.

Copy this one file to use them elsewhere: it needs nothing but torch. ``preds`` and ``soft`` are what the
student and the teacher return: a dict with ``"logits"``, ``"dsn"`` (auxiliary logits) and ``"fea"``
(features), or the logits alone. All maps are float ``[N, C, h, w]``; losses are computed in float32 even
under autocast, and are scalars.

Sources: Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, and
Liu et al., "Structured Knowledge Distillation for Dense Prediction", TPAMI 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Outputs = Mapping[str, Tensor] | Tensor

# one weight a train id, road ... bicycle
# fmt: off
CITYSCAPES_CLASS_WEIGHT = torch.tensor([
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
])
# fmt: on


class CrossEntropy2d(nn.Module):
    """Cross entropy averaged over the pixels that are not ignored, each counting as its class weighs.

    Args:
        class_weight: a tensor of K, one weight a class, or None for equal weights.
        ignore_index: label of the pixels that do not count.

    Shape: logits float ``[N, K, H, W]``, target integer ``[N, H, W]`` with 0..K-1 and ``ignore_index``
    -> scalar, 0 with a gradient of 0 where every pixel is ignored.

    Raises:
        ValueError: the shapes do not match, or there are not K class weights.
    """

    def __init__(self, *, class_weight: Tensor | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self._check(logits, target)
        target = target.long()
        return self._mean(self._losses(logits, target), self._weights(target))

    def _check(self, logits: Tensor, target: Tensor) -> None:
        if logits.dim() != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not match, "
                "expected [N, K, H, W] and [N, H, W]"
            )
        if self.class_weight is not None and self.class_weight.shape != logits.shape[1:2]:
            weights, classes = tuple(self.class_weight.shape), logits.shape[1]
            raise ValueError(f"class_weight has the shape {weights}, expected ({classes},)")

    def _losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """-log p(true class) a pixel, 0 where ignored."""
        return F.cross_entropy(
            full_precision(logits), target, ignore_index=self.ignore_index, reduction="none"
        )

    def _weights(self, target: Tensor) -> Tensor:
        """How much each pixel counts, 0 where ignored."""
        valid = target != self.ignore_index
        if self.class_weight is None:
            return valid.float()
        return self.class_weight.to(target.device)[target.where(valid, 0)] * valid

    @staticmethod
    def _mean(losses: Tensor, weights: Tensor) -> Tensor:
        total = weights.sum()
        return (losses * weights).sum() / total.where(total > 0, 1)


class OhemCrossEntropy2d(CrossEntropy2d):
    """Cross entropy over the hard pixels: those whose true class got a probability of at most ``thresh``,
    or the ``min_kept`` hardest (and those that tie with the last of them) where these are more.

    The pixels are ranked over the whole batch. Where at most ``min_kept`` are not ignored, all are kept.

    Args:
        class_weight: as in the cross entropy; it weighs the kept pixels, and does not touch the ranking.
        ignore_index: label of the pixels that do not count.
        thresh: probability of the true class, 0..1.
        min_kept: number of pixels a batch.

    Source: Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining",
    CVPR 2016.
    """

    def __init__(
        self,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = 255,
        thresh: float = 0.7,
        min_kept: int = 100_000,
    ) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index)
        if not 0 <= thresh <= 1 or min_kept < 0:
            raise ValueError(f"thresh is {thresh} and min_kept {min_kept}, expected 0..1 and at least 0")
        self.thresh = thresh
        self.min_kept = min_kept

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self._check(logits, target)
        target = target.long()
        losses = self._losses(logits, target)
        return self._mean(losses, self._weights(target) * self._hard(losses.detach(), target))

    def _hard(self, losses: Tensor, target: Tensor) -> Tensor:
        # ignored pixels rank last; so the threshold is infinite where fewer than min_kept count
        probability = torch.exp(-losses).masked_fill(target == self.ignore_index, torch.inf)
        if self.min_kept == 0:
            return probability <= self.thresh
        count = min(self.min_kept, probability.numel())
        hardest = probability.flatten().topk(count, largest=False, sorted=False).values
        return probability <= hardest.max().clamp_min(self.thresh)


class CriterionCrossEntropy(nn.Module):
    """Cross entropy of the main head alone; see :class:`CriterionDSN`."""

    def __init__(self, *, class_weight: Tensor | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.main = CrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index)

    def forward(self, preds: Outputs, target: Tensor) -> Tensor:
        return at_label_size(self.main, preds, "logits", target)


class CriterionDSN(nn.Module):
    """Cross entropy of the main head plus ``dsn_weight`` times that of the auxiliary head.

    Logits are resized to the label (bilinear, aligned corners). Outputs without ``"dsn"`` have the main
    head's loss alone.

    Args:
        class_weight: a tensor of K, one weight a class (``CITYSCAPES_CLASS_WEIGHT`` was published), or None.
        ignore_index: label of the pixels that do not count.
        dsn_weight: weight of the auxiliary head's loss.

    Shape: ``preds`` with ``"logits"`` and perhaps ``"dsn"`` ``[N, K, h, w]``, ``target`` integer
    ``[N, H, W]`` -> scalar, 0 with a gradient of 0 where every pixel is ignored.

    Raises:
        ValueError: the shapes do not match, or there are not K class weights.
    """

    def __init__(
        self,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = 255,
        dsn_weight: float = 0.4,
    ) -> None:
        super().__init__()
        self.main = CrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index)
        self.dsn = CrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index)
        self.dsn_weight = dsn_weight

    def forward(self, preds: Outputs, target: Tensor) -> Tensor:
        loss = at_label_size(self.main, preds, "logits", target)
        if not isinstance(preds, Tensor) and "dsn" in preds:
            loss = loss + self.dsn_weight * at_label_size(self.dsn, preds, "dsn", target)
        return loss


class CriterionOhemDSN(CriterionDSN):
    """:class:`CriterionDSN` over the hard pixels of each head; arguments as there and in the OHEM loss."""

    def __init__(
        self,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = 255,
        dsn_weight: float = 0.4,
        thresh: float = 0.7,
        min_kept: int = 100_000,
    ) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index, dsn_weight=dsn_weight)
        hard = {"thresh": thresh, "min_kept": min_kept}
        self.main = OhemCrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index, **hard)
        self.dsn = OhemCrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index, **hard)


class CriterionOhemDSN_single(CriterionDSN):
    """:class:`CriterionDSN` over the hard pixels of the main head and all pixels of the auxiliary one."""

    def __init__(
        self,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = 255,
        dsn_weight: float = 0.4,
        thresh: float = 0.7,
        min_kept: int = 100_000,
    ) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index, dsn_weight=dsn_weight)
        self.main = OhemCrossEntropy2d(
            class_weight=class_weight, ignore_index=ignore_index, thresh=thresh, min_kept=min_kept
        )


def entry(outputs: Outputs, mode: str) -> Tensor:
    """One map of a network's outputs; outputs that are a tensor are the logits."""
    if isinstance(outputs, Tensor):
        outputs = {"logits": outputs}
    if mode not in outputs:
        raise ValueError(f"the network returns no {mode!r}, only {', '.join(outputs)}")
    return outputs[mode]


def full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def at_label_size(criterion: nn.Module, preds: Outputs, mode: str, target: Tensor) -> Tensor:
    return criterion(resize(full_precision(entry(preds, mode)), target.shape[-2:]), target)
