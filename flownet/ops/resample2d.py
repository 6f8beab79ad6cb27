"""Backward warping of an image by a flow in pixels."""

from collections.abc import Iterator
from itertools import product

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
        pixels, total = source[n], None
        row_taps = _axis_taps(rows, height, kernel_size, bilinear)
        column_taps = _axis_taps(columns, width, kernel_size, bilinear)
        for (row, row_weight, _), (column, column_weight, _) in product(row_taps, column_taps):
            gathered = _gather(pixels, _flat_index(row, column, height, width)).to(dtype)
            weight = row_weight * column_weight
            total = gathered.mul_(weight) if total is None else total.addcmul_(gathered, weight)
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
        row_taps = _axis_taps(rows, height, kernel_size, bilinear)
        column_taps = _axis_taps(columns, width, kernel_size, bilinear)
        for (row, row_weight, _), (column, column_weight, _) in product(row_taps, column_taps):
            out[n].index_add_(
                1, _flat_index(row, column, height, width), incoming * (row_weight * column_weight)
            )
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
        row_taps = _axis_taps(rows, height, kernel_size, bilinear)
        column_taps = _axis_taps(columns, width, kernel_size, bilinear)
        for (row, row_weight, row_slope), (column, column_weight, column_slope) in product(
            row_taps, column_taps
        ):
            agreement = (
                _gather(pixels, _flat_index(row, column, height, width)).to(dtype).mul_(incoming).sum(0)
            )
            total[0].addcmul_(agreement, row_weight, value=column_slope)
            total[1].addcmul_(agreement, column_weight, value=row_slope)
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


def _flat_index(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    # int32 arithmetic is several times faster than int64 on a CPU
    if height * width >= 2**31:
        row = row.long()
    return (row * width + column).long()


def _gather(pixels: Tensor, index: Tensor) -> Tensor:
    # unlike index_select, gather uses all cores along the last dimension; the expanded index takes no memory
    return pixels.gather(1, index.expand(pixels.shape[0], -1))


def _axis_taps(
    position: Tensor, size: int, kernel_size: int, bilinear: bool
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Index, weight and derivative of the weight by the position, of every tap along one axis."""
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
            yield (start + step).clamp_(max=size - 1) if step else start, weight, slope


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
