"""cupy backend: the kernels of ``flownet/cuda``, compiled by NVRTC at first use, on PyTorch's current stream.

Sizes are arguments of the kernels, so each source is compiled once a storage type, whatever the shapes. cupy
is imported where it is needed: this module can be read without it and without a GPU.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).resolve().parent.parent / "cuda"
SCALARS = {torch.float32: "float", torch.float16: "float16", torch.bfloat16: "bfloat16"}

THREADS = 256
MAX_BLOCKS = 2**31 - 1
# channels that one thread of resample2d handles, as long as the grid has room
CHANNELS_A_THREAD = 8
MAX_GRID_Y = 65535

# of correlation.cu
TILE, GROUPS, SHIFTS_EACH, CHANNELS_AT_ONCE, CHANNELS_EACH, SHIFTS_AT_ONCE = 32, 8, 3, 16, 4, 32
MAX_SHARED_BYTES = 48 * 1024


def kernel_source(name: str) -> str:
    """Source of ``name.cu``, self-contained but for the macro ``SCALAR`` that names the storage type."""
    # joined here, not by #include: cupy's cache of compiled kernels does not see what an include contains
    return "\n".join((SOURCES / file).read_text(encoding="utf-8") for file in ("scalar.cuh", f"{name}.cu"))


def compile_options(dtype: torch.dtype) -> tuple[str, ...]:
    return ("-std=c++17", f"-DSCALAR={SCALARS[dtype]}")


def resample2d(image: Tensor, flow: Tensor, kernel_size: int, bilinear: bool) -> Tensor:
    image, vectors = image.contiguous(), flow.float().contiguous()
    out = image.new_empty(*image.shape[:2], *flow.shape[2:])
    sizes = (*image.shape, *flow.shape[2:], kernel_size, int(bilinear))
    grid = _pixel_grid(flow, image.shape[1])
    _launch("resample2d", "resample2d_forward", image.dtype, grid, (THREADS, 1), 0, image, vectors, out, *sizes)
    return out


def resample2d_grad_image(grad: Tensor, image: Tensor, flow: Tensor, kernel_size: int, bilinear: bool) -> Tensor:
    grad, vectors = grad.contiguous(), flow.float().contiguous()
    out = torch.zeros(image.shape, dtype=torch.float32, device=image.device)
    sizes = (*image.shape, *flow.shape[2:], kernel_size, int(bilinear))
    grid = _pixel_grid(flow, image.shape[1])
    _launch("resample2d", "resample2d_grad_image", grad.dtype, grid, (THREADS, 1), 0, grad, vectors, out, *sizes)
    return out.to(image.dtype)


def resample2d_grad_flow(grad: Tensor, image: Tensor, flow: Tensor, kernel_size: int, bilinear: bool) -> Tensor:
    grad, image, vectors = grad.contiguous(), image.contiguous(), flow.float().contiguous()
    out = torch.empty_like(vectors)
    sizes = (*image.shape, *flow.shape[2:], kernel_size, int(bilinear))
    grid = _pixel_grid(flow, 1)
    arguments = (grad, image, vectors, out, *sizes)
    _launch("resample2d", "resample2d_grad_flow", image.dtype, grid, (THREADS, 1), 0, *arguments)
    return out.to(flow.dtype)


def correlation(
    f1: Tensor,
    f2: Tensor,
    out_size: tuple[int, int],
    pad_size: int,
    kernel_size: int,
    max_displacement: int,
    stride1: int,
    stride2: int,
) -> Tensor:
    f1, f2 = f1.contiguous(), f2.contiguous()
    side = 2 * (max_displacement // stride2) + 1
    out = f1.new_empty(f1.shape[0], side * side, *out_size)
    width1 = (TILE - 1) * stride1 + kernel_size
    width2 = width1 + (GROUPS * SHIFTS_EACH - 1) * stride2
    shared = _shared_bytes(CHANNELS_AT_ONCE * (width1 + width2), kernel_size, stride1, stride2)
    blocks = f1.shape[0] * out_size[0] * side * _ceil_div(out_size[1], TILE) * _ceil_div(side, GROUPS * SHIFTS_EACH)
    sizes = (*f1.shape, *out_size, pad_size, kernel_size, max_displacement, stride1, stride2)
    grid = (_blocks(blocks), 1)
    _launch("correlation", "correlation_forward", f1.dtype, grid, (TILE, GROUPS), shared, f1, f2, out, *sizes)
    return out


def correlation_grad(
    grad: Tensor,
    f1: Tensor,
    f2: Tensor,
    pad_size: int,
    kernel_size: int,
    max_displacement: int,
    stride1: int,
    stride2: int,
) -> tuple[Tensor, Tensor]:
    grad = grad.contiguous()
    wide = TILE + (SHIFTS_AT_ONCE - 1) * stride2
    floats = SHIFTS_AT_ONCE * TILE + GROUPS * CHANNELS_EACH * wide
    shared = _shared_bytes(floats, kernel_size, stride1, stride2)
    batch, channels, height, width = f1.shape
    blocks = batch * height * _ceil_div(width, TILE) * _ceil_div(channels, GROUPS * CHANNELS_EACH)
    sizes = (*f1.shape, *grad.shape[2:], pad_size, kernel_size, max_displacement, stride1, stride2)
    gradients = []
    for to_second, other in enumerate((f2, f1)):
        out = torch.empty(f1.shape, dtype=f1.dtype, device=f1.device)
        arguments = (grad, other.contiguous(), out, *sizes, to_second)
        grid = (_blocks(blocks), 1)
        _launch("correlation", "correlation_backward", f1.dtype, grid, (TILE, GROUPS), shared, *arguments)
        gradients.append(out)
    return gradients[0], gradients[1]


def channelnorm(x: Tensor) -> Tensor:
    x = x.contiguous()
    out = x.new_empty(x.shape[0], 1, *x.shape[2:])
    sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    grid = _pixel_grid(out, 1)
    _launch("channelnorm", "channelnorm_forward", x.dtype, grid, (THREADS, 1), 0, x, out, *sizes)
    return out


def channelnorm_grad(grad: Tensor, x: Tensor) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    out = torch.empty_like(x)
    sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
    grid = _pixel_grid(grad, 1)
    _launch("channelnorm", "channelnorm_backward", x.dtype, grid, (THREADS, 1), 0, grad, x, out, *sizes)
    return out


def _pixel_grid(maps: Tensor, channels: int) -> tuple[int, int]:
    pixels = maps.shape[0] * maps.shape[2] * maps.shape[3]
    return _blocks(_ceil_div(pixels, THREADS)), min(_ceil_div(channels, CHANNELS_A_THREAD), MAX_GRID_Y)


def _blocks(wanted: int) -> int:
    # the kernels step through what exceeds the grid; an empty batch still needs one block
    return min(max(wanted, 1), MAX_BLOCKS)


def _shared_bytes(floats: int, kernel_size: int, stride1: int, stride2: int) -> int:
    if 4 * floats > MAX_SHARED_BYTES:
        raise ValueError(
            f"kernel_size {kernel_size} with strides {stride1} and {stride2} exceeds the shared memory of "
            "the cupy kernel; backend 'torch' takes it"
        )
    return 4 * floats


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _launch(
    source: str,
    kernel: str,
    dtype: torch.dtype,
    grid: tuple[int, int],
    block: tuple[int, int],
    shared_bytes: int,
    *arguments: Tensor | int,
) -> None:
    """Run a kernel; tensors are passed as pointers and integers as ``long long``."""
    import cupy

    device = next(a.device for a in arguments if isinstance(a, Tensor))
    values = tuple(a.data_ptr() if isinstance(a, Tensor) else int(a) for a in arguments)
    with cupy.cuda.Device(device.index), _cupy_stream(torch.cuda.current_stream(device)):
        _function(source, kernel, dtype, device.index)(grid, block, values, shared_mem=shared_bytes)


@functools.cache
def _function(source: str, kernel: str, dtype: torch.dtype, device: int | None):
    """A kernel on the current device, whose index is part of the key: cupy loads it anew for every object it gives."""
    return _module(source, dtype).get_function(kernel)


@functools.cache
def _module(source: str, dtype: torch.dtype):
    import cupy

    return cupy.RawModule(code=kernel_source(source), options=compile_options(dtype))


def _cupy_stream(stream: torch.cuda.Stream):
    import cupy

    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index)
