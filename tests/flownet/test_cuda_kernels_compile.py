"""NVRTC compiles every kernel for every supported architecture; this needs no GPU and no driver."""

import importlib.util

import pytest
import torch

from flownet.ops.cupy_backend import SCALARS, compile_options, kernel_source
from tests.flownet.cuda_on_cpu import KERNELS

# found without importing: a broken installation must fail, not be skipped
FOUND = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None
pytestmark = pytest.mark.skipif(not FOUND, reason="needs cuda.bindings, which PyTorch's CUDA wheels bring")

ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"]


def compile_for(architecture, source, options):
    """Machine code, and what the compiler had to say."""
    from cuda.bindings import nvrtc

    def call(function, *arguments):
        code, *results = function(*arguments)
        assert code == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{function.__name__}: {code}"
        return results[0] if results else None

    program = call(nvrtc.nvrtcCreateProgram, source.encode(), b"kernel.cu", 0, [], [])
    flags = [option.encode() for option in (*options, f"--gpu-architecture={architecture}")]
    (failure,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
    log = bytearray(call(nvrtc.nvrtcGetProgramLogSize, program))
    call(nvrtc.nvrtcGetProgramLog, program, log)
    message = log.decode().strip("\0\n ")
    assert failure == nvrtc.nvrtcResult.NVRTC_SUCCESS, message
    binary = bytearray(call(nvrtc.nvrtcGetCUBINSize, program))
    call(nvrtc.nvrtcGetCUBIN, program, binary)
    call(nvrtc.nvrtcDestroyProgram, program)
    return bytes(binary), message


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", SCALARS, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_source_compiles_without_a_warning(name, dtype, architecture):
    binary, message = compile_for(architecture, kernel_source(name), compile_options(dtype))
    assert message == ""
    for kernel in KERNELS[name]:
        assert kernel.encode() + b"\0" in binary  # under its plain name, as cupy looks it up


def test_a_wrong_source_does_not_compile():
    with pytest.raises(AssertionError, match="error: identifier"):
        compile_for("sm_80", kernel_source("channelnorm") + "\nint x = nothing;", compile_options(torch.float32))
