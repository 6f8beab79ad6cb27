"""Length of the channel vector at every pixel."""

import torch
from torch import Tensor, nn

from flownet.ops import cupy_backend
from flownet.ops.backend import (
    accumulation_dtype,
    check_backend,
    check_input,
    refuse_double_backward,
    use_cupy,
)

# keeps the gradient of a zero vector at 0 instead of NaN
EPSILON = 1e-9


def channelnorm(x: Tensor, norm_deg: int = 2, *, backend: str = "auto") -> Tensor:
    """Euclidean norm over the channels.

    The backward pass divides by ``norm + 1e-9``, so the gradient of a zero vector is 0; there is no second
    derivative.

    Args:
        x: float ``[N, C, H, W]``. Half precision is accumulated in float32.
        norm_deg: only 2, the published operator's only working value.
        backend: ``"auto"``, ``"torch"`` or ``"cupy"``.

    Returns:
        ``[N, 1, H, W]``, dtype of ``x``, at least 0.

    Raises:
        ValueError: wrong rank, dtype, norm or backend.

    Source: the published code of FlowNet 2.0 (brightness error and flow magnitude).
    """
    check_input("x", x)
    check_backend(backend, x)
    if norm_deg != 2:
        raise ValueError(f"norm_deg must be 2, got {norm_deg}")
    return _channelnorm(x, backend)


class ChannelNorm(nn.Module):
    """:func:`channelnorm` as a module."""

    def __init__(self, norm_deg: int = 2, *, backend: str = "auto") -> None:
        super().__init__()
        self.norm_deg = norm_deg
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return channelnorm(x, self.norm_deg, backend=self.backend)


@torch.library.custom_op("flownet::channelnorm", mutates_args=())
def _channelnorm(x: Tensor, backend: str) -> Tensor:
    if use_cupy(backend, x):
        return cupy_backend.channelnorm(x)
    return _norm(x).to(x.dtype)


@_channelnorm.register_fake
def _(x, backend):
    return x.new_empty(x.shape[0], 1, x.shape[2], x.shape[3])


@torch.library.custom_op("flownet::channelnorm_grad", mutates_args=())
def _channelnorm_grad(grad: Tensor, x: Tensor, backend: str) -> Tensor:
    if use_cupy(backend, x):
        return cupy_backend.channelnorm_grad(grad, x)
    # the norm is computed again: keeping it would cost memory, and in half precision its rounding too
    norm = _norm(x)
    return (grad.to(norm.dtype) / (norm + EPSILON) * x).to(x.dtype).contiguous()


@_channelnorm_grad.register_fake
def _(grad, x, backend):
    return x.new_empty(x.shape)


def _norm(x: Tensor) -> Tensor:
    # a hundred times faster on a CPU than torch.linalg.vector_norm along this dimension
    return x.to(accumulation_dtype(x)).square().sum(1, keepdim=True).sqrt_().contiguous()


def _save(ctx, inputs, output) -> None:
    x, ctx.backend = inputs
    ctx.save_for_backward(x)


def _backward(ctx, grad):
    (x,) = ctx.saved_tensors
    return _channelnorm_grad(grad, x, ctx.backend), None


_channelnorm.register_autograd(_backward, setup_context=_save)
_channelnorm_grad.register_autograd(refuse_double_backward("channelnorm"))
