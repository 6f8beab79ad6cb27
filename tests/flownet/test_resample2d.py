import math
import subprocess
import sys

import pytest
import torch

from flownet import Resample2d, resample2d
from flownet.ops import resample2d as resample2d_ops


def clamp(value: int, size: int) -> int:
    return min(max(value, 0), size - 1)


def loop_resample2d(image, flow, kernel_size=1, bilinear=True):
    """One pixel at a time, in Python floats (float64), from the formula."""
    batch, channels, height, width = image.shape
    out = torch.zeros(batch, channels, *flow.shape[2:], dtype=torch.float64)
    for n in range(batch):
        for y in range(flow.shape[2]):
            for x in range(flow.shape[3]):
                xf, yf = x + flow[n, 0, y, x].item(), y + flow[n, 1, y, x].item()
                if bilinear:
                    a, b = xf - math.floor(xf), yf - math.floor(yf)
                    corners = [
                        (
                            math.floor(yf) + dy,
                            math.floor(xf) + dx,
                            (b if dy else 1 - b) * (a if dx else 1 - a),
                        )
                        for dy in (0, 1)
                        for dx in (0, 1)
                    ]
                else:
                    corners = [(math.floor(yf + 0.5), math.floor(xf + 0.5), 1.0)]
                for row, column, weight in corners:
                    for fy in range(kernel_size):
                        for fx in range(kernel_size):
                            r = clamp(clamp(row, height) + fy, height)
                            c = clamp(clamp(column, width) + fx, width)
                            out[n, :, y, x] += weight * image[n, :, r, c].double()
    return out


def random_pair(image_shape, flow_size=None, reach=1.5, dtype=torch.float32, seed=0):
    """An image, and a flow that leads out of the frame on all four sides."""
    generator = torch.Generator().manual_seed(seed)
    height, width = flow_size or image_shape[2:]
    image = torch.randn(image_shape, generator=generator, dtype=dtype)
    size = torch.tensor([width, height]).view(1, 2, 1, 1)
    flow = (torch.rand(image_shape[0], 2, height, width, generator=generator, dtype=dtype) * 2 - 1) * size * reach
    return image, flow


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (2, 3, 8, 6), (1, 11, 4, 9), (1, 2, 1, 1)])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("bilinear", [True, False])
def test_resample2d_equals_the_scalar_loop(shape, kernel_size, bilinear):
    image, flow = random_pair(shape, dtype=torch.float64)
    expected = loop_resample2d(image, flow, kernel_size, bilinear)
    actual = resample2d(image, flow, kernel_size, bilinear)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_float32_stays_within_float32_rounding_of_the_loop():
    image, flow = random_pair((2, 3, 8, 6))
    torch.testing.assert_close(resample2d(image, flow).double(), loop_resample2d(image, flow), rtol=0, atol=4e-6)


def test_output_has_the_size_of_the_flow():
    image, flow = random_pair((2, 3, 5, 7), flow_size=(4, 3), dtype=torch.float64)
    actual = resample2d(image, flow)
    torch.testing.assert_close(actual, loop_resample2d(image, flow), rtol=0, atol=1e-12)


def test_bands_of_rows_do_not_show(monkeypatch):
    image, flow = random_pair((2, 3, 8, 6), dtype=torch.float64)
    whole = resample2d(image, flow)
    monkeypatch.setattr(resample2d_ops, "PIXELS_AT_ONCE", 17)  # two rows of 6, then a remainder
    assert torch.equal(resample2d(image, flow), whole)
    monkeypatch.setattr(resample2d_ops, "PIXELS_AT_ONCE", 1)  # less than a row
    assert torch.equal(resample2d(image, flow), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bilinear", [True, False])
def test_zero_flow_is_the_identity_bit_for_bit(dtype, bilinear):
    image = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(resample2d(image, torch.zeros(2, 2, 9, 11), bilinear=bilinear), image)


def test_positive_u_reads_from_the_right_and_positive_v_from_below():
    image = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0], flow[:, 1] = 1, 2
    assert resample2d(image, flow)[0, 0, 1, 2] == image[0, 0, 3, 3]


def test_nearest_rounds_half_up():
    image = torch.arange(5.0).view(1, 1, 1, 5)
    flow = torch.zeros(1, 2, 1, 5)
    flow[:, 0] = 0.5
    assert resample2d(image, flow, bilinear=False).flatten().tolist() == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("kernel_size", [1, 2])
def test_gradcheck_to_image_and_flow(kernel_size):
    image, flow = random_pair((2, 2, 4, 5), flow_size=(3, 4), reach=1.2, dtype=torch.float64)
    # the finite difference must not step over an integer position, where the derivative jumps
    flow = flow.floor() + 0.2 + 0.6 * (flow - flow.floor())
    inputs = (image.requires_grad_(), flow.requires_grad_())
    assert torch.autograd.gradcheck(lambda i, f: resample2d(i, f, kernel_size), inputs)


def test_nearest_has_a_gradient_to_the_image_and_none_to_the_flow():
    image, flow = random_pair((1, 2, 4, 5), dtype=torch.float64)
    image.requires_grad_()
    flow.requires_grad_()
    assert torch.autograd.gradcheck(lambda i: resample2d(i, flow.detach(), bilinear=False), (image,))
    resample2d(image, flow, bilinear=False).sum().backward()
    assert torch.equal(flow.grad, torch.zeros_like(flow))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_float32_result_rounded_once(dtype):
    image, flow = random_pair((2, 3, 8, 6))
    image, flow = image.to(dtype).requires_grad_(), flow.to(dtype).requires_grad_()
    image32, flow32 = image.detach().float().requires_grad_(), flow.detach().float().requires_grad_()
    out, out32 = resample2d(image, flow), resample2d(image32, flow32)
    assert torch.equal(out, out32.to(dtype))
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    out.backward(grad)
    out32.backward(grad.float())
    assert torch.equal(image.grad, image32.grad.to(dtype))
    assert torch.equal(flow.grad, flow32.grad.to(dtype))


