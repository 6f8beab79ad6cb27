"""The warp of label ids in the arithmetic of the published CUDA kernel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from etc.metrics.warping import pixel_positions, row_blocks


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
    for rows in row_blocks(ids):
        x, y = pixel_positions(ids, rows)
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
