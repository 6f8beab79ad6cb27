"""What the metrics stand on: checked label maps and flows, labels carried along a flow, joint counts.

A label map in here is uint8 ``[H, W]`` with ids 0..K-1; K (``uncounted``) marks a pixel that takes no part.
On the CPU the work goes over blocks of rows that fit its cache; the order of operations favours those that
torch vectorises (a comparison of floats to bool, say, takes five times as long as one in place).
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Labels = Tensor | np.ndarray
IGNORE = 255

_BLOCK = 1 << 16  # pixels: the temporaries of a block stay in the second-level cache


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


def as_flow(flow: Tensor | np.ndarray | None, name: str, like: Tensor) -> Tensor | list[None]:
    """Checked flow as float32 ``[B, 2, H, W]`` beside label maps ``[B, H, W]``; None gives B times None.

    Raises ValueError for a wrong dtype, for a wrong size (naming both) and for values that are not finite.
    """
    if flow is None:
        return [None] * len(like)
    is_array = isinstance(flow, np.ndarray)
    if not (flow.dtype.kind == "f" if is_array else flow.is_floating_point()):
        raise ValueError(f"{name} must hold floats, got {flow.dtype}")
    flow = _tensor(flow, np.float32) if is_array else flow
    batch, height, width = like.shape
    if flow.shape[-3:] != (2, height, width) or flow.numel() != 2 * like.numel():
        raise ValueError(f"{name} is {list(flow.shape)}: expected {[batch, 2, height, width]} as the label maps")
    flow = flow.to(like.device, torch.float32).reshape(batch, 2, height, width)
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


def joint_counts(rows: Tensor, columns: Tensor, num_classes: int) -> Tensor:
    """int64 ``[K+1, K+1]`` of two equally shaped maps of integers 0..K."""
    side = num_classes + 1
    counts = torch.zeros(side * side, dtype=torch.int64, device=rows.device)
    block = _BLOCK if rows.device.type == "cpu" else max(1, rows.numel())
    for r, c in zip(rows.flatten().split(block), columns.flatten().split(block), strict=True):
        counts += torch.bincount(r.to(torch.int32).mul_(side).add_(c), minlength=side * side)
    return counts.view(side, side)


def uncount(labels: Tensor, mask: Tensor, uncounted: int) -> Tensor:
    """The labels with ``uncounted``, the largest id, where the bool mask is set."""
    return torch.maximum(labels, mask.view(torch.uint8) * uncounted)  # masked_fill takes 10 times as long


def labels_along(maps: list[Tensor], flows: list[Tensor], backwards: list[Tensor | None], uncounted: int) -> Tensor:
    """The labels that the pixels of frame 0 meet as they move through the n frames after it.

    A position starts at its pixel and moves by flow 0; from frame i it moves on by flow i, sampled
    bilinearly. Labels are read at the nearest pixel, ``floor(x + 0.5)``. A step is checked for occlusion
    against the backward flow, sampled bilinearly where the step ends.

    Args:
        maps: label maps of frames 1..n, uint8 ``[H, W]``; ids beyond ``uncounted`` count as it.
        flows: from frame i to i+1 for i = 0..n-1, float32 ``[2, H, W]``.
        backwards: from frame i+1 to i, or None for a step that is not checked.
        uncounted: the id K.

    Returns:
        uint8 ``[n, H, W]``: K where the position lies outside the frame or the step to it is occluded.
    """
    framed = [F.pad(ids.clamp(max=uncounted), (1, 1, 1, 1), value=uncounted) for ids in maps]
    met = torch.empty(len(maps), *maps[0].shape, dtype=torch.uint8, device=maps[0].device)
    for rows in _row_blocks(maps[0]):
        x, y = _pixel_positions(maps[0], rows)
        step = flows[0][:, rows]
        for i, backward in enumerate(backwards):
            if i:
                step = _read_flow(flows[i], x, y)
            x, y = x + step[0], y + step[1]
            labels = _read_nearest(framed[i], x, y)
            if backward is not None:
                labels = uncount(labels, _occluded(step, _read_flow(backward, x, y)), uncounted)
            met[i, rows] = labels
    return met


def warp_published(ids: Tensor, flow: Tensor) -> Tensor:
    """Warps ids as the published CUDA kernel does: bilinear, corners clamped, truncated to uint8.

    With a and b the float32 fractions, the products ``(1-a)(1-b) TL``, ``a (1-b) TR`` and ``(1-a) b BL`` are
    formed in float64 and summed in float32; the last one is a float32 ``fma(a * b, BR, sum)``. The last bits
    decide what a pixel is cut to.

    Args:
        ids: uint8 ``[H, W]``.
        flow: float32 ``[2, H, W]``.

    Returns:
        uint8 ``[H, W]``.
    """
    height, width = ids.shape
    # with a border of copies, the four corners are one index into four shifted views
    padded, stride = F.pad(ids[None], (1, 1, 1, 1), mode="replicate").flatten(), width + 2
    views = [padded[shift:] for shift in (0, 1, stride, stride + 1)]
    small_ids = bool(ids.max() < 128)
    warped = torch.empty_like(ids)
    for rows in _row_blocks(ids):
        x, y = _pixel_positions(ids, rows)
        x, y = (x + flow[0, rows]).flatten(), (y + flow[1, rows]).flatten()
        left, top = x.floor(), y.floor()
        a, b = x.sub_(left), y.sub_(top)
        # From position 1 on, fractions are multiples of 2^-23 and the terms of 2^-46; up to id 127 their sum
        # then fits the 53 bits of a float64. Elsewhere the fma has to look closer.
        inexact = torch.minimum(left, top).le_(0).bool() if small_ids else torch.ones_like(a).bool()
        row, column = top.clamp_(-1, height - 1).to(torch.int32), left.clamp_(-1, width - 1).to(torch.int32)
        index = row.mul_(stride).add_(column).add_(stride + 1)
        tl, tr, bl, br = (view.index_select(0, index).to(torch.float64) for view in views)
        a64, b64 = a.to(torch.float64), b.to(torch.float64)
        rest_a, rest_b = 1 - a64, 1 - b64
        total = tl.mul_(rest_a * rest_b).to(torch.float32)
        total += a64.mul_(rest_b).mul_(tr).to(torch.float32)
        total += b64.mul_(rest_a).mul_(bl).to(torch.float32)
        warped[rows] = _fma32(a.mul_(b), br, total, inexact).view(-1, width)  # to uint8: truncates
    return warped


def _fma32(x: Tensor, y: Tensor, z: Tensor, inexact: Tensor) -> Tensor:
    """``x * y + z`` rounded once to float32; 1-D, x and z float32 >= 0, y float64 with integers 0..255.

    x * y has at most 24 + 8 bits and is exact in float64. Where the sum is not (``inexact``, bool), rounding
    it again to float32 can go wrong beside a tie. There it is rounded to odd: an even last bit moves one step
    towards what was lost, which Knuth's TwoSum tells exactly; then the second rounding is right (Boldo and
    Melquiond, Emulation of a FMA and correctly rounded sums, IEEE Transactions on Computers 2008).
    """
    product, z = y.mul_(x), z.to(torch.float64)
    total = product + z
    where = inexact.nonzero().squeeze(1)
    product, z, odd = product[where], z[where], total[where]
    shadow = odd - z
    lost = (product - shadow) + (z - (odd - shadow))
    bits = odd.view(torch.int64)  # doubles >= 0 are ordered as their bits
    bits += lost.sign().to(torch.int64) * (1 - (bits & 1))
    total[where] = odd
    return total.to(torch.float32)


def boundary_band(ids: Tensor, reach: int, uncounted: int) -> Tensor:
    """bool ``[H, W]``: pixels whose square of side 2 reach + 1, cut at the frame, holds two classes.

    ``ids`` is uint8 with ``uncounted`` as its largest value, which is no class.
    """
    rising = (ids + 1) * (ids < uncounted)  # class c as c + 1, uncounted as 0
    falling = uncounted - ids  # class c as K - c, uncounted as 0
    highest, lowest = (_square_max(values, reach).to(torch.int16) for values in (rising, falling))
    return highest + lowest > uncounted + 1  # one class alone gives K + 1


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


def _row_blocks(ids: Tensor) -> Iterator[slice]:
    height, width = ids.shape
    block = max(1, _BLOCK // width) if ids.device.type == "cpu" else height
    for first in range(0, height, block):
        yield slice(first, min(first + block, height))


def _pixel_positions(ids: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels of some rows, float32: x ``[W]`` and y ``[rows, 1]``."""
    x = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
    return x, torch.arange(rows.start, rows.stop, device=ids.device, dtype=torch.float32)[:, None]