def test_half_image_with_float32_flow_keeps_the_flow_exact():
    image, flow = random_pair((1, 2, 8, 6))
    expected = resample2d(image.half().float(), flow).half()
    assert torch.equal(resample2d(image.half(), flow), expected)


def test_memory_layout_of_the_inputs_does_not_matter():
    image, flow = random_pair((2, 3, 8, 6))
    expected = resample2d(image, flow)
    wide = torch.randn(2, 3, 8, 12)
    wide[..., ::2] = image
    assert torch.equal(resample2d(wide[..., ::2], flow), expected)
    assert torch.equal(resample2d(image.to(memory_format=torch.channels_last), flow), expected)
    assert torch.equal(resample2d(image, flow.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)), expected)


def test_expanded_and_channels_last_gradients_are_taken():
    image, flow = random_pair((2, 3, 8, 6))
    image.requires_grad_()
    resample2d(image, flow).sum().backward()  # the gradient of a sum is an expanded scalar
    expected, image.grad = image.grad, None
    resample2d(image, flow).backward(torch.ones(2, 3, 8, 6).to(memory_format=torch.channels_last))
    assert torch.equal(image.grad, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_wild_flow_values_stay_inside_the_image(value):
    image, flow = random_pair((1, 2, 4, 5), reach=0.1)
    flow[0, :, 1, 2] = value
    out = resample2d(image, flow)
    if math.isfinite(value):
        row, column = (3, 4) if value > 0 else (0, 0)
        assert torch.equal(out[0, :, 1, 2], image[0, :, row, column])
    else:
        assert out[0, :, 1, 2].isnan().all()
    out[0, :, 1, 2] = 0
    assert out.isfinite().all()


@pytest.mark.parametrize("flow_needs_grad", [False, True])
@pytest.mark.parametrize("bilinear", [True, False])
def test_opcheck(flow_needs_grad, bilinear):
    image, flow = random_pair((2, 3, 5, 7), flow_size=(4, 6))
    arguments = (image.requires_grad_(), flow.requires_grad_(flow_needs_grad), 1, bilinear, "auto")
    torch.library.opcheck(torch.ops.flownet.resample2d.default, arguments)
    grad = torch.randn(2, 3, 4, 6)
    arguments = (grad, image.detach(), flow.detach(), 1, bilinear, "auto")
    torch.library.opcheck(torch.ops.flownet.resample2d_grad_image.default, arguments)
    torch.library.opcheck(torch.ops.flownet.resample2d_grad_flow.default, arguments)


def test_compiled_equals_eager_forward_and_backward():
    image, flow = random_pair((1, 3, 5, 7))
    image.requires_grad_()
    compiled = torch.compile(Resample2d(), backend="aot_eager", fullgraph=True)
    out = compiled(image, flow)
    assert torch.equal(out, resample2d(image, flow))
    gradients = [torch.autograd.grad(r.square().sum(), image)[0] for r in (out, resample2d(image, flow))]
    assert torch.equal(*gradients)


def test_export_with_dynamic_sizes():
    batch, rows = torch.export.Dim("batch"), torch.export.Dim("rows")
    program = torch.export.export(
        Resample2d(),
        random_pair((2, 3, 5, 7)),
        dynamic_shapes=({0: batch, 2: rows}, {0: batch, 2: rows}),
    )
    image, flow = random_pair((3, 3, 9, 7), seed=1)
    assert torch.equal(program.module()(image, flow), resample2d(image, flow))


def test_second_derivative_is_refused_by_name():
    image, flow = random_pair((1, 1, 3, 3), dtype=torch.float64)
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(resample2d(image, flow).pow(2).sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match="resample2d has no second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("image", "flow", "message"),
    [
        (
            torch.zeros(3, 4, 5),
            torch.zeros(1, 2, 4, 5),
            r"image must be a non-empty \[N, C, H, W\], got \(3, 4, 5\)",
        ),
        (torch.zeros(1, 3, 4, 0), torch.zeros(1, 2, 4, 5), r"got \(1, 3, 4, 0\)"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 4, 5), r"flow must have 2 channels, got \(1, 3, 4, 5\)"),
        (
            torch.zeros(2, 3, 4, 5),
            torch.zeros(1, 2, 4, 5),
            r"\(2, 3, 4, 5\) and flow \(1, 2, 4, 5\) differ in batch",
        ),
        (torch.zeros(1, 3, 4, 5).int(), torch.zeros(1, 2, 4, 5), "image must be float.*got torch.int32"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5).long(), "flow must be float.*got torch.int64"),
        (torch.zeros(1, 3, 4, 5), torch.zeros(1, 2, 4, 5, device="meta"), "image is on cpu but flow on meta"),
    ],
)
def test_wrong_input_is_refused_with_its_values(image, flow, message):
    with pytest.raises(ValueError, match=message):
        resample2d(image, flow)


def test_wrong_settings_are_refused():
    image, flow = random_pair((1, 1, 3, 3))
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        resample2d(image, flow, kernel_size=0)
    with pytest.raises(ValueError, match="unknown backend 'cuda', expected one of auto, torch, cupy"):
        resample2d(image, flow, backend="cuda")
    with pytest.raises(ValueError, match=r"backend 'cupy' takes .*got torch.float32 on cpu"):
        resample2d(image, flow, backend="cupy")


def test_import_needs_no_cupy():
    code = "import sys; sys.modules['cupy'] = None; import flownet"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
