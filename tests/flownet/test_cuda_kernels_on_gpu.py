"""The cupy backend on a real GPU against the torch backend on the CPU."""

import importlib.util

import pytest
import torch

import flownet

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="needs cupy"),
]

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def random(shape, dtype, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def compare(operator, inputs, dtype, device="cuda"):
    """Value and gradients of ``operator(*inputs, backend=...)`` on the GPU and, in float32, on the CPU."""
    results = []
    for target, backend in ((device, "cupy"), ("cpu", "torch")):
        leaves = [x.to(target) if target != "cpu" else x.float() for x in inputs]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        out = operator(*leaves, backend=backend)
        out.backward(random(out.shape, torch.float32, 9).to(out))
        results.append([t.detach().float().cpu() for t in (out, *(leaf.grad for leaf in leaves))])
    for actual, expected in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype] * scale)


def resample_inputs(dtype):
    return random((2, 19, 65, 97), dtype, 0), random((2, 2, 65, 97), torch.float32, 1) * 30


def correlation_inputs(dtype):
    return random((2, 256, 48, 50), dtype, 0), random((2, 256, 48, 50), dtype, 1)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_resample2d(dtype):
    compare(flownet.resample2d, resample_inputs(dtype), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_correlation(dtype):
    compare(flownet.correlation, correlation_inputs(dtype), dtype)


@pytest.mark.parametrize("setting", [(3, 3, 2, 1, 1), (4, 3, 4, 2, 2), (18, 1, 18, 1, 1)])
def test_correlation_in_other_settings(setting):
    inputs = [random((1, 35, 17, 37), torch.float32, seed) for seed in (0, 1)]
    compare(lambda a, b, backend: flownet.correlation(a, b, *setting, backend=backend), inputs, torch.float32)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_channelnorm(dtype):
    compare(flownet.channelnorm, [random((2, 3, 65, 97), dtype, 0)], dtype)


def test_zero_flow_is_the_identity_bit_for_bit():
    image = random((2, 3, 65, 97), torch.float32, 0).cuda()
    assert torch.equal(flownet.resample2d(image, torch.zeros(2, 2, 65, 97, device="cuda"), backend="cupy"), image)


def test_kernels_run_on_the_current_stream():
    image, flow = (x.cuda() for x in resample_inputs(torch.float32))
    flownet.resample2d(image, flow, backend="cupy")  # compiled before the stream is kept busy
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late = image * 2  # on any other stream the kernel would read it before it is written
        out = flownet.resample2d(late, flow, backend="cupy")
    stream.synchronize()
    torch.testing.assert_close(out, flownet.resample2d(image, flow, backend="torch") * 2, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_on_the_device_of_their_inputs():
    with torch.cuda.device(0):
        compare(flownet.resample2d, resample_inputs(torch.float32), torch.float32, device="cuda:1")


def test_inputs_on_different_devices_are_refused():
    image, flow = resample_inputs(torch.float32)
    with pytest.raises(ValueError, match="image is on cuda:0 but flow on cpu"):
        flownet.resample2d(image.cuda(), flow)


def test_float64_is_refused_by_cupy_and_taken_by_auto():
    image, flow = (x.double().cuda() for x in resample_inputs(torch.float32))
    with pytest.raises(ValueError, match=r"backend 'cupy' takes .*got torch.float64 on cuda:0"):
        flownet.resample2d(image, flow, backend="cupy")
    assert flownet.resample2d(image, flow).dtype == torch.float64


@torch.no_grad()
def test_flownet2_equals_its_torch_backend(monkeypatch):
    network = flownet.FlowNet2CS().cuda().eval()
    image = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0)).cuda() * 255
    flow = network(image, image.roll(3, 3))
    monkeypatch.setattr("flownet.ops.backend._cupy_found", lambda: False)
    torch.testing.assert_close(network(image, image.roll(3, 3)), flow, rtol=0, atol=1e-3)
