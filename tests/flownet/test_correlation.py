import math

import pytest
import torch

from flownet import Correlation, correlation

# pad, kernel, max_displacement, stride1, stride2
SETTINGS = [
    (2, 1, 2, 1, 1),
    (4, 1, 4, 1, 2),  # FlowNetC's relations on a small scale
    (3, 3, 2, 1, 1),
    (4, 3, 4, 2, 2),
    (0, 1, 1, 1, 1),  # no padding: fewer outputs than pixels
    (5, 1, 3, 3, 2),  # more padding than reach; displacement no multiple of its stride
    (3, 5, 2, 2, 1),  # windows reach outside the padded maps
    (2, 1, 0, 1, 1),  # a single displacement
    (4, 1, 5, 1, 4),
]


def loop_correlation(f1, f2, pad, kernel, max_displacement, stride1, stride2):
    """One product at a time in Python floats (float64), from the formula."""
    batch, channels, height, width = f1.shape
    reach, radius = max_displacement // stride2, (kernel - 1) // 2
    side = 2 * reach + 1
    out_height = math.ceil((height + 2 * pad - 2 * (max_displacement + radius)) / stride1)
    out_width = math.ceil((width + 2 * pad - 2 * (max_displacement + radius)) / stride1)
    a, b = f1.double().tolist(), f2.double().tolist()

    def read(maps, n, c, y, x):
        y, x = y - pad, x - pad
        return maps[n][c][y][x] if 0 <= y < height and 0 <= x < width else 0.0

    out = torch.zeros(batch, side * side, out_height, out_width, dtype=torch.float64)
    for n in range(batch):
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                for i in range(out_height):
                    for j in range(out_width):
                        y, x = i * stride1 + max_displacement, j * stride1 + max_displacement
                        total = 0.0
                        for c in range(channels):
                            for ky in range(-radius, radius + 1):
                                for kx in range(-radius, radius + 1):
                                    first = read(a, n, c, y + ky, x + kx)
                                    second = read(b, n, c, y + ky + dy * stride2, x + kx + dx * stride2)
                                    total += first * second
                        channel = (dy + reach) * side + (dx + reach)
                        out[n, channel, i, j] = total / (kernel * kernel * channels)
    return out


def random_maps(shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("shape", [(2, 2, 5, 7), (1, 1, 8, 6)])
def test_correlation_equals_the_scalar_loop(shape, setting):
    f1, f2 = random_maps(shape)
    torch.testing.assert_close(correlation(f1, f2, *setting), loop_correlation(f1, f2, *setting), rtol=0, atol=1e-12)


def test_the_setting_of_flownetc_is_the_default_and_gives_441_channels():
    f1, f2 = random_maps((1, 3, 5, 6), dtype=torch.float32)
    expected = loop_correlation(f1, f2, 20, 1, 20, 1, 2)
    assert expected.shape == (1, 441, 5, 6)
    torch.testing.assert_close(correlation(f1, f2).double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(Correlation()(f1, f2).double(), expected, rtol=0, atol=1e-6)


def test_an_image_moved_right_correlates_at_a_positive_dx():
    f1 = torch.zeros(1, 1, 7, 7)
    f2 = f1.clone()
    f1[0, 0, 3, 3] = f2[0, 0, 3, 5] = 1
    out = correlation(f1, f2, 2, 1, 2, 1, 1)
    assert out.nonzero().tolist() == [[0, (0 + 2) * 5 + (2 + 2), 3, 3]]


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradcheck(setting):
    f1, f2 = random_maps((2, 2, 4, 5))
    inputs = (f1.requires_grad_(), f2.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, *setting), inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_float32_result_rounded_once(dtype):
    # 512 channels: accumulated in the half type itself, the sums would be off by several roundings
    halves = [f.to(dtype).requires_grad_() for f in random_maps((1, 512, 3, 4))]
    floats = [f.detach().float().requires_grad_() for f in halves]
    out, expected = correlation(*halves, 2, 1, 2, 1, 1), correlation(*floats, 2, 1, 2, 1, 1)
    assert torch.equal(out, expected.to(dtype))
    out.sum().backward()
    expected.sum().backward()
    for half, single in zip(halves, floats, strict=True):
        assert torch.equal(half.grad, single.grad.to(dtype))


def test_memory_layout_of_the_inputs_does_not_matter():
    f1, f2 = random_maps((2, 3, 5, 6))
    setting = (2, 1, 2, 1, 2)
    expected = correlation(f1, f2, *setting)
    assert torch.equal(correlation(f1.to(memory_format=torch.channels_last), f2, *setting), expected)
    wide = torch.zeros(2, 3, 5, 12, dtype=torch.float64)
    wide[..., 1::2] = f2
    assert torch.equal(correlation(f1, wide[..., 1::2], *setting), expected)


def test_a_gradient_in_channels_last_is_taken():
    f1, f2 = random_maps((2, 3, 5, 6))
    f1.requires_grad_()
    out = correlation(f1, f2, 2, 1, 2, 1, 2)
    grad = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(out, f1, grad, retain_graph=True)
    (actual,) = torch.autograd.grad(out, f1, grad.to(memory_format=torch.channels_last))
    assert torch.equal(actual, expected)


def test_opcheck():
    f1, f2 = random_maps((2, 3, 4, 5), dtype=torch.float32)
    arguments = (f1.requires_grad_(), f2.requires_grad_(), 2, 1, 2, 1, 2, "auto")
    torch.library.opcheck(torch.ops.flownet.correlation.default, arguments)
    arguments = (torch.randn(2, 9, 4, 5), f1.detach(), f2.detach(), 2, 1, 2, 1, 2, "auto")
    torch.library.opcheck(torch.ops.flownet.correlation_grad.default, arguments)


def test_compiled_equals_eager_forward_and_backward():
    f1, f2 = random_maps((1, 3, 5, 7), dtype=torch.float32)
    f1.requires_grad_()
    module = Correlation(2, 1, 2, 1, 2)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(f1, f2), module(f1, f2))
    gradients = [torch.autograd.grad(f(f1, f2).square().sum(), f1)[0] for f in (compiled, module)]
    assert torch.equal(*gradients)


def test_export_with_dynamic_sizes():
    module = Correlation(2, 1, 2, 1, 2)
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("rows")}
    program = torch.export.export(module, random_maps((2, 3, 5, 7)), dynamic_shapes=(dims, dims))
    f1, f2 = random_maps((3, 3, 8, 7), seed=1)
    assert torch.equal(program.module()(f1, f2), module(f1, f2))


