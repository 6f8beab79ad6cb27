"""Backward warping of an image by a flow in pixels."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flownet.ops import cupy_backend
from flownet.ops.backend import (
    accumulation_dtype,
    check_backend,
    check_input,
    check_same_device,
    refuse_double_backward,
    use_cupy,
)

# Output pixels handled at a time on a CPU: index, weights and gathered channels then stay near the cache, and
# the memory needed beside the result does not grow with the image. A GPU takes a whole sample at once.
PIXELS_AT_ONCE = 65536


def resample2d(
    image: Tensor, flow: Tensor, kernel_size: int = 1, bilinear: bool = True, *, backend: str = "auto"
) -> Tensor:
    """Sample ``image`` at ``(x + u, y + v)`` for every pixel of ``flow``.

    Bilinear: the corners ``floor`` and ``floor + 1`` are each clamped into the image, the weights come from
    the unclamped fraction. Nearest: ``floor(x + u + 0.5)``, clamped. Zero flow returns the image bit for bit.
    The gradient is the exact derivative, to image and flow; there is no second derivative.

    Args:
        image: float ``[N, C, H, W]``, any range. Half precision is accumulated in float32.
        flow: float ``[N, 2, h, w]`` in pixels, channel 0 to the right, channel 1 down; may differ from
            ``image`` in dtype and in height and width.
        kernel_size: sums a block of this side starting at each corner, clamped into the image.
        bilinear: bilinear or nearest.
        backend: ``"auto"``, ``"torch"`` or ``"cupy"``.

    Returns:
        ``[N, C, h, w]``, dtype of ``image``, contiguous.

    Raises:
        ValueError: wrong rank, channels, batch, dtype, device, kernel size or backend.

    Source: Ilg et al., FlowNet 2.0, CVPR 2017 (the warping layer), in the arithmetic of the published code.
    """
    check_input("image", image)
    check_input("flow", flow, channels=2)
    check_same_device("image", image, "flow", flow)
    check_backend(backend, image, flow)
    if image.shape[0] != flow.shape[0]:
        raise ValueError(f"image {tuple(image.shape)} and flow {tuple(flow.shape)} differ in batch size")
    if kernel_size < 1:
        raise ValueError(f"kernel_size must be at least 1, got {kernel_size}")
    return _resample2d(image, flow, kernel_size, bilinear, backend)


class Resample2d(nn.Module):
    """:func:`resample2d` as a module."""

    def __init__(self, kernel_size: int = 1, bilinear: bool = True, *, backend: str = "auto") -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.bilinear = bilinear
        self.backend = backend

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        return resample2d(image, flow, self.kernel_size, self.bilinear, backend=self.backend)


@torch.library.custom_op("flownet::resample2d", mutates_args=())
def _resample2d(image: Tensor, flow: Tensor, kernel_size: int, bilinear: bool, backend: str) -> Tensor:
    if use_cupy(backend, image, flow):
        return cupy_backend.resample2d(image, flow, kernel_size, bilinear)
    batch, channels, height, width = image.shape
    dtype = accumulation_dtype(image, flow)
    source = image.reshape(batch, channels, height * width)
    out = image.new_empty(batch, channels, flow.shape[2] * flow.shape[3])
    for n, band, rows, columns in _bands(flow, dtype):
        pixels = source[n]
        taps = _taps(rows, columns, height, width, kernel_size, bilinear)
        index, row, column = next(taps)
        total = _gather(pixels, index).to(dtype).mul_(row.weight * column.weight)
        for index, row, column in taps:
            total.addcmul_(_gather(pixels, index).to(dtype), row.weight * column.weight)
        out[n, :, band] = total
    return out.view(batch, channels, *flow.shape[2:])


@_resample2d.register_fake
def _(image, flow, kernel_size, bilinear, backend):
    return image.new_empty(image.shape[0], image.shape[1], flow.shape[2], flow.shape[3])


# Two backward ops: training warps by a flow that needs no gradient, and should not pay for one.
@torch.library.custom_op("flownet::resample2d_grad_image", mutates_args=())
def _resample2d_grad_image(
    grad: Tensor, image: Tensor, flow: Tensor, kernel_size: int, bilinear: bool, backend: str
) -> Tensor:
    if use_cupy(backend, image, flow):
        return cupy_backend.resample2d_grad_image(grad, image, flow, kernel_size, bilinear)
    batch, channels, height, width = image.shape
    dtype = accumulation_dtype(image, flow)
    grad = grad.reshape(batch, channels, -1)
    out = torch.zeros(batch, channels, height * width, dtype=dtype, device=image.device)
    for n, band, rows, columns in _bands(flow, dtype):
        incoming = grad[n, :, band].to(dtype)
        share = torch.empty_like(incoming)
        for index, row, column in _taps(rows, columns, height, width, kernel_size, bilinear):
            out[n].index_add_(1, index, torch.mul(incoming, row.weight * column.weight, out=share))
    return out.view(batch, channels, height, width).to(image.dtype)


@_resample2d_grad_image.register_fake
def _(grad, image, flow, kernel_size, bilinear, backend):
    return image.new_empty(image.shape)


@torch.library.custom_op("flownet::resample2d_grad_flow", mutates_args=())
def _resample2d_grad_flow(
    grad: Tensor, image: Tensor, flow: Tensor, kernel_size: int, bilinear: bool, backend: str
) -> Tensor:
    if use_cupy(backend, image, flow):
        return cupy_backend.resample2d_grad_flow(grad, image, flow, kernel_size, bilinear)
    batch, channels, height, width = image.shape
    out = torch.zeros(flow.shape, dtype=flow.dtype, device=flow.device)
    if not bilinear:
        return out
    dtype = accumulation_dtype(image, flow)
    source = image.reshape(batch, channels, height * width)
    grad = grad.reshape(batch, channels, -1)
    for n, band, rows, columns in _bands(flow, dtype):
        pixels, incoming = source[n], grad[n, :, band].to(dtype)
        total = torch.zeros(2, rows.shape[0], dtype=dtype, device=flow.device)
        for index, row, column in _taps(rows, columns, height, width, kernel_size, bilinear):
            agreement = _gather(pixels, index).to(dtype).mul_(incoming).sum(0)
            total[0].addcmul_(agreement, row.weight, value=column.slope)
            total[1].addcmul_(agreement, column.weight, value=row.slope)
        out.flatten(2)[n, :, band] = total.to(flow.dtype)
    return out


@_resample2d_grad_flow.register_fake
def _(grad, image, flow, kernel_size, bilinear, backend):
    return torch.empty(flow.shape, dtype=flow.dtype, device=flow.device)


def _bands(flow: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Sample number, pixels of the band, and the row and column that each of them samples, ``[P]``."""
    batch, _, height, width = flow.shape
    rows_at_once = max(1, PIXELS_AT_ONCE // max(width, 1)) if flow.device.type == "cpu" else max(height, 1)
    down = torch.arange(height, dtype=dtype, device=flow.device)[:, None]
    right = torch.arange(width, dtype=dtype, device=flow.device)
    for n in range(batch):
        for top in range(0, height, rows_at_once):
            part = slice(top, top + rows_at_once)
            rows, columns = down[part] + flow[n, 1, part].to(dtype), right + flow[n, 0, part].to(dtype)
            yield n, slice(top * width, (top + rows_at_once) * width), rows.flatten(), columns.flatten()


def _gather(pixels: Tensor, index: Tensor) -> Tensor:
    # index_select is the faster of the two, but along the last dimension only gather uses all cores
    if pixels.device.type == "cpu" and torch.get_num_threads() == 1:
        return pixels.index_select(1, index)
    return pixels.gather(1, index.expand(pixels.shape[0], -1))


class _Tap(NamedTuple):
    """One of the rows or columns that are read, for each of P samples."""

    place: Tensor  # row or column, int32 [P], inside the image
    weight: Tensor  # [P]
    slope: float  # derivative of the weight by the position


def _taps(
    rows: Tensor, columns: Tensor, height: int, width: int, kernel_size: int, bilinear: bool
) -> Iterator[tuple[Tensor, _Tap, _Tap]]:
    """Every pixel that is read: index ``[P]`` into the flattened image, and its row and column."""
    row_taps = _axis_taps(rows, height, kernel_size, bilinear)
    column_taps = _axis_taps(columns, width, kernel_size, bilinear)
    for row, column in product(row_taps, column_taps):
        # int32 arithmetic is several times faster than int64 on a CPU
        first = row.place if height * width < 2**31 else row.place.long()
        yield (first * width + column.place).long(), row, column


def _axis_taps(position: Tensor, size: int, kernel_size: int, bilinear: bool) -> Iterator[_Tap]:
    if bilinear:
        low = position.floor()
        fraction = position - low
        corners = [(low, 1 - fraction, -1.0), (low + 1, fraction, 1.0)]
    else:
        corners = [((position + 0.5).floor(), torch.ones_like(position), 0.0)]
    for corner, weight, slope in corners:
        # clamped again as an integer: NaN has none, and must not become an index outside the image
        start = corner.clamp(0, size - 1).int().clamp_(0, size - 1)
        for step in range(kernel_size):
            yield _Tap((start + step).clamp_(max=size - 1) if step else start, weight, slope)


def _save(ctx, inputs, output) -> None:
    image, flow, *ctx.settings = inputs
    ctx.save_for_backward(image, flow)


def _backward(ctx, grad):
    image, flow = ctx.saved_tensors
    grad_image = _resample2d_grad_image(grad, image, flow, *ctx.settings) if ctx.needs_input_grad[0] else None
    grad_flow = _resample2d_grad_flow(grad, image, flow, *ctx.settings) if ctx.needs_input_grad[1] else None
    return grad_image, grad_flow, None, None, None


_resample2d.register_autograd(_backward, setup_context=_save)
_resample2d_grad_image.register_autograd(refuse_double_backward("resample2d"))
_resample2d_grad_flow.register_autograd(refuse_double_backward("resample2d"))
