"""Every training criterion: segmentation losses, and distillation from a teacher over several frames.

Copy this one file to use them elsewhere: it needs nothing but torch.

``preds`` and ``soft`` are the outputs of the student and of the teacher: a dict with ``"logits"``, ``"dsn"``
(auxiliary logits) and ``"fea"`` (features), or the logits alone; ``mode`` names the output to compare. All
maps are float ``[N, C, h, w]``. The student's are resized (bilinear, aligned corners) to the teacher's size, and
no gradient goes to the teacher. Every loss is a scalar, computed in float32 even under autocast.

All raise ValueError where an output is absent or batch sizes differ.

Sources: Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020, and
Liu et al., "Structured Knowledge Distillation for Dense Prediction", TPAMI 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Out = Mapping[str, Tensor] | Tensor
Normalize = Literal["cosine", "published"]

# entries of a similarity matrix that are held at a time: that of a 97x97 map has 88 million per image
BLOCK_ENTRIES = 2**23
EPSILON = 1e-8

# one weight per train id, road ... bicycle
# fmt: off
CITYSCAPES_CLASS_WEIGHT = torch.tensor([
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
])
# fmt: on


class CrossEntropy2d(nn.Module):
    """Cross entropy averaged over the pixels that are not ignored, each weighted by its class.

    Args: ``class_weight`` and ``ignore_index`` as in :class:`CriterionDSN`.

    Shape: logits float ``[N, K, H, W]``, target integer ``[N, H, W]`` with 0..K-1 and ``ignore_index``
    -> scalar, 0 with a gradient of 0 where every pixel is ignored.

    Raises:
        ValueError: the shapes do not match, or there are not K class weights.
    """

    class_weight: Tensor | None

    def __init__(self, *, class_weight: Tensor | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        if logits.dim() != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not match, "
                "expected [N, K, H, W] and [N, H, W]"
            )
        if self.class_weight is not None and self.class_weight.shape != logits.shape[1:2]:
            shape, classes = tuple(self.class_weight.shape), logits.shape[1]
            raise ValueError(f"class_weight has the shape {shape}, expected ({classes},)")
        logits, target = full_precision(logits), target.long()
        losses = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")
        weights = self.pixel_weights(losses.detach(), target)
        total = weights.sum()
        return (losses * weights).sum() / total.where(total > 0, 1)

    def pixel_weights(self, losses: Tensor, target: Tensor) -> Tensor:
        """Weight of each pixel, ``[N, H, W]``; 0 where ignored."""
        valid = target != self.ignore_index
        if self.class_weight is None:
            return valid.to(losses.dtype)
        return self.class_weight.to(target.device)[target.where(valid, 0)] * valid


class OhemCrossEntropy2d(CrossEntropy2d):
    """Cross entropy over the hard pixels: those whose true class got a probability of at most ``thresh``,
    or the ``min_kept`` hardest (and those that tie with the last of them) where these are more.

    The pixels are ranked over the whole batch. Where at most ``min_kept`` are not ignored, all are kept.

    Class weights apply to the kept pixels and do not influence the ranking.

    Args:
        class_weight, ignore_index: as in :class:`CriterionDSN`.
        thresh: probability of the true class, 0..1.
        min_kept: number of pixels per batch.

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
        self.thresh, self.min_kept = thresh, min_kept

    def pixel_weights(self, losses: Tensor, target: Tensor) -> Tensor:
        # ignored pixels rank last: with fewer than min_kept others the limit is infinite, and all are kept
        probability = torch.exp(-losses).masked_fill(target == self.ignore_index, torch.inf)
        limit: float | Tensor = self.thresh
        if self.min_kept > 0:
            count = min(self.min_kept, probability.numel())
            hardest = probability.flatten().topk(count, largest=False, sorted=False).values
            limit = hardest.max().clamp_min(self.thresh)
        return super().pixel_weights(losses, target) * (probability <= limit)


