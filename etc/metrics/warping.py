"""Building blocks of the metrics: labels warped along a flow, occlusion, class boundaries, joint histograms.

A label map in here is uint8 ``[H, W]`` with ids 0..K-1; K (``ignore``) marks a pixel that takes no part.
On the CPU the work goes over blocks of rows that fit its cache; the order of operations favours those that
torch vectorises (a comparison of floats to bool, say, takes five times as long as one in place).
"""

from collections.abc import Iterator, Sequence
from functools import cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etc.metrics.checks import as_flow

_BLOCK = 1 << 16  # pixels: the temporaries of a block stay in the second-level cache
_REMAP_LIMIT = 32767  # pixels a side of what OpenCV samples


def joint_histogram(rows: Tensor, columns: Tensor, num_classes: int) -> Tensor:
    """int64 ``[K+1, K+1]`` of two equally shaped maps of integers 0..K."""
    side = num_classes + 1
    counts = torch.zeros(side * side, dtype=torch.int64, device=rows.device)
    block = _BLOCK if rows.device.type == "cpu" else max(1, rows.numel())
    for r, c in zip(rows.flatten().split(block), columns.flatten().split(block), strict=True):
        counts += torch.bincount(r.to(torch.int32).mul_(side).add_(c), minlength=side * side)
    return counts.view(side, side)


def ignore_where(labels: Tensor, mask: Tensor, ignore: int) -> Tensor:
    """The labels with ``ignore``, the largest id, where the bool mask is set."""
    return torch.maximum(labels, mask.view(torch.uint8) * ignore)  # masked_fill takes 10 times as long


def warp_labels(maps: list[Tensor], flows: list[Tensor], backwards: list[Tensor | None], ignore: int) -> Tensor:
    """The labels that the pixels of frame 0 meet as they move through the n frames after it.

    A position starts at its pixel and moves by flow 0; from frame i it moves on by flow i, sampled
    bilinearly. Labels are read at the nearest pixel, ``floor(x + 0.5)``. A step is checked for occlusion
    against the backward flow, sampled bilinearly where the step ends.

    Args:
        maps: label maps of frames 1..n, uint8 ``[H, W]``; ids beyond ``ignore`` count as it.
        flows: from frame i to i+1 for i = 0..n-1, float32 ``[2, H, W]``.
        backwards: from frame i+1 to i, or None for a step that is not checked.
        ignore: the id K.

    Returns:
        uint8 ``[n, H, W]``: K where the position lies outside the frame or the step to it is occluded.
    """
    framed = [F.pad(ids.clamp(max=ignore), (1, 1, 1, 1), value=ignore) for ids in maps]
    met = torch.empty(len(maps), *maps[0].shape, dtype=torch.uint8, device=maps[0].device)
    for rows in row_blocks(maps[0]):
        x, y = pixel_positions(maps[0], rows)
        for i, (flow, backward) in enumerate(zip(flows, backwards, strict=True)):
            step = [plane[rows] for plane in flow] if i == 0 else _read_flow(flow, x, y)
            x, y = x + step[0], y + step[1]
            labels = _read_nearest(framed[i], x, y)
            if backward is not None:
                labels = ignore_where(labels, _occluded(step, _read_flow(backward, x, y)), ignore)
            met[i, rows] = labels
    return met


def boundary_band(ids: Tensor, reach: int, ignore: int) -> Tensor:
    """bool ``[H, W]``: pixels whose square of side 2 reach + 1, cut at the frame, holds two classes.

    ``ids`` is uint8 with ``ignore`` as its largest value, which is no class.
    """
    rising = ids * (ids < ignore).view(torch.uint8)  # ignored pixels as 0
    falling = ignore - ids  # class c as K - c, ignored pixels as 0
    # The highest class against the lowest; a square without any class has 0 and K.
    return _square_max(rising, reach) > ignore - _square_max(falling, reach)


def _square_max(values: Tensor, reach: int) -> Tensor:
    """Running maximum over squares of side 2 reach + 1; windows grow by doubling: logarithmic cost."""
    values, window = F.pad(values, (reach, reach, reach, reach)), 2 * reach + 1
    for dim in (0, 1):
        size = 1
        while size < window:
            step = min(size, window - size)
            kept = values.shape[dim] - step
            values = torch.maximum(values.narrow(dim, 0, kept), values.narrow(dim, step, kept))
            size += step
    return values


