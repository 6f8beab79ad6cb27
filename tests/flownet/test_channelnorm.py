import math

import pytest
import torch

from flownet import ChannelNorm, channelnorm


def loop_channelnorm(x):
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, 1, height, width, dtype=torch.float64)
    for n in range(batch):
        for i in range(height):
            for j in range(width):
                out[n, 0, i, j] = math.sqrt(sum(x[n, c, i, j].item() ** 2 for c in range(channels)))
    return out


def random_map(shape=(2, 3, 4, 5), dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4, 5), (1, 11, 3, 2)])
def test_channelnorm_equals_the_scalar_loop(shape):
    x = random_map(shape)
    torch.testing.assert_close(channelnorm(x), loop_channelnorm(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(ChannelNorm()(x), loop_channelnorm(x), rtol=0, atol=1e-14)


def test_gradcheck():
    assert torch.autograd.gradcheck(channelnorm, (random_map().requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradient_of_a_zero_vector_is_zero(dtype):
    x = torch.zeros(1, 3, 2, 2, dtype=dtype)
    x[0, :, 0, 0] = torch.tensor([3.0, 0.0, 4.0])
    x.requires_grad_()
    channelnorm(x).sum().backward()
    expected = torch.zeros(3, 2, 2, dtype=dtype)
    expected[:, 0, 0] = torch.tensor([0.6, 0.0, 0.8])
    torch.testing.assert_close(x.grad[0], expected)


def test_backward_divides_by_norm_plus_epsilon():
    x = torch.full((1, 1, 1, 1), 1e-9, dtype=torch.float64, requires_grad=True)
    channelnorm(x).backward()
    assert x.grad.item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype):
    x = (random_map((2, 64, 3, 4)) * 100).to(dtype).requires_grad_()  # the sum of squares overflows float16
    x32 = x.detach().float().requires_grad_()
    out, expected = channelnorm(x), channelnorm(x32)
    assert torch.equal(out, expected.to(dtype))
    out.sum().backward()
    expected.sum().backward()
    assert torch.equal(x.grad, x32.grad.to(dtype))


def test_memory_layout_of_the_input_does_not_matter():
    x = random_map()
    torch.testing.assert_close(channelnorm(x.to(memory_format=torch.channels_last)), channelnorm(x))
    torch.testing.assert_close(channelnorm(x.mT), channelnorm(x).mT)


def test_opcheck():
    x = random_map(dtype=torch.float32)
    torch.library.opcheck(torch.ops.flownet.channelnorm.default, (x.requires_grad_(), "auto"))
    arguments = (torch.randn(2, 1, 4, 5), x.detach(), "auto")
    torch.library.opcheck(torch.ops.flownet.channelnorm_grad.default, arguments)


def test_export_with_dynamic_sizes():
    dims = {0: torch.export.Dim("batch"), 3: torch.export.Dim("columns")}
    program = torch.export.export(ChannelNorm(), (random_map(),), dynamic_shapes=(dims,))
    x = random_map((3, 3, 4, 7))
    assert torch.equal(program.module()(x), channelnorm(x))


def test_compiled_equals_eager_forward_and_backward():
    x = random_map().requires_grad_()
    compiled = torch.compile(ChannelNorm(), backend="aot_eager", fullgraph=True)
    gradients = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, channelnorm)]
    assert torch.equal(*gradients)


def test_second_derivative_is_refused_by_name():
    x = random_map().requires_grad_()
    (gradient,) = torch.autograd.grad(channelnorm(x).pow(2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="channelnorm has no second derivative"):
        gradient.sum().backward()


def test_wrong_input_is_refused_with_its_values():
    with pytest.raises(ValueError, match=r"x must be a non-empty \[N, C, H, W\], got \(3, 4\)"):
        channelnorm(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"x must be float.*got torch\.uint8"):
        channelnorm(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="norm_deg must be 2, got 1"):
        channelnorm(torch.zeros(1, 3, 4, 4), norm_deg=1)