class CriterionCrossEntropy(nn.Module):
    """:class:`CriterionDSN` without its auxiliary head."""

    def __init__(self, *, class_weight: Tensor | None = None, ignore_index: int = 255) -> None:
        super().__init__()
        self.main = CrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index)

    def forward(self, preds: Out, target: Tensor) -> Tensor:
        return at_label_size(self.main, preds, "logits", target)


class CriterionDSN(CriterionCrossEntropy):
    """Cross entropy of the main head plus ``dsn_weight`` times that of the auxiliary head.

    Logits are resized to the label; without ``"dsn"`` the loss is that of the main head.

    Args:
        class_weight: a tensor of K, one weight per class (published: ``CITYSCAPES_CLASS_WEIGHT``), or None.
        ignore_index: label of the pixels that are ignored.
        dsn_weight: weight of the auxiliary head's loss.

    Shape: ``"logits"`` and ``"dsn"`` ``[N, K, h, w]``, target integer ``[N, H, W]`` -> scalar, 0 with a
    gradient of 0 where every pixel is ignored.

    Raises:
        ValueError: the batch sizes do not match, or there are not K class weights.
    """

    def __init__(self, *, class_weight: Tensor | None = None, ignore_index: int = 255, dsn_weight: float = 0.4) -> None:
        super().__init__(class_weight=class_weight, ignore_index=ignore_index)
        self.dsn = CrossEntropy2d(class_weight=class_weight, ignore_index=ignore_index)
        self.dsn_weight = dsn_weight

    def forward(self, preds: Out, target: Tensor) -> Tensor:
        loss = super().forward(preds, target)
        if not isinstance(preds, Tensor) and "dsn" in preds:
            loss = loss + self.dsn_weight * at_label_size(self.dsn, preds, "dsn", target)
        return loss


class CriterionOhemDSN(CriterionDSN):
    """:class:`CriterionDSN` over the hard pixels of each head; arguments as there and in the OHEM loss."""

    mined_heads: tuple[str, ...] = ("main", "dsn")

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
        for head in self.mined_heads:
            loss = OhemCrossEntropy2d(
                class_weight=class_weight, ignore_index=ignore_index, thresh=thresh, min_kept=min_kept
            )
            setattr(self, head, loss)


class CriterionOhemDSN_single(CriterionOhemDSN):
    """:class:`CriterionDSN` over the hard pixels of the main head and all pixels of the auxiliary one."""

    mined_heads = ("main",)


class FrameDivergence(nn.Module):
    """Kullback-Leibler divergence KL(teacher || student) of one frame.

    Args:
        mode: which output holds the logits.
        T: temperature that divides both logits.
        reduction: ``"pixel"`` sums over the classes, averages over the pixels and multiplies by T squared;
            ``"mean"`` averages over every element (published).

    Raises:
        ValueError: student and teacher differ in classes.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """

    def __init__(self, *, mode: str = "logits", T: float = 1.0, reduction: Literal["pixel", "mean"] = "pixel") -> None:
        super().__init__()
        check_choice("reduction", reduction, ("pixel", "mean"))
        if T <= 0:
            raise ValueError(f"T is {T}, expected a temperature above 0")
        self.mode, self.T, self.reduction = mode, T, reduction

    def divergence(self, preds: Out, soft: Out) -> Tensor:
        """The loss of one frame."""
        student, teacher = aligned(preds, soft, self.mode, same_channels=True)
        log_student = F.log_softmax(student / self.T, dim=1)
        log_teacher = F.log_softmax(full_precision(teacher) / self.T, dim=1)
        loss = F.kl_div(log_student, log_teacher, log_target=True, reduction="sum")
        if self.reduction == "mean":
            return loss / teacher.numel()
        return loss * self.T**2 * teacher.shape[1] / teacher.numel()


