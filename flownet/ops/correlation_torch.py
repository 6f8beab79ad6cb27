"""Torch backend of the correlation: one matrix product per row, not one pass over the maps per displacement.

The products of a row of ``f1`` with the displaced rows of ``f2`` form one matrix, of which the correlation is
a band of diagonals. The whole matrix takes about three times the arithmetic that is needed, but reads each
feature once where a loop over 441 displacements reads it 441 times.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from flownet.ops.backend import accumulation_dtype

# Rows multiplied at once on a CPU, whose matrices should stay in the cache; more are no faster and take more memory.
# A GPU takes all of them.
ROWS_AT_ONCE = 4


class Plan(NamedTuple):
    """Sizes for one setting and one size of map.

    Rows and columns are split into ``stride2`` interleaved sets each: a displacement by a multiple of
    ``stride2`` never leaves its set, and is a displacement by whole steps inside it.
    """

    channels: int
    height: int
    width: int
    kernel: int
    stride1: int
    stride2: int
    reach: int  # displacements are -reach..reach steps
    start: int  # row and column of the first product in the unpadded maps
    out_height: int
    out_width: int

    @property
    def side(self) -> int:
        return 2 * self.reach + 1

    @property
    def dense_height(self) -> int:
        """Rows at which products are needed: those of the outputs and of their windows."""
        return (self.out_height - 1) * self.stride1 + self.kernel

    @property
    def dense_width(self) -> int:
        return (self.out_width - 1) * self.stride1 + self.kernel

    @property
    def set_height(self) -> int:
        return -(-self.dense_height // self.stride2)

    @property
    def set_width(self) -> int:
        return -(-self.dense_width // self.stride2)

    @property
    def scale(self) -> float:
        return 1.0 / (self.kernel * self.kernel * self.channels)

    def placement(self, residue: int, margin: int, size: int, set_size: int) -> tuple[slice, slice]:
        """Along one axis: the pixels of the map that belong to a set, and where in the set they go.

        ``margin`` steps are added on both sides of the set; what no pixel fills there stays zero.
        """
        step = self.stride2
        pixel = (self.start + residue) % step
        place = (pixel - self.start - residue) // step + margin
        if place < 0:
            pixel, place = pixel - place * step, 0
        count = max(0, min(-(-(size - pixel) // step), set_size + 2 * margin - place))
        return slice(pixel, pixel + count * step, step), slice(place, place + count)


def make_plan(
    f1: Tensor,
    out_size: Sequence[int],
    pad_size: int,
    kernel_size: int,
    max_displacement: int,
    stride1: int,
    stride2: int,
) -> Plan:
    channels, height, width = f1.shape[1:]
    return Plan(
        channels=channels,
        height=height,
        width=width,
        kernel=kernel_size,
        stride1=stride1,
        stride2=stride2,
        reach=max_displacement // stride2,
        start=max_displacement - pad_size - kernel_size // 2,
        out_height=out_size[0],
        out_width=out_size[1],
    )


def correlation_forward(f1: Tensor, f2: Tensor, plan: Plan) -> Tensor:
    dtype = accumulation_dtype(f1)
    side = plan.side
    out = f1.new_empty(f1.shape[0], side * side, plan.out_height, plan.out_width)
    # with a window of 1 and a stride of 1 the products are the output, and need no memory of their own
    direct = plan.kernel == 1 and plan.stride1 == 1 and f1.dtype == dtype
    for n in range(f1.shape[0]):
        target = out[n].view(side, side, plan.out_height, plan.out_width)
        dense = target if direct else f1.new_empty(side, side, plan.dense_height, plan.dense_width, dtype=dtype)
        for at in product(range(plan.stride2), repeat=2):
            _products(_split(f1[n], plan, 0, at), _split(f2[n], plan, plan.reach, at), plan, _part(dense, plan, at))
        if not direct:
            target.copy_(sum(_windows(dense, plan), start=dense.new_zeros(())))
    return out


def correlation_backward(grad: Tensor, f1: Tensor, f2: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(f1)
    side = plan.side
    grad_f1, grad_f2 = f1.new_zeros(f1.shape), f2.new_zeros(f2.shape)
    for n in range(f1.shape[0]):
        dense = torch.zeros(side, side, plan.dense_height, plan.dense_width, dtype=dtype, device=grad.device)
        for window in _windows(dense, plan):
            window += grad[n].reshape(side, side, plan.out_height, plan.out_width)
        for at in product(range(plan.stride2), repeat=2):
            first, second = _split(f1[n], plan, 0, at), _split(f2[n], plan, plan.reach, at)
            grad_first, grad_second = _product_gradients(first, second, plan, _part(dense, plan, at))
            _merge(grad_first, plan, 0, at, grad_f1[n])
            _merge(grad_second, plan, plan.reach, at, grad_f2[n])
    return grad_f1, grad_f2


def _split(features: Tensor, plan: Plan, margin: int, at: Sequence[int]) -> Tensor:
    """One set ``[rows, columns, C]`` of ``[C, H, W]``, zero outside the map; one at a time, which saves memory."""
    size = (plan.set_height + 2 * margin, plan.set_width + 2 * margin, plan.channels)
    chosen = torch.zeros(size, dtype=accumulation_dtype(features), device=features.device)
    pixels, places = _placement(plan, margin, at)
    chosen[places] = features[pixels].permute(1, 2, 0)
    return chosen


def _merge(chosen: Tensor, plan: Plan, margin: int, at: Sequence[int], out: Tensor) -> None:
    """The transpose of :func:`_split`: writes every pixel of ``out [C, H, W]`` that the set holds."""
    pixels, places = _placement(plan, margin, at)
    out[pixels] = chosen[places].permute(2, 0, 1)


def _placement(plan: Plan, margin: int, at: Sequence[int]) -> tuple[tuple, tuple]:
    """The pixels of a map ``[C, H, W]`` that belong to the set of row and column residue ``at``, and their places."""
    rows, row_places = plan.placement(at[0], margin, plan.height, plan.set_height)
    columns, column_places = plan.placement(at[1], margin, plan.width, plan.set_width)
    return (slice(None), rows, columns), (row_places, column_places)


def _part(dense: Tensor, plan: Plan, at: Sequence[int]) -> Tensor:
    """The dense products ``[D, D, rows, columns]`` that belong to a set, as a view."""
    return dense[:, :, at[0] :: plan.stride2, at[1] :: plan.stride2]


def _windows(dense: Tensor, plan: Plan) -> Iterator[Tensor]:
    """For each position in the window, the products there of all outputs, ``[D, D, oh, ow]``, as views."""
    rows, columns = (plan.out_height - 1) * plan.stride1 + 1, (plan.out_width - 1) * plan.stride1 + 1
    for ky in range(plan.kernel):
        for kx in range(plan.kernel):
            yield dense[:, :, ky : ky + rows : plan.stride1, kx : kx + columns : plan.stride1]


def _tiles(part: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows of a set, and their products ``[D, D, rows, columns]``."""
    step = ROWS_AT_ONCE if part.device.type == "cpu" else max(1, part.shape[2])
    for top in range(0, part.shape[2], step):
        rows = slice(top, min(top + step, part.shape[2]))
        yield rows, part[:, :, rows]


