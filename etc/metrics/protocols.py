"""Consistency as other publications have scored it since 2020; docs/scoring.md says which tables they are for."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etc.metrics.checks import IGNORE, Labels, as_clip, as_flow, as_ids, require_classes, require_same
from etc.metrics.iou import IouScores, iou_scores
from etc.metrics.video import VideoConsistency
from etc.metrics.warping import joint_histogram

SHARE = 2**40  # of which shares are counted in units: sums of integers do not depend on their order
_FRAMES = 5  # that vote
REACH = _FRAMES - 1  # strides from the first of them to the last


def warp_vspw(ids: Tensor, flow: Tensor) -> Tensor:
    """Warps ids as the TC script of VSPW does: nearest sampling, id 0 for what lies outside the frame.

    The script scales positions by W - 1, but samples with ``align_corners=False``, which counts in widths of W: what it
    reads lies up to half a pixel off, left and up in the first half of the frame, right and down in the second. Ties go
    to the even pixel. Where nothing moves, the last column (row) of an even width (height) is therefore outside.

    Args:
        ids: uint8 ``[H, W]``.
        flow: float32 ``[2, H, W]``, pixels.

    Returns:
        uint8 ``[H, W]``.

    Source: VSPW-dataset/VSPW_code on GitHub, TC_cal.py, ``flowwarp``.
    """
    height, width = ids.shape
    x = torch.arange(width, dtype=torch.float32, device=ids.device)
    y = torch.arange(height, dtype=torch.float32, device=ids.device)[:, None]
    # in the script's order of operations: the last bits decide ties
    x, y = 2 * (x + flow[0]) / max(width - 1, 1) - 1, 2 * (y + flow[1]) / max(height - 1, 1) - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(ids[None, None].float(), grid[None], mode="nearest", align_corners=False)[0, 0].to(torch.uint8)


class VspwTemporalConsistency:
    """TC of VSPW: mIoU over the classes of frame t, between its ids and those of frame t+1 by :func:`warp_vspw`.

    The counts of all pairs are pooled. Occluded pixels count, and pixels whose source lies outside the frame count as
    class 0. Pixels of 255 in either map are not counted.

    ``counts`` is int64 ``[K, K]``; rows are frame t, columns the warped map.

    Args:
        num_classes: K, 1..255.

    Source: Miao et al., VSPW, CVPR 2021; VSPW-dataset/VSPW_code on GitHub, TC_cal.py.
    """

    def __init__(self, num_classes: int) -> None:
        require_classes(num_classes, limit=255)
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device="cpu")

    def update(self, pred_t: Labels, pred_next: Labels, flow: Tensor | np.ndarray, valid: object = None) -> None:
        """Adds one pair of frames, or a batch of pairs.

        Args:
            pred_t: ids of frame t, integer ``[..., H, W]``, 0..K-1, or 255 for no class.
            pred_next: ids of frame t+1, same shape.
            flow: from t to t+1, float pixels ``[..., 2, H, W]``.
            valid: plays no part.

        Raises:
            ValueError: sizes differ, a dtype is wrong, a flow is not finite, or an id is illegal.
        """
        for counts in _pair_counts(pred_t, pred_next, flow, self.num_classes):
            self.counts += counts

    def merge(self, other: "VspwTemporalConsistency") -> "VspwTemporalConsistency":
        """Adds the counts of ``other``; returns self. ValueError when the two differ in their classes."""
        require_same(self, other, ("num_classes",))
        self.counts += other.counts
        return self

    def compute(self) -> IouScores:
        """The ``iou_scores`` of the pooled counts, averaged over the classes of frame t."""
        return iou_scores(self.counts, "target")


class PerPairConsistency:
    """TC per pair: the mIoU of each pair by itself, over the classes that occur in it; then the mean over pairs.

    Warped and counted as in :class:`VspwTemporalConsistency`. A class that occurs in a few pixels of one pair weighs as
    much there as any other. The published figure is a mean over the means of videos: see :func:`mean_of_clips`.

    ``counts`` is int64 ``[sum of the pairs' mIoU in units of 2**-40, number of pairs]``.

    Args:
        num_classes: K, 1..255.

    Source: Vincent et al., High temporal consistency through semantic similarity propagation, CVPR 2025;
    FraunhoferIVI/SSP on GitHub, utils/metrics.py, ``temporal_consistency``.
    """

    def __init__(self, num_classes: int) -> None:
        require_classes(num_classes, limit=255)
        self.num_classes = num_classes
        self.counts = torch.zeros(2, dtype=torch.int64, device="cpu")

    def update(self, pred_t: Labels, pred_next: Labels, flow: Tensor | np.ndarray, valid: object = None) -> None:
        """Adds one pair of frames, or a batch of pairs; as :meth:`VspwTemporalConsistency.update`."""
        for counts in _pair_counts(pred_t, pred_next, flow, self.num_classes):
            if counts.any():
                self.counts += torch.tensor([round(iou_scores(counts)["mIoU"] * SHARE), 1])

    def merge(self, other: "PerPairConsistency") -> "PerPairConsistency":
        """Adds the pairs of ``other``; returns self. ValueError when the two differ in their classes."""
        require_same(self, other, ("num_classes",))
        self.counts += other.counts
        return self

    def compute(self) -> float:
        """The mean over pairs in [0, 1], NaN without a pair."""
        return _mean_share(self.counts)


def mean_of_clips(counts: Tensor) -> Tensor:
    """Counts of shares of clips, int64 ``[clips, 2]`` -> counts that give each clip with a share the same weight."""
    shares, numbers = counts.unbind(-1)
    return torch.stack([shares // numbers.clamp(min=1), numbers.clamp(max=1)], dim=-1)


class MajorityAgreement:
    """Of five labels of a pixel, aligned along the flow, the share that agrees with the majority; over all pixels.

    The two frames before and the two after are aligned to the middle one by :func:`warp_vspw`, along the flow from the
    middle frame to each of them. Without a majority, the most frequent label stands for it, so that no pixel counts
    less than 1/5. Pixels of 255 in any of the five are not counted.

    ``counts`` is int64 ``[labels that agree, labels]``.

    Args:
        num_classes: K, 1..255.

    Source: FraunhoferIVI/SSP on GitHub, utils/metrics.py, ``temporal_consistency_proposed``, which names Marcu et al.,
    Self-supervised hypergraphs for learning multiple world interpretations, arXiv 2308.07615.
    """

    def __init__(self, num_classes: int) -> None:
        require_classes(num_classes, limit=255)
        self.num_classes = num_classes
        self.counts = torch.zeros(2, dtype=torch.int64, device="cpu")

    def update(self, preds: Labels, flows: Tensor | np.ndarray) -> None:
        """Adds five frames.

        Args:
            preds: their ids in order, integer ``[5, H, W]``, 0..K-1, or 255 for no class.
            flows: from the middle frame to the others in order, float pixels ``[4, 2, H, W]``.

        Raises:
            ValueError: another number of frames, wrong sizes or dtypes, a flow that is not finite, or an illegal id.
        """
        ids = as_ids(preds, "preds", self.num_classes)
        if len(ids) != _FRAMES:
            raise ValueError(f"preds holds {len(ids)} frames, expected {_FRAMES}")
        middle, others = ids[_FRAMES // 2], torch.cat([ids[: _FRAMES // 2], ids[_FRAMES // 2 + 1 :]])
        steps = as_flow(flows, "flows", like=others)
        labels = torch.stack([middle, *(warp_vspw(other, step) for other, step in zip(others, steps, strict=True))])
        agreeing = torch.stack([(labels == one).sum(0) for one in labels]).amax(0)
        counted = (labels != IGNORE).all(0)
        self.counts += torch.stack([agreeing[counted].sum(), _FRAMES * counted.sum()]).cpu()

    def merge(self, other: "MajorityAgreement") -> "MajorityAgreement":
        """Adds the counts of ``other``; returns self. ValueError when the two differ in their classes."""
        require_same(self, other, ("num_classes",))
        self.counts += other.counts
        return self

    def compute(self) -> float:
        """The share in [0, 1], NaN without a pixel."""
        agreeing, labels = self.counts.tolist()
        return agreeing / labels if labels else math.nan


class FlowFreeConsistency:
    """Of the pixels whose label stays from one frame to the next, the share whose prediction stays; mean over pairs.

    No flow is used: a pixel is compared with the pixel of the same place. Pixels labelled 255 in either frame are not
    counted, and a pair without a pixel is left out.

    ``counts`` is int64 ``[sum of the pairs' shares in units of 2**-40, number of pairs]``.

    Args:
        num_classes: K, 1..255.

    Source: Rebol and Knöbelreiter, Frame-to-frame consistent semantic segmentation, 2020, arXiv 2008.00948;
    mrebol/f2f-consistent-semantic-segmentation on GitHub, data/metrics.py, ``get_consistency``.
    """

    overlap = 1  # frame that the next chunk of a clip must repeat: each pair counts once

    def __init__(self, num_classes: int) -> None:
        require_classes(num_classes, limit=255)
        self.num_classes = num_classes
        self.counts = torch.zeros(2, dtype=torch.int64, device="cpu")

    def update(self, preds: Labels, targets: Labels) -> None:
        """Adds one clip: predicted and true ids of its frames in order, integer ``[T, H, W]`` each.

        Raises ValueError when the shapes differ, for a batch of clips, or when an id is neither in 0..K-1 nor 255.
        """
        preds = as_clip(preds, "preds", self.num_classes)
        targets = as_clip(targets, "targets", self.num_classes, like=preds)
        for t in range(1, len(preds)):
            stays = (targets[t] == targets[t - 1]) & (targets[t] != IGNORE)
            counted = int(stays.count_nonzero())
            if counted:
                same = int((stays & (preds[t] == preds[t - 1])).count_nonzero())
                self.counts += torch.tensor([round(same / counted * SHARE), 1])

    def merge(self, other: "FlowFreeConsistency") -> "FlowFreeConsistency":
        """Adds the pairs of ``other``; returns self. ValueError when the two differ in their classes."""
        require_same(self, other, ("num_classes",))
        self.counts += other.counts
        return self

    def compute(self) -> float:
        """The mean share in [0, 1], NaN without a pair."""
        return _mean_share(self.counts)


class VspwVideoConsistency(VideoConsistency):
    """VC_n to the letter of the VSPW script: 255 is a label like any other, in the truth and in predictions.

    Elsewhere as ``VideoConsistency`` of the definition ``"vspw"``.

    Args:
        num_classes: K, 1..254.
        window: n, 2..254.

    Source: VSPW-dataset/VSPW_code on GitHub, VC_perclip.py, ``get_common``.
    """

    def __init__(self, num_classes: int, window: int) -> None:
        super().__init__(num_classes + 1, window, "vspw")  # one more class stands for 255

    def update(self, preds: Labels, targets: Labels) -> None:
        """Adds one clip; as :meth:`VideoConsistency.update`."""
        unlabelled = self.num_classes - 1
        preds = as_clip(preds, "preds", unlabelled)
        targets = as_clip(targets, "targets", unlabelled, like=preds)
        super().update(preds.clamp(max=unlabelled), targets.clamp(max=unlabelled))


def _pair_counts(pred_t: Labels, pred_next: Labels, flow: Tensor | np.ndarray, num_classes: int) -> list[Tensor]:
    """int64 ``[K, K]`` of each pair; rows are frame t, columns the warped next frame."""
    k = num_classes
    first = as_ids(pred_t, "pred_t", k)
    second, flow = as_ids(pred_next, "pred_next", k, like=first), as_flow(flow, "flow", like=first)
    pairs = zip(first, second, flow, strict=True)
    warped = [(ids.clamp(max=k), warp_vspw(following, step).clamp(max=k)) for ids, following, step in pairs]
    return [joint_histogram(ids, met, k)[:k, :k].cpu() for ids, met in warped]


def _mean_share(counts: Tensor) -> float:
    shares, number = counts.tolist()
    return shares / SHARE / number if number else math.nan