def row_blocks(ids: Tensor) -> Iterator[slice]:
    height, width = ids.shape
    block = max(1, _BLOCK // width) if ids.device.type == "cpu" else height
    for first in range(0, height, block):
        yield slice(first, min(first + block, height))


def pixel_positions(ids: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels of some rows, float32: x ``[W]`` and y ``[rows, 1]``."""
    x = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
    return x, torch.arange(rows.start, rows.stop, device=ids.device, dtype=torch.float32)[:, None]


def _read_nearest(framed: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Labels at ``floor(x + 0.5)``; the border of one ignored pixel stands for all that lies outside."""
    height, width = framed.shape[0] - 2, framed.shape[1] - 2
    column = (x + 0.5).floor_().clamp_(-1, width).to(torch.int32)
    row = (y + 0.5).floor_().clamp_(-1, height).to(torch.int32)
    index = row.mul_(width + 2).add_(column).add_(width + 3)  # the border shifts both by one
    return framed.flatten().index_select(0, index.flatten()).view(x.shape)


def _read_flow(flow: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
    """Both components of a flow ``[2, H, W]``, sampled bilinearly at pixel positions ``[h, w]``, borders clamped.

    grid_sample counts in half images, which moves a position by up to 2e-4 pixels at a width of 2048.
    """
    height, width = flow.shape[1:]
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    if flow.device.type == "cpu" and max(height, width) <= _REMAP_LIMIT and _remap_is_exact():
        at, border = (x.numpy(), y.numpy(), cv2.INTER_LINEAR), cv2.BORDER_REPLICATE
        return [torch.from_numpy(cv2.remap(plane, *at, borderMode=border)) for plane in flow.numpy()]
    column = x.to(torch.int32).clamp_(0, max(0, width - 2))
    row = y.to(torch.int32).clamp_(0, max(0, height - 2))
    share_x, share_y = x.sub_(column), y.sub_(row)
    index = row.mul_(width).add_(column).flatten()
    right, below = min(1, width - 1), width * min(1, height - 1)  # 0 where there is one column or row
    components = []
    for plane in flow.flatten(1):
        corners = (plane[shift:].index_select(0, index) for shift in (0, right, below, below + right))
        left_top, right_top, left_bottom, right_bottom = (corner.view(x.shape) for corner in corners)
        top, bottom = left_top.lerp_(right_top, share_x), left_bottom.lerp_(right_bottom, share_x)
        components.append(top.lerp_(bottom, share_y))
    return components


@cache
def _remap_is_exact() -> bool:
    """Whether this OpenCV samples floats at exact positions, as 5.0 does; before, it rounds them to 1/32 pixel."""
    ramp = np.tile(np.arange(64, dtype=np.float32), (2, 1))
    x, y = np.arange(63, dtype=np.float32)[None] + 0.3, np.full((1, 63), 0.7, np.float32)
    return bool(np.abs(cv2.remap(ramp, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) - x).max() < 1e-5)


def visible_pixels(flow: Tensor | np.ndarray, backward_flow: Tensor | np.ndarray) -> Tensor:
    """Pixels of frame t that the forward-backward check finds visible in frame t+1.

    Compute it once where several metrics look at the same pair, and give it to them as ``valid``: the counts are
    those that ``backward_flow`` gives.

    Args:
        flow: from t to t+1, float ``[2, H, W]``, pixels.
        backward_flow: from t+1 to t, same shape.

    Returns:
        bool ``[H, W]``.

    Raises:
        ValueError: wrong dtypes or sizes, or values that are not finite.

    Source: Sundaram et al., Dense point trajectories, ECCV 2010, equation 5.
    """
    like = torch.zeros(1, *flow.shape[-2:], dtype=torch.uint8, device=getattr(flow, "device", "cpu"))
    return agreeing_pixels(*(as_flow(f, n, like)[0] for f, n in ((flow, "flow"), (backward_flow, "backward_flow"))))


def agreeing_pixels(forward: Tensor, backward: Tensor) -> Tensor:
    """:func:`visible_pixels` of float32 tensors ``[2, H, W]`` on one device, unchecked: nothing is read back."""
    visible, backward = torch.empty(forward.shape[1:], dtype=torch.bool, device=forward.device), backward.contiguous()
    for rows in row_blocks(visible):
        x, y = pixel_positions(visible, rows)
        step = [plane[rows] for plane in forward]
        visible[rows] = ~_occluded(step, _read_flow(backward, x + step[0], y + step[1]))
    return visible


def second_step_visible(
    flow_ab: Tensor | np.ndarray, flow_bc: Tensor | np.ndarray, backward_bc: Tensor | np.ndarray
) -> Tensor:
    """Pixels of frame a that the forward-backward check finds visible on their way from frame b to frame c.

    They arrive in b by ``flow_ab``, between its pixels, so that the visible pixels of b do not say it. Together with
    :func:`visible_pixels` of a and b, this is what :func:`warp_labels` finds of two steps that are checked.

    Args:
        flow_ab, flow_bc: forward flows, float ``[2, H, W]``, pixels.
        backward_bc: the flow c -> b, same shape.

    Returns:
        bool ``[H, W]``.

    Raises:
        ValueError: wrong dtypes or sizes, or values that are not finite.
    """
    like = torch.zeros(1, *flow_ab.shape[-2:], dtype=torch.uint8, device=getattr(flow_ab, "device", None))
    named = (flow_ab, "flow_ab"), (flow_bc, "flow_bc"), (backward_bc, "backward_bc")
    first, second, backward = (as_flow(flow, name, like)[0] for flow, name in named)
    visible = torch.empty(like.shape[1:], dtype=torch.bool, device=first.device)
    for rows in row_blocks(like[0]):
        x, y = pixel_positions(like[0], rows)
        x, y = x + first[0, rows], y + first[1, rows]
        step = _read_flow(second, x, y)
        visible[rows] = ~_occluded(step, _read_flow(backward, x + step[0], y + step[1]))
    return visible


def _occluded(forward: Sequence[Tensor], backward: Sequence[Tensor]) -> Tensor:
    """bool ``[h, w]``: ``|f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5``, two planes ``[h, w]`` of each flow in pixels.

    Source: Sundaram et al., Dense point trajectories, ECCV 2010, equation 5.
    """
    gap_x, gap_y = forward[0] + backward[0], forward[1] + backward[1]
    gap = gap_x.mul_(gap_x).addcmul_(gap_y, gap_y)
    for part in (*forward, *backward):
        gap.addcmul_(part, part, value=-0.01)
    return gap.gt_(0.5).bool()
