"""The class of every pixel from logits of a lower resolution, without logits of full size."""

from __future__ import annotations

import torch
from torch import Tensor

_MIXED = 255  # of a cell: its corners have different classes
_BLOCK = 1 << 14  # pixels that are interpolated at a time


def upsampled_argmax(logits: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """``F.interpolate(logits, size, mode="bilinear", ...).argmax(1)``, in a fraction of its time and memory.

    A pixel's logits are a convex combination of those at the four corners of its cell. Where the corners agree on the
    class, the pixel has that class; only the other cells, along the edges of things, are interpolated.

    Where two classes differ by less than rounding, either may be given: the terms are not added in the order of
    ``interpolate``, and a difference that holds at all four corners may be lost in its rounding.

    Args:
        logits: float ``[N, K, h, w]``, K at most 255, finite.
        size: height and width of the result, at least 1.
        align_corners: as of ``F.interpolate``.

    Returns:
        uint8 ``[N, H, W]``, on the device of ``logits``.

    Raises:
        ValueError: more than 255 classes, or another number of dimensions.
    """
    if logits.dim() != 4 or not 1 <= logits.shape[1] <= _MIXED:
        raise ValueError(f"expected logits [N, K, h, w] with K in 1..{_MIXED}, got {tuple(logits.shape)}")
    _, classes, height, width = logits.shape
    if (height, width) == tuple(size):
        return torch.stack([value.argmax(0).to(torch.uint8) for value in logits])
    rows, row_weights = _neighbours(height, size[0], align_corners, logits)
    columns, column_weights = _neighbours(width, size[1], align_corners, logits)
    pixels = logits.float().permute(0, 2, 3, 1).contiguous()
    corners = pixels.argmax(3).to(torch.uint8)
    # Of each cell, by its upper left corner: the class that its corners share, or _MIXED.
    right = torch.cat((corners[:, :, 1:], corners[:, :, -1:]), 2)
    cells = torch.where(corners == right, corners, _MIXED)
    below = torch.cat((cells[:, 1:], cells[:, -1:]), 1)
    cells = torch.where(cells == below, cells, _MIXED)
    result = cells.index_select(1, rows[0]).index_select(2, columns[0])
    flat, out = pixels.view(-1, classes), result.view(-1)
    for mixed in (out == _MIXED).nonzero().squeeze(1).split(_BLOCK):
        image, y, x = mixed // (size[0] * size[1]), mixed // size[1] % size[0], mixed % size[1]
        start = image * (height * width)
        value = flat.new_zeros(len(mixed), classes)
        for row, row_weight in zip(rows, row_weights, strict=True):
            for column, column_weight in zip(columns, column_weights, strict=True):
                corner = flat.index_select(0, start + row[y] * width + column[x])
                value.addcmul_(corner, (row_weight[y] * column_weight[x])[:, None])
        out[mixed] = value.argmax(1).to(torch.uint8)
    return result


def _neighbours(
    length: int, wanted: int, align_corners: bool, like: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Of each of ``wanted`` positions on an axis of ``length``: its two neighbours, and their weights."""
    position = torch.arange(wanted, device=like.device, dtype=torch.float32)
    if align_corners:
        position = position * ((length - 1) / (wanted - 1) if wanted > 1 else 0)
    else:
        position = ((position + 0.5) * (length / wanted) - 0.5).clamp_(min=0)
    first = position.long().clamp_(max=length - 1)
    second = (first + 1).clamp_(max=length - 1)
    share = (position - first).clamp_(0, 1)
    return (first, second), (1 - share, share)
