"""Checked label maps, flows and masks."""

from typing import overload

import numpy as np
import torch
from torch import Tensor

Labels = Tensor | np.ndarray

IGNORE = 255


def as_clip(labels: Labels, name: str, num_classes: int, like: Tensor | None = None) -> Tensor:
    """:func:`as_ids` of the frames of one clip, integer ``[T, H, W]``; ValueError for a batch of clips."""
    if labels.ndim != 3:
        raise ValueError(f"{name} must be one clip [T, H, W], got {list(labels.shape)}: add clips one by one")
    return as_ids(labels, name, num_classes, like)


def as_integers(labels: Labels, name: str) -> Tensor:
    """uint8 stays, every other integer type becomes int64; ValueError for anything else."""
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold integers, got {labels.dtype}")
        return _tensor(labels, np.uint8 if labels.dtype == np.uint8 else np.int64)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers, got {labels.dtype}")
    return labels if labels.dtype == torch.uint8 else labels.to(torch.int64)


def as_ids(labels: Labels, name: str, num_classes: int, like: Tensor | None = None) -> Tensor:
    """Checked ids as uint8 ``[B, H, W]`` on the device of ``like``; leading dimensions are flattened to B.

    Legal are 0..num_classes-1 and 255. Raises ValueError naming the illegal id, or both sizes where they
    differ from those of ``like``.
    """
    ids = as_integers(labels, name)
    if ids.ndim < 2 or 0 in ids.shape[-2:]:
        raise ValueError(f"{name} must be [..., H, W], got {list(ids.shape)}")
    ids = ids.reshape(-1, *ids.shape[-2:])
    if like is not None:
        if ids.shape != like.shape:
            raise ValueError(f"{name} is {list(ids.shape)}, the label map beside it {list(like.shape)}")
        ids = ids.to(like.device)
    if not len(ids):
        return ids.to(torch.uint8)
    if ids.dtype != torch.uint8:
        low, high = ids.min(), ids.max()
        if low < 0 or high > 255:
            value = int(low if low < 0 else high)
            raise ValueError(f"{name} holds id {value}: expected 0..{num_classes - 1}, or 255 for no label")
        ids = ids.to(torch.uint8)
    if int((ids + 1).max()) > num_classes:  # 255 + 1 is 0 in uint8
        value = int(ids[(ids >= num_classes) & (ids != IGNORE)][0])
        raise ValueError(f"{name} holds id {value}: expected 0..{num_classes - 1}, or 255 for no label")
    return ids


@overload
def as_flow(flow: Tensor | np.ndarray, name: str, like: Tensor) -> Tensor: ...
@overload
def as_flow(flow: Tensor | np.ndarray | None, name: str, like: Tensor) -> Tensor | list[None]: ...
def as_flow(flow: Tensor | np.ndarray | None, name: str, like: Tensor) -> Tensor | list[None]:
    """Checked flow as float32 ``[B, 2, H, W]`` beside label maps ``[B, H, W]``; None gives B times None.

    Raises ValueError for a wrong dtype, for a wrong size (naming both) and for values that are not finite.
    """
    if flow is None:
        return [None] * len(like)
    if not (flow.dtype.kind == "f" if isinstance(flow, np.ndarray) else flow.is_floating_point()):
        raise ValueError(f"{name} must hold floats, got {flow.dtype}")
    flow = _tensor(flow, np.float32) if isinstance(flow, np.ndarray) else flow
    batch, height, width = like.shape
    if flow.shape[-3:] != (2, height, width) or flow.numel() != 2 * like.numel():
        raise ValueError(f"{name} is {list(flow.shape)}: expected {[batch, 2, height, width]} as the label maps")
    flow = flow.detach().to(like.device, torch.float32).reshape(batch, 2, height, width).contiguous()
    if not flow.sum().isfinite():  # one reduction; isfinite of every element takes 30 times as long
        raise ValueError(f"{name} holds NaN or infinite values")
    return flow


def as_mask(mask: Tensor | np.ndarray | None, name: str, like: Tensor) -> Tensor | list[None]:
    """Checked mask as bool ``[B, H, W]`` beside label maps ``[B, H, W]``; None gives B times None."""
    if mask is None:
        return [None] * len(like)
    if mask.dtype not in (torch.bool, np.bool_):
        raise ValueError(f"{name} must be bool, got {mask.dtype}")
    mask = _tensor(mask, np.bool_) if isinstance(mask, np.ndarray) else mask
    if mask.shape[-2:] != like.shape[-2:] or mask.numel() != like.numel():
        raise ValueError(f"{name} is {list(mask.shape)}: expected {list(like.shape)} as the label maps")
    return mask.reshape(like.shape).to(like.device)


def _tensor(array: np.ndarray, dtype: type[np.generic]) -> Tensor:
    """Shares memory where torch can: no negative strides, no foreign byte order, not read-only."""
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def require_classes(num_classes: int, limit: int) -> None:
    if not 1 <= num_classes <= limit:
        raise ValueError(f"num_classes must be 1..{limit}, got {num_classes}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def require_same(one: object, other: object, names: tuple[str, ...]) -> None:
    for name in names:
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise ValueError(f"cannot merge: {name} is {mine!r} here and {theirs!r} there")
