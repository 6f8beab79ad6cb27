"""The CUDA kernels and their launch code, executed on the CPU and compared with the torch backend."""

import shutil

import pytest
import torch

import flownet
from flownet.ops import cupy_backend
from flownet.ops.resample2d import _resample2d_grad_flow, _resample2d_grad_image
from tests.flownet.cuda_on_cpu import Launcher, build

COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="g++ is needed to run the CUDA sources on the CPU")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# float32: another order of summation; half: that may tip the one rounding at the end
TOLERANCES = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.float16: {"rtol": 2**-10, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 2e-6},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("kernels"), COMPILER)


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def launcher(library, request, monkeypatch):
    """Kernels run on the CPU, in both orders of the threads; what they leave unwritten is NaN."""
    launcher = Launcher(library, request.param)
    monkeypatch.setattr(cupy_backend, "_launch", launcher)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield launcher
    torch.use_deterministic_algorithms(False)


def random(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def image_and_flow(image_shape, flow_size, dtype):
    """A flow that leaves the frame on all sides, with values that are no position at all."""
    image = random(image_shape, dtype)
    flow = random((image_shape[0], 2, *flow_size), seed=1) * max(flow_size)
    flow[0, 0, 0, 0], flow[0, 1, 0, -1], flow[0, 0, -1, -1] = 1e30, -1e30, float("inf")
    return image, flow


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel_size", "bilinear"), [(1, True), (2, True), (1, False), (3, False)])
@pytest.mark.parametrize(
    ("shape", "flow_size"), [((2, 3, 5, 7), (5, 7)), ((1, 19, 9, 13), (19, 17)), ((3, 1, 1, 1), (2, 3))]
)
def test_resample2d(launcher, shape, flow_size, kernel_size, bilinear, dtype):
    image, flow = image_and_flow(shape, flow_size, dtype)
    settings = (kernel_size, bilinear)
    expected = flownet.resample2d(image, flow, *settings, backend="torch")
    actual = cupy_backend.resample2d(image, flow, *settings)
    torch.testing.assert_close(actual, expected, equal_nan=True, **TOLERANCES[dtype])

    flow[0, 0, -1, -1] = 1.5  # a gradient of infinity would hide the pixels that it spreads to
    grad = random(expected.shape, dtype, seed=2)
    expected = _resample2d_grad_image(grad, image, flow, *settings, "torch")
    actual = cupy_backend.resample2d_grad_image(grad, image, flow, *settings)
    # hundreds of terms meet at the pixels on the border
    torch.testing.assert_close(actual, expected, rtol=TOLERANCES[dtype]["rtol"], atol=1e-4)
    expected = _resample2d_grad_flow(grad, image, flow, *settings, "torch")
    actual = cupy_backend.resample2d_grad_flow(grad, image, flow, *settings)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert launcher.launched == ["resample2d_forward", "resample2d_grad_image", "resample2d_grad_flow"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bilinear", [True, False])
def test_zero_flow_is_the_identity_bit_for_bit(launcher, dtype, bilinear):
    image = random((2, 3, 5, 67), dtype)
    assert torch.equal(cupy_backend.resample2d(image, torch.zeros(2, 2, 5, 67), 1, bilinear), image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_value_is_read_and_written_exactly(launcher, dtype):
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    image = bits.view(dtype).view(1, 1, 256, 256)
    out = cupy_backend.resample2d(image, torch.zeros(1, 2, 256, 256), 1, False)
    assert torch.equal(out.isnan(), image.isnan())
    assert torch.equal(out.view(torch.int16)[~image.isnan()], image.view(torch.int16)[~image.isnan()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_to_nearest_even(launcher, dtype):
    # between neighbours 0.5 apart in the flow lie all ties; the sums are exact in float32
    values = torch.arange(0, 2**15 - 2**11, 37).to(torch.int16)
    neighbours = torch.stack((values, values + 1), 1).view(dtype).view(1, 1, -1, 2)
    flow = torch.zeros(1, 2, neighbours.shape[2], 2)
    flow[:, 0] = 0.5
    expected = neighbours.float().mean(3).to(dtype)
    assert torch.equal(cupy_backend.resample2d(neighbours, flow, 1, True)[..., 0], expected)


# pad, kernel, max_displacement, stride1, stride2
CORRELATIONS = [
    (4, 1, 4, 1, 2),
    (20, 1, 20, 1, 2),  # FlowNetC's
    (3, 3, 2, 1, 1),
    (4, 3, 4, 2, 2),
    (0, 1, 1, 1, 1),
    (5, 1, 3, 3, 2),
    (3, 5, 2, 2, 1),
    (2, 1, 0, 1, 1),
    (18, 1, 18, 1, 1),  # more displacements in a row than a block takes at once
]


@pytest.mark.parametrize("setting", CORRELATIONS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 3, 5, 7), torch.float32),
        ((1, 35, 4, 37), torch.float32),  # more channels and columns than a block takes
        ((1, 17, 6, 5), torch.float16),
        ((1, 17, 6, 5), torch.bfloat16),
    ],
)
def test_correlation(launcher, shape, setting, dtype):
    f1, f2 = random(shape, dtype), random(shape, dtype, seed=1)
    expected = flownet.correlation(f1, f2, *setting, backend="torch")
    actual = cupy_backend.correlation(f1, f2, tuple(expected.shape[2:]), *setting)
    torch.testing.assert_close(actual, expected, **TOLERANCES[dtype])

    grad = random(expected.shape, dtype, seed=2)
    expected = torch.ops.flownet.correlation_grad(grad, f1, f2, *setting, "torch")
    actual = cupy_backend.correlation_grad(grad, f1, f2, *setting)
    torch.testing.assert_close(actual, expected, **TOLERANCES[dtype])
    assert launcher.launched == ["correlation_forward", "correlation_backward", "correlation_backward"]


def test_correlation_beyond_the_shared_memory_is_refused():
    f1 = random((1, 1, 80, 80))
    with pytest.raises(ValueError, match="kernel_size 1 with strides 1 and 40 exceeds the shared memory"):
        cupy_backend.correlation(f1, f1, (80, 80), 40, 1, 40, 1, 40)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 17, 19), (1, 11, 5, 7)])
