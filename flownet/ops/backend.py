"""Which implementation an operator runs on, and the checks that all operators share."""

import functools
import logging

import torch
from torch import Tensor

BACKENDS = ("auto", "torch", "cupy")
FLOAT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CUPY_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

logger = logging.getLogger(__name__)


def check_backend(backend: str, *tensors: Tensor) -> None:
    """Refuse an unknown backend, and cupy for tensors that it has no kernels for.

    Raises:
        ValueError: unknown name, or ``"cupy"`` for a tensor outside CUDA or of another dtype than
            float32, float16 and bfloat16.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "cupy":
        for tensor in tensors:
            if tensor.device.type != "cuda" or tensor.dtype not in CUPY_DTYPES:
                raise ValueError(
                    "backend 'cupy' takes float32, float16 or bfloat16 on a CUDA device, "
                    f"got {tensor.dtype} on {tensor.device}"
                )


def check_input(name: str, tensor: Tensor, channels: int | None = None) -> None:
    """Refuse anything but a floating point ``[N, C, H, W]`` with at least one channel, row and column.

    Raises:
        ValueError: wrong rank, empty image, wrong number of channels or wrong dtype.
    """
    shape = tuple(tensor.shape)
    if len(shape) != 4 or shape[1] < 1 or shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"{name} must be a non-empty [N, C, H, W], got {shape}")
    if channels is not None and shape[1] != channels:
        raise ValueError(f"{name} must have {channels} channels, got {shape}")
    if tensor.dtype not in FLOAT_DTYPES:
        raise ValueError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")


def check_same_device(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Refuse two tensors on different devices.

    Raises:
        ValueError: the devices differ.
    """
    if first.device != second.device:
        raise ValueError(f"{first_name} is on {first.device} but {second_name} on {second.device}")


def use_cupy(backend: str, *tensors: Tensor) -> bool:
    """Whether the cupy kernels run; ``"auto"`` takes them for CUDA tensors where cupy can compile and run one.

    float64 on CUDA stays on the torch backend under ``"auto"``: the kernels accumulate in float32.
    """
    if backend == "auto":
        fit = all(tensor.device.type == "cuda" and tensor.dtype in CUPY_DTYPES for tensor in tensors)
        return fit and _cupy_found()
    return backend == "cupy"


@functools.cache
def _cupy_found() -> bool:
    try:
        import cupy

        # With an older driver, or without NVRTC, it imports, and fails at the first kernel.
        cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")((1,), (1,), ())
    except ImportError:
        logger.warning("flownet operators on CUDA: torch backend; with cupy installed they are faster")
        return False
    except Exception as error:  # of cupy, its driver or its compiler, each with kinds of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("flownet operators on CUDA: torch backend, because cupy does not work here: %s", reason)
        return False
    logger.info("flownet operators on CUDA: cupy backend")
    return True


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float32 for half precision, else the widest of the inputs."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def refuse_double_backward(name: str):
    """Autograd formula for a backward op: reaching it means that somebody asked for a second derivative."""

    def backward(ctx, *grads):
        raise NotImplementedError(f"{name} has no second derivative")

    return backward
