"""The class of every pixel from logits of a lower resolution, without logits of full size."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_MIXED = 255  # of a cell: its corners have different classes
_EXCLUDED = -1e30
_ROWS = 64  # of the result, whose logits are interpolated at a time


def upsampled_argmax(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """``F.interpolate(logits, size, mode="bilinear", ...).argmax(1)``, in a fraction of its time and memory.

    A pixel's logits are a convex combination of those at the four corners of its cell. Where the corners agree on the
    class, the pixel has that class; only the other cells, along the edges of things, are interpolated.

    Where two classes differ by less than rounding, either may be given: the terms are not added in the order of
    ``interpolate``, and a difference that holds at all four corners may be lost in its rounding.

    Args:
        logits: float ``[N, K, h, w]``, K at most 255, finite; or minus infinity for classes that are excluded.
        size: height and width of the result, at least 1.
        align_corners: as of ``F.interpolate``.

    Returns:
        uint8 ``[N, H, W]``, on the device of ``logits``.

    Raises:
        ValueError: more than 255 classes, or another number of dimensions.
    """
    if logits.dim() != 4 or not 1 <= logits.shape[1] <= _MIXED:
        raise ValueError(f"expected logits [N, K, h, w] with K in 1..{_MIXED}, got {tuple(logits.shape)}")
    height, width = logits.shape[2:]
    if (height, width) == tuple(size):
        return torch.stack([value.argmax(0).to(torch.uint8) for value in logits])
    rows = _neighbours(height, size[0], align_corners, logits)
    columns = _neighbours(width, size[1], align_corners, logits)
    # Minus infinity excludes a class; between two of them, the difference that is interpolated would be NaN.
    pixels = logits.float().clamp(min=_EXCLUDED).permute(0, 2, 3, 1).contiguous()
    # Columns first: rows are then copied whole.
    ids = _cells(pixels).index_select(2, columns.first).index_select(1, rows.first)
    at_once = _ROWS if ids.device.type == "cpu" else size[0]  # a GPU would be waited for after each block
    for image, out in zip(pixels, ids, strict=True):
        for start in range(0, size[0], at_once):
            block = slice(start, start + at_once)
            y, x = (out[block] == _MIXED).nonzero(as_tuple=True)
            if len(y):
                out[block][y, x] = _interpolated_argmax(image, rows.part(block), columns, y, x)
    return ids


def _cells(pixels: Tensor) -> Tensor:
    """Of each cell of ``[N, h, w, K]``, by its upper left corner: the class that its corners share, or ``_MIXED``."""
    corners = pixels.max(3).indices.to(torch.uint8)  # the first of equal ones, as argmax, in less time
    right = torch.cat((corners[:, :, 1:], corners[:, :, -1:]), 2)
    cells = torch.where(corners == right, corners, _MIXED)
    below = torch.cat((cells[:, 1:], cells[:, -1:]), 1)
    return torch.where(cells == below, cells, _MIXED)


def _interpolated_argmax(image: Tensor, rows: _Neighbours, columns: _Neighbours, y: Tensor, x: Tensor) -> Tensor:
    """The class at positions ``y, x`` of some rows, from the logits ``[h, w, K]`` around them; uint8."""
    upper, lower = image.index_select(0, rows.first), image.index_select(0, rows.second)
    between = torch.lerp(upper, lower, rows.share[:, None, None]).flatten(0, 1)
    start = y * image.shape[1]
    left, right = F.embedding(start + columns.first[x], between), F.embedding(start + columns.second[x], between)
    return torch.lerp(left, right, columns.share[x][:, None]).max(1).indices.to(torch.uint8)


class _Neighbours(NamedTuple):
    """Of positions on an axis: the two entries around each, and the share of the second."""

    first: Tensor
    second: Tensor
    share: Tensor

    def part(self, block: slice) -> _Neighbours:
        return _Neighbours(self.first[block], self.second[block], self.share[block])


def _neighbours(length: int, wanted: int, align_corners: bool, like: Tensor) -> _Neighbours:
    """The neighbours of ``wanted`` positions on an axis of ``length``, as ``F.interpolate`` places them."""
    position = torch.arange(wanted, device=like.device, dtype=torch.float32)
    if align_corners:
        position = position * ((length - 1) / (wanted - 1) if wanted > 1 else 0)
    else:
        position = ((position + 0.5) * (length / wanted) - 0.5).clamp_(min=0)
    first = position.long().clamp_(max=length - 1)
    return _Neighbours(first, (first + 1).clamp_(max=length - 1), (position - first).clamp_(0, 1))
