"""Correlation of two feature maps over a square of displacements."""

import torch
from torch import Tensor, nn

from flownet.ops import cupy_backend
from flownet.ops.backend import (
    check_backend,
    check_input,
    check_same_device,
    refuse_double_backward,
    use_cupy,
)
from flownet.ops.correlation_torch import correlation_backward, correlation_forward, make_plan


def correlation(
    f1: Tensor,
    f2: Tensor,
    pad_size: int = 20,
    kernel_size: int = 1,
    max_displacement: int = 20,
    stride1: int = 1,
    stride2: int = 2,
    *,
    backend: str = "auto",
) -> Tensor:
    """Mean product of a window of ``f1`` with windows of ``f2`` displaced by up to ``max_displacement``.

    Both maps are padded by ``pad_size`` zeros. Output position (i, j) is centred at ``(i, j) * stride1 +
    max_displacement`` of the padded ``f1``; channel ``(dy + R) * D + (dx + R)`` compares it with ``f2``
    displaced by ``(dx, dy) * stride2``, where ``R = max_displacement // stride2`` and ``D = 2 * R + 1``. The
    sum of the products over window and channels is divided by ``kernel_size**2 * C``; what lies outside the
    padded maps counts as 0. The defaults are FlowNetC's. There is no second derivative.

    Args:
        f1: float ``[N, C, H, W]``. Half precision is accumulated in float32.
        f2: same shape, dtype and device.
        pad_size: zeros added on each side, at least 0.
        kernel_size: side of the window, odd.
        max_displacement: in pixels of the maps, at least 0.
        stride1: distance of the output positions, at least 1.
        stride2: distance of the displacements, at least 1.
        backend: ``"auto"``, ``"torch"`` or ``"cupy"``.

    Returns:
        ``[N, D * D, oh, ow]``, dtype of ``f1``. ``oh = ceil((H + 2 * (pad_size - border)) / stride1)`` with
        ``border = max_displacement + kernel_size // 2``, and ``ow`` likewise.

    Raises:
        ValueError: inputs of different shape, dtype or device, settings out of range, empty output.

    Source: Dosovitskiy et al., FlowNet, ICCV 2015, eq. 1, in the arithmetic of the FlowNet 2.0 code.
    """
    check_input("f1", f1)
    check_input("f2", f2)
    check_same_device("f1", f1, "f2", f2)
    check_backend(backend, f1, f2)
    if f1.shape != f2.shape:
        raise ValueError(f"f1 {tuple(f1.shape)} and f2 {tuple(f2.shape)} differ in shape")
    if f1.dtype != f2.dtype:
        raise ValueError(f"f1 is {f1.dtype} but f2 {f2.dtype}")
    _check_settings(pad_size, kernel_size, max_displacement, stride1, stride2)
    height, width = _output_size(f1, pad_size, kernel_size, max_displacement, stride1)
    if height < 1 or width < 1:
        raise ValueError(
            f"maps of {tuple(f1.shape[2:])} with pad_size {pad_size}, kernel_size {kernel_size} and "
            f"max_displacement {max_displacement} leave no output position"
        )
    return _correlation(f1, f2, pad_size, kernel_size, max_displacement, stride1, stride2, backend)


class Correlation(nn.Module):
    """:func:`correlation` as a module; the defaults are FlowNetC's."""

    def __init__(
        self,
        pad_size: int = 20,
        kernel_size: int = 1,
        max_displacement: int = 20,
        stride1: int = 1,
        stride2: int = 2,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_settings(pad_size, kernel_size, max_displacement, stride1, stride2)
        self.settings = (pad_size, kernel_size, max_displacement, stride1, stride2)
        self.backend = backend

    def forward(self, f1: Tensor, f2: Tensor) -> Tensor:
        return correlation(f1, f2, *self.settings, backend=self.backend)


def _check_settings(pad_size: int, kernel_size: int, max_displacement: int, stride1: int, stride2: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if pad_size < 0 or max_displacement < 0:
        raise ValueError(f"pad_size and max_displacement must not be negative, got {pad_size} and {max_displacement}")
    if stride1 < 1 or stride2 < 1:
        raise ValueError(f"stride1 and stride2 must be at least 1, got {stride1} and {stride2}")


def _output_size(f1: Tensor, pad_size: int, kernel_size: int, max_displacement: int, stride1: int) -> tuple[int, int]:
    border = max_displacement + kernel_size // 2
    height, width = ((size + 2 * (pad_size - border) + stride1 - 1) // stride1 for size in f1.shape[2:])
    return height, width


@torch.library.custom_op("flownet::correlation", mutates_args=())
def _correlation(
    f1: Tensor,
    f2: Tensor,
    pad_size: int,
    kernel_size: int,
    max_displacement: int,
    stride1: int,
    stride2: int,
    backend: str,
) -> Tensor:
    settings = (pad_size, kernel_size, max_displacement, stride1, stride2)
    out_size = _output_size(f1, pad_size, kernel_size, max_displacement, stride1)
    if use_cupy(backend, f1):
        return cupy_backend.correlation(f1, f2, out_size, *settings)
    return correlation_forward(f1, f2, make_plan(f1, out_size, *settings))


@_correlation.register_fake
def _(f1, f2, pad_size, kernel_size, max_displacement, stride1, stride2, backend):
    height, width = _output_size(f1, pad_size, kernel_size, max_displacement, stride1)
    return f1.new_empty(f1.shape[0], (2 * (max_displacement // stride2) + 1) ** 2, height, width)


@torch.library.custom_op("flownet::correlation_grad", mutates_args=())
def _correlation_grad(
    grad: Tensor,
    f1: Tensor,
    f2: Tensor,
    pad_size: int,
    kernel_size: int,
    max_displacement: int,
    stride1: int,
    stride2: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    settings = (pad_size, kernel_size, max_displacement, stride1, stride2)
    if use_cupy(backend, f1):
        return cupy_backend.correlation_grad(grad, f1, f2, *settings)
    return correlation_backward(grad, f1, f2, make_plan(f1, grad.shape[2:], *settings))


@_correlation_grad.register_fake
def _(grad, f1, f2, pad_size, kernel_size, max_displacement, stride1, stride2, backend):
    return f1.new_empty(f1.shape), f2.new_empty(f2.shape)


def _save(ctx, inputs, output) -> None:
    f1, f2, *ctx.settings = inputs
    ctx.save_for_backward(f1, f2)


def _backward(ctx, grad):
    grad_f1, grad_f2 = _correlation_grad(grad, *ctx.saved_tensors, *ctx.settings)
    return grad_f1, grad_f2, None, None, None, None, None, None


_correlation.register_autograd(_backward, setup_context=_save)
_correlation_grad.register_autograd(refuse_double_backward("correlation"))