def _read_nearest(framed: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Labels at ``floor(x + 0.5)``; the border of one uncounted pixel stands for all that lies outside."""
    height, width = framed.shape[0] - 2, framed.shape[1] - 2
    column = (x + 0.5).floor_().clamp_(-1, width).to(torch.int32)
    row = (y + 0.5).floor_().clamp_(-1, height).to(torch.int32)
    index = row.mul_(width + 2).add_(column).add_(width + 3)  # the border shifts both by one
    return framed.flatten().index_select(0, index.flatten()).view(x.shape)


def _read_flow(flow: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Flow ``[2, H, W]`` sampled bilinearly at pixel positions, borders clamped: ``[2, *x.shape]``.

    grid_sample counts in half images, which moves a position by up to 2e-4 pixels at a width of 2048: nothing
    to a flow, and half the time of reading the four corners one by one.
    """
    height, width = flow.shape[1:]
    grid = torch.complex((x * (2 / width)).add_(1 / width - 1), (y * (2 / height)).add_(1 / height - 1))
    grid = torch.view_as_real(grid)  # interleaves x and y in one pass
    return F.grid_sample(flow[None], grid[None], padding_mode="border", align_corners=False)[0]


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
    like = torch.zeros(1, *flow.shape[-2:], dtype=torch.uint8, device=getattr(flow, "device", None))
    forward, backward = (as_flow(f, n, like)[0] for f, n in ((flow, "flow"), (backward_flow, "backward_flow")))
    visible = torch.empty(like.shape[1:], dtype=torch.bool, device=forward.device)
    for rows in _row_blocks(like[0]):
        x, y = _pixel_positions(like[0], rows)
        step = forward[:, rows]
        visible[rows] = ~_occluded(step, _read_flow(backward, x + step[0], y + step[1]))
    return visible


def _occluded(forward: Tensor, backward: Tensor) -> Tensor:
    """bool ``[h, w]``: ``|f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5``, flows ``[2, h, w]`` in pixels.

    Source: Sundaram et al., Dense point trajectories, ECCV 2010, equation 5.
    """
    gap_x, gap_y = forward[0] + backward[0], forward[1] + backward[1]
    gap = gap_x.mul_(gap_x).addcmul_(gap_y, gap_y)
    size = forward[0] * forward[0]
    for part in (forward[1], backward[0], backward[1]):
        size.addcmul_(part, part)
    return gap.sub_(size, alpha=0.01).gt_(0.5).bool()