def test_second_derivative_is_refused_by_name():
    f1, f2 = random_maps((1, 1, 3, 3))
    f1.requires_grad_()
    out = correlation(f1, f2, 1, 1, 1, 1, 1)
    (gradient,) = torch.autograd.grad(out.pow(2).sum(), f1, create_graph=True)
    with pytest.raises(NotImplementedError, match="correlation has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("f1", "f2", "message"),
    [
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 6), r"f1 \(1, 3, 4, 5\) and f2 \(1, 3, 4, 6\) differ"),
        (
            torch.zeros(3, 4, 5),
            torch.zeros(3, 4, 5),
            r"f1 must be a non-empty \[N, C, H, W\], got \(3, 4, 5\)",
        ),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5).half(), "f1 is torch.float32 but f2 torch.float16"),
        (torch.zeros(1, 3, 4, 5).int(), torch.zeros(1, 3, 4, 5).int(), "f1 must be float.*got torch.int32"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5, device="meta"), "f1 is on cpu but f2 on meta"),
    ],
)
def test_wrong_input_is_refused_with_its_values(f1, f2, message):
    with pytest.raises(ValueError, match=message):
        correlation(f1, f2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ((1, 2, 1, 1, 1), "kernel_size must be odd and positive, got 2"),
        ((-1, 1, 1, 1, 1), "must not be negative, got -1 and 1"),
        ((1, 1, -2, 1, 1), "must not be negative, got 1 and -2"),
        ((1, 1, 1, 0, 1), "stride1 and stride2 must be at least 1, got 0 and 1"),
        ((1, 1, 1, 1, 0), "stride1 and stride2 must be at least 1, got 1 and 0"),
    ],
)
def test_wrong_settings_are_refused_by_function_and_module(setting, message):
    f1, f2 = random_maps((1, 1, 4, 5))
    with pytest.raises(ValueError, match=message):
        correlation(f1, f2, *setting)
    with pytest.raises(ValueError, match=message):
        Correlation(*setting)


def test_an_empty_output_is_refused():
    f1, f2 = random_maps((1, 1, 4, 9))
    with pytest.raises(ValueError, match=r"maps of \(4, 9\) .*leave no output position"):
        correlation(f1, f2, 0, 1, 2, 1, 1)