class CriterionKD(FrameDivergence):
    """:class:`FrameDivergence` of a frame and its neighbour, summed; arguments as there."""

    def forward(self, preds_frame: Out, soft_frame: Out, preds: Out, soft: Out) -> Tensor:
        return self.divergence(preds_frame, soft_frame) + self.divergence(preds, soft)


class CriterionKDLong(FrameDivergence):
    """:class:`FrameDivergence` over three frames: ``l_t + 0.4 * (l_f + l_b)``; arguments as there."""

    def forward(self, preds_f: Out, soft_f: Out, preds_b: Out, soft_b: Out, preds: Out, soft: Out) -> Tensor:
        neighbours = self.divergence(preds_f, soft_f) + self.divergence(preds_b, soft_b)
        return self.divergence(preds, soft) + 0.4 * neighbours


class CriterionSDcos_sig(nn.Module):
    """Pair-wise-frames dependency (PF): how similar each position of a frame is to each of its neighbour.

    Mean squared difference of the student's and the teacher's similarity matrices; their channels may differ.
    Extra memory does not grow with the square of h*w.

    Args:
        mode: which output to compare.
        normalize: ``"cosine"`` divides q_i.k_j by |q_i||k_j|; ``"published"`` by |k_i||q_j|, as the published
            code does. A zero vector is similar to nothing: 0, with a gradient of 0.

    Raises:
        ValueError: the frames differ in size.
    """

    def __init__(self, *, mode: str = "fea", normalize: Normalize = "cosine") -> None:
        super().__init__()
        check_choice("normalize", normalize, ("cosine", "published"))
        self.mode, self.normalize = mode, normalize

    def forward(self, preds_frame: Out, soft_frame: Out, preds: Out, soft: Out) -> Tensor:
        student_k, teacher_k = aligned(preds_frame, soft_frame, self.mode)
        student_q, teacher_q = aligned(preds, soft, self.mode)
        return similarity_error((student_q, student_k), (teacher_q, teacher_k), self.normalize)


class CriterionSDcos_self(nn.Module):
    """Cosine similarities among the positions of each of three frames: ``l_t + 0.4 * (l_f + l_b)``.

    Mean squared difference of the student's and the teacher's; their channels may differ.

    Args:
        mode: which output to compare.
        pool: side of the average pooling before the similarities, whose stride is 2.

    Raises:
        ValueError: the pooling leaves less than two positions.
    """

    def __init__(self, *, mode: str = "fea", pool: int = 2) -> None:
        super().__init__()
        self.mode, self.pool = mode, pool

    def forward(self, preds_f: Out, soft_f: Out, preds_b: Out, soft_b: Out, preds: Out, soft: Out) -> Tensor:
        neighbours = self.error(preds_f, soft_f) + self.error(preds_b, soft_b)
        return self.error(preds, soft) + 0.4 * neighbours

    def error(self, preds: Out, soft: Out) -> Tensor:
        """The loss of one frame."""
        student, teacher = (pooled(x, self.pool, stride=2) for x in aligned(preds, soft, self.mode))
        return similarity_error((student, student), (teacher, teacher))