def test_channelnorm(launcher, shape, dtype):
    x = random(shape, dtype)
    x[0, :, 0, 0] = 0
    expected = flownet.channelnorm(x, backend="torch")
    torch.testing.assert_close(cupy_backend.channelnorm(x), expected, **TOLERANCES[dtype])
    grad = random(expected.shape, dtype, seed=1)
    expected = torch.ops.flownet.channelnorm_grad(grad, x, "torch")
    actual = cupy_backend.channelnorm_grad(grad, x)
    torch.testing.assert_close(actual, expected, **TOLERANCES[dtype])
    assert torch.equal(actual[0, :, 0, 0], torch.zeros(shape[1], dtype=dtype))


def test_inputs_in_any_memory_layout_are_taken(launcher):
    image, flow = image_and_flow((2, 3, 5, 7), (5, 7), torch.float32)
    image, flow = (t.to(memory_format=torch.channels_last) for t in (image, flow.nan_to_num(posinf=0)))
    expected = flownet.resample2d(image, flow, backend="torch")
    torch.testing.assert_close(cupy_backend.resample2d(image, flow, 1, True), expected, rtol=1e-5, atol=2e-6)
    f2 = random((2, 3, 7, 5), seed=1).mT
    expected = flownet.correlation(image, f2, 2, 1, 2, 1, 1, backend="torch")
    torch.testing.assert_close(
        cupy_backend.correlation(image, f2, (5, 7), 2, 1, 2, 1, 1), expected, rtol=1e-5, atol=2e-6
    )
    torch.testing.assert_close(cupy_backend.channelnorm(image), flownet.channelnorm(image, backend="torch"))


def test_an_empty_batch_is_taken(launcher):
    assert cupy_backend.channelnorm(torch.zeros(0, 3, 4, 5)).shape == (0, 1, 4, 5)
    assert cupy_backend.resample2d(torch.zeros(0, 3, 4, 5), torch.zeros(0, 2, 2, 2), 1, True).shape == (
        0,
        3,
        2,
        2,
    )
