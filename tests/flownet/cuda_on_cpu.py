"""Runs the CUDA sources on the CPU: compiled by g++ behind ``cuda_shim.h``, with guards around all memory."""

import ctypes
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from flownet.ops.cupy_backend import SCALARS, kernel_source

KERNELS = {
    "resample2d": ("resample2d_forward", "resample2d_grad_image", "resample2d_grad_flow"),
    "correlation": ("correlation_forward", "correlation_backward"),
    "channelnorm": ("channelnorm_forward", "channelnorm_backward"),
}
FAILURES = {
    1: "threads of a block diverged at __syncthreads",
    2: "wrote beyond the shared memory that was asked for",
    3: "wrong number of arguments",
    4: "no such kernel",
}
GUARD = 1024


def build(folder: Path, compiler: str) -> ctypes.CDLL:
    """One library with every kernel for every storage type."""
    parts = ['#include "cuda_shim.h"']
    cases = []
    for source, kernels in KERNELS.items():
        for scalar in SCALARS.values():
            space = f"{source}_as_{scalar}"
            parts += [
                f"namespace {space} {{",
                f"#define SCALAR {scalar}",
                kernel_source(source),
                "float shared[SHARED_FLOATS + GUARD_FLOATS];",
                "#undef SCALAR",
                "}",
            ]
            # macros of one source must not reach the next
            defines = [line.split()[1] for line in kernel_source(source).splitlines() if line.startswith("#define")]
            parts += [f"#undef {name}" for name in defines if name != "KERNEL"]
            cases += [
                f'if (!std::strcmp(name, "{kernel}_{scalar}")) '
                f"return run_kernel({space}::{kernel}, values, count, {space}::shared, bytes, backwards);"
                for kernel in kernels
            ]
    parts += [
        'extern "C" int run(const char* name, const unsigned* grid, const unsigned* block,',
        "    const long long* values, int count, long long bytes, int backwards) {",
        "gridDim = {grid[0], grid[1], 1}; blockDim = {block[0], block[1], 1};",
        *cases,
        "return 4; }",
    ]
    file, library = folder / "kernels.cpp", folder / "kernels.so"
    file.write_text("\n".join(parts))
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{Path(__file__).parent}"]
    built = subprocess.run([compiler, *flags, str(file), "-o", str(library)], capture_output=True, text=True)
    if built.returncode:
        raise RuntimeError(f"{compiler} could not compile the kernels:\n{built.stderr}")
    return ctypes.CDLL(str(library))


class Launcher:
    """Takes the place of ``cupy_backend._launch``."""

    def __init__(self, library: ctypes.CDLL, backwards: bool) -> None:
        self.library = library
        self.backwards = backwards
        self.launched: list[str] = []

    def __call__(self, source, kernel, dtype, grid, block, shared_bytes, *arguments) -> None:
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        guarded = {id(t): _guarded(t) for t in tensors}
        values = [guarded[id(a)][GUARD:].data_ptr() if isinstance(a, Tensor) else int(a) for a in arguments]
        code = self.library.run(
            f"{kernel}_{SCALARS[dtype]}".encode(),
            (ctypes.c_uint * 2)(*grid),
            (ctypes.c_uint * 2)(*block),
            (ctypes.c_longlong * len(values))(*values),
            len(values),
            ctypes.c_longlong(shared_bytes),
            int(self.backwards),
        )
        assert code == 0, f"{kernel}: {FAILURES[code]}"
        self.launched.append(kernel)
        for tensor in tensors:
            memory = guarded[id(tensor)]
            assert memory[:GUARD].isnan().all() and memory[-GUARD:].isnan().all(), f"{kernel} wrote out of bounds"
            tensor.copy_(memory[GUARD:-GUARD].view(tensor.shape))


def _guarded(tensor: Tensor) -> Tensor:
    # a kernel sees nothing but memory: it must not be given a tensor whose elements are not in order
    assert tensor.is_contiguous()
    guard = tensor.new_full((GUARD,), float("nan"))
    return torch.cat((guard, tensor.flatten(), guard))