def _band(matrix: Tensor, plan: Plan) -> Tensor:
    """View ``[D, D, rows, columns]`` of the diagonals of ``[rows, columns, D * wide]`` that correlate."""
    rows, columns, length = matrix.shape
    strides = (length // plan.side, 1, columns * length, length + 1)
    return matrix.as_strided((plan.side, plan.side, rows, columns), strides)


def _shifted_rows(second: Tensor, rows: slice, plan: Plan) -> Tensor:
    """For each row the D rows that it is compared with: an overlapping view ``[rows, D * wide, C]``."""
    _, wide, channels = second.shape
    size = (rows.stop - rows.start, plan.side * wide, channels)
    offset = second.storage_offset() + rows.start * wide * channels
    return second.as_strided(size, (wide * channels, channels, 1), offset)


def _products(first: Tensor, second: Tensor, plan: Plan, part: Tensor) -> None:
    for rows, out in _tiles(part):
        matrix = torch.bmm(first[rows], _shifted_rows(second, rows, plan).mT)
        torch.mul(_band(matrix, plan)[..., : out.shape[3]], plan.scale, out=out)


def _product_gradients(first: Tensor, second: Tensor, plan: Plan, part: Tensor) -> tuple[Tensor, Tensor]:
    grad_first, grad_second = torch.zeros_like(first), torch.zeros_like(second)
    wide, channels = second.shape[1:]
    for rows, grad in _tiles(part):
        matrix = first.new_zeros(grad.shape[2], first.shape[1], plan.side * wide)
        torch.mul(grad, plan.scale, out=_band(matrix, plan)[..., : grad.shape[3]])
        grad_first[rows] = torch.bmm(matrix, _shifted_rows(second, rows, plan))
        # the shifted rows of neighbouring rows overlap, so they are added one after the other
        for row in range(rows.start, rows.stop):
            target = grad_second[row : row + plan.side].view(plan.side * wide, channels)
            target.addmm_(matrix[row - rows.start].mT, first[row])
    return grad_first, grad_second