class ConvLSTMCell(nn.Module):
    """One step of a convolutional LSTM.

    Shape: ``x`` ``[N, input_channels, H, W]`` and the state (hidden, cell) of ``[N, hidden_channels, H, W]``
    each, or None for zeros -> the next state.

    Source: Shi et al., "Convolutional LSTM Network", NeurIPS 2015 (without peepholes).
    """

    def __init__(self, *, input_channels: int = 1, hidden_channels: int = 4, kernel_size: int = 3) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        channels = input_channels + hidden_channels
        self.Gates = nn.Conv2d(channels, 4 * hidden_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        if state is None:
            zero = x.new_zeros(x.shape[0], self.hidden_channels, *x.shape[2:])
            state = zero, zero
        hidden, cell = state
        into, remember, out, candidate = self.Gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        cell = remember.sigmoid() * cell + into.sigmoid() * candidate.tanh()
        return out.sigmoid() * cell.tanh(), cell

    def last_state(self, frames: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Hidden and cell state after reading all frames, at least one."""
        state: tuple[Tensor, Tensor] | None = None
        for frame in frames:
            state = self(full_precision(frame), state)
        if state is None:
            raise ValueError("no frame to read, expected at least one")
        return state


class CriterionLSTM(nn.Module):
    """Multi-frame dependency (MF): a ConvLSTM reads each frame's cosine similarities as an image, in the
    order f, t, b; mean squared difference of its last cell state plus that of its last hidden state.

    Student and teacher share the cell, whose parameters get gradients from both. Parameters of 0 would minimise
    the loss: freeze them, or clip them if they are trained.

    Args:
        mode: which output to compare.
        pool: side and stride of the average pooling before the similarity.

    Raises:
        ValueError: the pooling leaves less than two positions.
    """

    def __init__(self, *, mode: str = "fea", pool: int = 16) -> None:
        super().__init__()
        self.mode, self.pool = mode, pool
        self.convlstm = ConvLSTMCell()

    def forward(self, preds_f: Out, soft_f: Out, preds_b: Out, soft_b: Out, preds: Out, soft: Out) -> Tensor:
        pairs = [aligned(*pair, self.mode) for pair in ((preds_f, soft_f), (preds, soft), (preds_b, soft_b))]
        with full_precision_math(pairs[0][0]):
            states = [self.convlstm.last_state(map(self.image, frames)) for frames in zip(*pairs, strict=True)]
            hidden, cell = (F.mse_loss(state, soft_state) for state, soft_state in zip(*states, strict=True))
            return hidden + cell

    def image(self, x: Tensor) -> Tensor:
        """Similarity matrix of a pooled map, ``[N, 1, P, P]``."""
        x = pooled(x, self.pool, stride=self.pool)
        return similarity(x, x)(slice(None)).unsqueeze(1)


class CriterionLSTMGAN(nn.Module):
    """:class:`CriterionLSTM` on the maps themselves, every channel an image: no pooling, no similarity.

    Args:
        mode: which output to compare. It takes some 50 times the memory of the maps: prefer logits to features.

    Returns two scalars: the mean squared difference of the last cell states, and the mean of 1 - the
    teacher's, which keeps the cell from collapsing to 0.

    Raises:
        ValueError: student and teacher differ in channels.
    """

    def __init__(self, *, mode: str = "logits") -> None:
        super().__init__()
        self.mode = mode
        self.convlstm = ConvLSTMCell()

    def forward(
        self, preds_f: Out, soft_f: Out, preds_b: Out, soft_b: Out, preds: Out, soft: Out
    ) -> tuple[Tensor, Tensor]:
        frames = ((preds_f, soft_f), (preds, soft), (preds_b, soft_b))
        pairs = [aligned(*frame, self.mode, same_channels=True) for frame in frames]
        with full_precision_math(pairs[0][0]):
            _, cell = self.convlstm.last_state(student.flatten(0, 1)[:, None] for student, _ in pairs)
            _, soft_cell = self.convlstm.last_state(teacher.flatten(0, 1)[:, None] for _, teacher in pairs)
            return F.mse_loss(cell, soft_cell), (1 - soft_cell).mean()


def similarity(q: Tensor, k: Tensor, normalize: Normalize = "cosine") -> Callable[[slice], Tensor]:
    """Similarity of every position of one map ``[N, C, h, w]`` to every position of another, computed on demand:
    the returned function takes a slice of the rows (positions of ``q``) and gives ``[N, rows, h*w]``."""
    if q.shape != k.shape:
        raise ValueError(f"the maps of two frames differ in shape: {tuple(q.shape)} and {tuple(k.shape)}")
    # once, not in every block: k is read as a whole by each of them
    q, k = q.flatten(2), full_precision(k).flatten(2)
    rows, columns = scales(q, k, normalize)

    def block(part: slice) -> Tensor:
        scaled = full_precision(q[:, :, part]) * rows[:, None, part]
        return torch.bmm(scaled.transpose(1, 2), k) * columns[:, None]

    return block


def similarity_error(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], normalize: Normalize = "cosine"
) -> Tensor:
    """Mean squared difference of the similarity matrices of two pairs of maps."""
    with full_precision_math(student[0]):
        q, k = (full_precision(x).flatten(2) for x in student)
        rows, columns = scales(q, k, normalize)
        teacher_rows = similarity(*teacher, normalize)
        return SimilarityError.apply(q * rows[:, None], k * columns[:, None], teacher_rows)


class SimilarityError(torch.autograd.Function):
    """Mean of (q_i.k_j - teacher_ij)^2, computed in blocks of rows. The forward pass computes the gradients too, so
    that no block has to be kept, or computed twice."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, teacher_rows: Callable[[slice], Tensor]) -> Tensor:
        n, _, positions = q.shape
        step = max(1, BLOCK_ENTRIES // (n * positions))
        total, mean = q.new_zeros(()), 1 / (n * positions**2)
        wanted = any(ctx.needs_input_grad)
        gradients = (torch.zeros_like(q), torch.zeros_like(k)) if wanted else None
        for start in range(0, positions, step):
            part = slice(start, start + step)
            error = torch.bmm(q[:, :, part].transpose(1, 2), k).sub_(teacher_rows(part))
            total += mean * torch.linalg.vector_norm(error).square()
            if gradients is not None:
                gradient_q, gradient_k = gradients
                gradient_q[:, :, part] = 2 * mean * torch.bmm(k, error.transpose(1, 2))
                gradient_k.baddbmm_(q[:, :, part], error, alpha=2 * mean)
        ctx.gradients = gradients
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient_q, gradient_k = ctx.gradients
        return gradient * gradient_q, gradient * gradient_k, None


def scales(q: Tensor, k: Tensor, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """Factors of the rows (positions of ``q``) and of the columns (of ``k``) of ``q_i.k_j``, ``[N, P]`` each."""
    rows, columns = inverse_norm(q), inverse_norm(k)
    return (columns, rows) if normalize == "published" else (rows, columns)


def inverse_norm(x: Tensor) -> Tensor:
    """1/|x_i| over the channels of ``[N, C, P]``; 0 for a zero vector, whose direction has no gradient."""
    norm = torch.linalg.vector_norm(full_precision(x), dim=1)
    return torch.where(norm > EPSILON, 1 / norm.clamp_min(EPSILON), 0)


def pooled(x: Tensor, side: int, stride: int) -> Tensor:
    h, w = x.shape[-2:]
    if min(h, w) < side or max(h, w) < side + stride:
        raise ValueError(f"pooling {side}x{side} of a {h}x{w} map leaves no two positions to compare: pool less")
    return F.avg_pool2d(full_precision(x), side, stride)


def aligned(preds: Out, soft: Out, mode: str, *, same_channels: bool = False) -> tuple[Tensor, Tensor]:
    """The student's map resized to the size of the teacher's, and the teacher's without gradient."""
    student, teacher = entry(preds, mode), entry(soft, mode).detach()
    fixed = 2 if same_channels else 1
    if student.shape[:fixed] != teacher.shape[:fixed]:
        what = "batch size or channels" if same_channels else "batch size"
        shapes = f"student's {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}"
        raise ValueError(f"{mode!r}: the {shapes} differ in {what}")
    return resize(full_precision(student), teacher.shape[-2:]), teacher


def entry(outputs: Out, mode: str) -> Tensor:
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


def at_label_size(criterion: nn.Module, preds: Out, mode: str, target: Tensor) -> Tensor:
    return criterion(resize(full_precision(entry(preds, mode)), target.shape[-2:]), target)


def full_precision_math(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(choices)}")
