"""The motion loss against loops over pixels."""

import math

import cv2
import numpy as np
import pytest
import scipy.spatial
import scipy.stats
import torch

from etc.config.schema import Train
from etc.data.transform import normalise
from etc.motion import MotionLoss, visibility

N, C, H, W = 2, 4, 5, 7


def random(*shape: int, seed: int = 0, scale: float = 1.0, dtype=torch.float32) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(dtype=torch.float32, reach: float = 1.5) -> list[torch.Tensor]:
    """Frames, logits and a flow that also leads out of the frame."""
    shapes = [(N, 3, H, W), (N, 3, H, W), (N, C, H, W), (N, C, H, W), (N, 2, H, W)]
    return [random(*s, seed=i, scale=reach if i == 4 else 0.5, dtype=dtype) for i, s in enumerate(shapes)]


def sample(plane: list[list[float]], x: float, y: float) -> float:
    """Bilinear, corners clamped into the plane."""
    left, top = math.floor(x), math.floor(y)
    total = 0.0
    for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight in ((left, left + 1 - x), (left + 1, x - left)):
            total += row_weight * weight * plane[min(max(row, 0), H - 1)][min(max(column, 0), W - 1)]
    return total


def loop_loss(image_t, image_k, z_t, z_k, flow, *, weight: float, mode: str, mask_padding: bool) -> float:
    """DESIGN's formula, one pixel at a time, in double precision."""
    image_t, image_k, z_t, z_k, flow = (v.detach().double().tolist() for v in (image_t, image_k, z_t, z_k, flow))
    total, count = 0.0, 0
    for n in range(N):
        for i in range(H):
            for j in range(W):
                x, y = j + flow[n][0][i][j], i + flow[n][1][i][j]
                differences = [image_t[n][c][i][j] - sample(image_k[n][c], x, y) for c in range(3)]
                error = sum(map(abs, differences)) if mode == "l1" else abs(sum(differences))
                visible = math.exp(-error)
                if mask_padding:
                    corners = [
                        (min(max(r, 0), H - 1), min(max(q, 0), W - 1))
                        for r in {math.floor(y), math.ceil(y)}
                        for q in {math.floor(x), math.ceil(x)}
                    ]
                    real = any(image_t[n][c][i][j] for c in range(3))
                    real &= all(any(image_k[n][c][r][q] for c in range(3)) for r, q in corners)
                    visible *= real and 0 <= x <= W - 1 and 0 <= y <= H - 1
                for c in range(len(z_t[n])):
                    total += (z_t[n][c][i][j] * visible - sample(z_k[n][c], x, y) * visible) ** 2
                    count += 1
    return weight * total / count


@pytest.mark.parametrize("mode", ["published", "l1"])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_the_value_equals_the_loop(mode, mask_padding):
    tensors = inputs()
    tensors[0][:, :, :, :2] = 0  # padding
    tensors[1][:, :, 3:] = 0
    loss = MotionLoss(weight=0.3, visibility=mode, mask_padding=mask_padding)(*tensors)
    expected = loop_loss(*tensors, weight=0.3, mode=mode, mask_padding=mask_padding)
    assert loss.shape == () and expected > 1e-4
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_defaults_are_those_of_the_settings():
    tensors, train = inputs(), Train()
    tensors[0][:, :, :, :2] = 0  # padding
    settings = {"visibility": train.visibility, "mask_padding": train.mask_padding}
    assert settings == {"visibility": "l1", "mask_padding": True}
    expected = loop_loss(*tensors, weight=1.0, mode="l1", mask_padding=True)
    assert MotionLoss(weight=1.0)(*tensors).item() == pytest.approx(expected, rel=1e-5)
    assert MotionLoss(weight=1.0)(*tensors) == MotionLoss(weight=1.0, **settings)(*tensors)


@pytest.mark.parametrize("mode", ["published", "l1"])
@pytest.mark.parametrize("mask_padding", [False, True])
def test_the_gradient_to_both_logits_equals_finite_differences(mode, mask_padding):
    image_t, image_k, z_t, z_k, flow = (v[:1, :3, :4, :5].contiguous() for v in inputs(torch.float64))
    z_t, z_k = z_t.requires_grad_(), z_k.requires_grad_()
    loss = MotionLoss(weight=0.7, visibility=mode, mask_padding=mask_padding)
    assert torch.autograd.gradcheck(lambda a, b: loss(image_t, image_k, a, b, flow), (z_t, z_k), atol=1e-8, rtol=1e-5)
    loss(image_t, image_k, z_t, z_k, flow).backward()
    assert z_t.grad.abs().sum() > 0 and z_k.grad.abs().sum() > 0


def test_frames_and_flow_get_no_gradient():
    image_t, image_k, z_t, z_k, flow = (v.requires_grad_() for v in inputs())
    MotionLoss(weight=1.0, mask_padding=True)(image_t, image_k, z_t, z_k, flow).backward()
    assert image_t.grad is None and image_k.grad is None and flow.grad is None


def test_opposite_errors_cancel_in_the_published_visibility_alone():
    image = torch.zeros(1, 3, 2, 2)
    warped = image + torch.tensor([0.5, -0.5, 0.0]).view(1, 3, 1, 1)
    assert torch.equal(visibility(image, warped, "published"), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(visibility(image, warped, "l1"), torch.full((1, 1, 2, 2), math.exp(-1.0)))


def test_visibility_is_one_exactly_where_frames_agree():
    image = random(1, 3, 4, 4)
    assert (visibility(image, image) == 1).all()
    assert (visibility(image, image + 0.1) < 1).all()


def test_perfectly_consistent_logits_cost_nothing():
    scene, logits = random(1, 3, H + 1, W + 2, seed=7), random(1, C, H + 1, W + 2, seed=8)
    image_t, z_t = scene[:, :, 1:, 2:], logits[:, :, 1:, 2:]
    image_k, z_k = scene[:, :, :H, :W], logits[:, :, :H, :W]
    # the camera moved: what frame t shows at p, frame k shows at p + (2, 1)
    flow = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, H, W)
    loss = MotionLoss(weight=1.0, visibility="published", mask_padding=True)
    assert loss(image_t, image_k, z_t, z_k, flow).item() == 0
    assert loss(image_k, image_t, z_k, z_t, -flow).item() == 0
    assert loss(image_t, image_k, z_t + 1, z_k, flow).item() > 0.1
    assert loss(image_t, image_k, z_t, z_k, -flow).item() > 0.01


def test_sources_out_of_the_frame_count_only_without_the_mask():
    image_t, image_k, z_t, z_k, _ = inputs()
    out = torch.full((N, 2, H, W), 100.0)
    assert MotionLoss(weight=1.0, mask_padding=False)(image_t, image_k, z_t, z_k, out).item() > 0
    assert MotionLoss(weight=1.0, mask_padding=True)(image_t, image_k, z_t, z_k, out).item() == 0


@pytest.mark.parametrize("visibility", ["l1", "published"])
def test_pixels_of_unknown_flow_teach_nothing(visibility):
    """They lead as far out of the frame as etc.flow.dataset says."""
    image_t, image_k, z_t, z_k, flow = inputs()
    flow[:, :, :2] = 1e7
    z_t.requires_grad_()
    loss = MotionLoss(weight=1, visibility=visibility)(image_t, image_k, z_t, z_k, flow)
    loss.backward()
    assert loss.isfinite() and not z_t.grad[:, :, :2].any() and z_t.grad[:, :, 2:].any()


@pytest.mark.parametrize("edge", [0.0, 0.01])
def test_the_last_pixel_is_inside_and_the_next_hundredth_is_not(edge):
    image = random(1, 3, H, W) + 5
    flow = torch.zeros(1, 2, H, W)
    flow[:, 0, :, -1] = edge
    flow[:, 1, -1] = edge
    mask = MotionLoss(weight=1.0, mask_padding=True).mask(image, image, flow)
    assert (mask[:, :, :-1, :-1] == 1).all()
    assert ((mask[:, :, -1] > 0) == (edge == 0)).all() and ((mask[:, :, :, -1] > 0) == (edge == 0)).all()


def test_padding_of_either_frame_is_masked_and_one_zero_channel_is_none():
    image_t, image_k = random(1, 3, H, W) + 5, random(1, 3, H, W, seed=1) + 5
    image_t[:, :, 0, 0] = 0
    image_k[:, :, 2, 3] = 0
    image_t[:, :2, 4, 4] = 0  # black in two channels of three is a colour
    flow = torch.zeros(1, 2, H, W)
    flow[:, 0, 2, 4] = -0.25  # a bilinear sample that touches the padded pixel
    mask = MotionLoss(weight=1.0, mask_padding=True).mask(image_t, image_k, flow)[0, 0]
    assert torch.equal((mask == 0).nonzero(), torch.tensor([[0, 0], [2, 3], [2, 4]]))


def test_logits_of_lower_resolution_are_resized_with_aligned_corners():
    image_t, image_k, _, _, flow = inputs()
    small_t, small_k = random(N, C, 2, 3, seed=5), random(N, C, 2, 3, seed=6)

    def resized(z):
        """Separable linear interpolation between corners that meet, written out."""
        rows = torch.linspace(0, 1, H).view(H, 1)
        z = z[:, :, :1] * (1 - rows) + z[:, :, 1:] * rows if z.shape[2] == 2 else z
        columns = torch.linspace(0, 2, W)
        low = columns.floor().clamp(max=1).long()
        return z[..., low] * (1 - (columns - low)) + z[..., low + 1] * (columns - low)

    expected = loop_loss(
        image_t, image_k, resized(small_t), resized(small_k), flow, weight=1.0, mode="l1", mask_padding=True
    )
    loss = MotionLoss(weight=1.0, visibility="l1", mask_padding=True)(image_t, image_k, small_t, small_k, flow)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(dtype):
    image_t, image_k, z_t, z_k, flow = inputs()
    z_t, z_k = z_t.to(dtype), z_k.to(dtype)
    loss = MotionLoss(weight=1.0, visibility="published", mask_padding=False)(image_t, image_k, z_t, z_k, flow)
    assert loss.dtype == torch.float32
    expected = loop_loss(image_t, image_k, z_t, z_k, flow, weight=1.0, mode="published", mask_padding=False)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_autocast_changes_nothing():
    tensors = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = MotionLoss(weight=1.0, mask_padding=True)(*tensors)
    assert loss.item() == MotionLoss(weight=1.0, mask_padding=True)(*tensors).item()


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (1, (N, 3, H, W + 1)), (1, (1, 3, H, W)), (3, (N, C + 1, H, W)), (3, (N, C, H - 1, W)), (4, (N, 2, H, W - 1)),
        (4, (1, 2, H, W)), (4, (N, 3, H, W)),
    ],
)  # fmt: skip
def test_shapes_that_do_not_belong_together_are_refused_and_named(index, shape):
    tensors = inputs()
    tensors[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=", ".join(map(str, shape))):
        MotionLoss(weight=1.0)(*tensors)


def test_logits_of_another_batch_than_the_frames_are_refused():
    image_t, image_k, z_t, z_k, flow = inputs()
    with pytest.raises(ValueError, match="do not fit frames"):
        MotionLoss(weight=1.0)(image_t[:1], image_k[:1], z_t, z_k, flow[:1])


def test_an_unknown_visibility_is_refused_when_the_loss_is_built():
    with pytest.raises(ValueError, match="visibility is 'l2', expected 'published', 'l1' or 'forward_backward'"):
        MotionLoss(weight=1.0, visibility="l2")
    with pytest.raises(ValueError, match="differ in shape"):
        visibility(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 3))


def motion_of(colours: np.ndarray) -> torch.Tensor:
    """The loss of frames that are normalised from colours, RGB uint8 ``[H, W, 3]``; the neighbour is the same frame."""
    image = torch.from_numpy(normalise(colours))[None]
    return loss_of(image)


def loss_of(image: torch.Tensor) -> torch.Tensor:
    logits = random(1, C, *image.shape[-2:])
    return MotionLoss(weight=1.0)(image, image, logits, logits + 1, torch.zeros(1, 2, *image.shape[-2:]))


def colours(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high + 1, (H, W, 3), np.uint8)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (0, 0), (0, 12), (0, 2), (40, 90), (118, 150), (200, 255), (255, 255), (128, 128)]
)
def test_normalised_frames_pass_be_they_dark_bright_or_gray(low, high):
    assert motion_of(colours(low, high)) == pytest.approx(1)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 20), (128, 255)])
def test_colours_of_0_to_255_are_refused(low, high):
    image = torch.from_numpy(colours(low, high)).permute(2, 0, 1)[None]
    with pytest.raises(ValueError, match=r"as colours of 0..255 have; expected normalised frames"):
        loss_of(image.float())
    with pytest.raises(ValueError, match=r"frames are torch.uint8, expected normalised frames"):
        loss_of(image)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 150), (100, 255)])
def test_colours_of_0_to_1_are_refused(low, high):
    with pytest.raises(ValueError, match=r"frames have values from .* to .*, as colours of 0..1 have"):
        loss_of(torch.from_numpy(colours(low, high) / np.float32(255)).permute(2, 0, 1)[None])


def test_a_dark_first_frame_does_not_end_the_check_and_a_normalised_one_does():
    loss, flow, logits = MotionLoss(weight=1.0), torch.zeros(1, 2, H, W), random(1, C, H, W)
    black, frame = torch.zeros(1, 3, H, W), torch.rand(1, 3, H, W, generator=torch.Generator().manual_seed(0))
    loss(black, black, logits, logits, flow)
    with pytest.raises(ValueError, match=r"colours of 0\.\.1"):
        loss(frame, frame, logits, logits, flow)
    loss(frame - 1, frame, logits, logits, flow)
    loss(frame, frame, logits, logits, flow)  # fog: no more reads from the device


def test_real_frames_pass_only_where_they_are_normalised(real_data):
    frames = [
        *sorted((real_data / "camvid/val").glob("*.*"))[:2],
        *(real_data / "cityscapes_mini").rglob("*_000000_*8bit.jpg"),
    ]
    assert len(frames) >= 8
    for path in frames:
        colours = cv2.cvtColor(cv2.resize(cv2.imread(str(path)), (96, 64)), cv2.COLOR_BGR2RGB)
        assert motion_of(colours) == pytest.approx(1)
        assert motion_of(colours // 8) == pytest.approx(1)  # at night
        for scale in (1, 255):
            with pytest.raises(ValueError, match="expected normalised frames"):
                loss_of(torch.from_numpy(colours / np.float32(scale)).permute(2, 0, 1)[None])


@pytest.mark.parametrize("distance", ["kl", "js"])
def test_the_divergence_of_the_warped_probabilities_equals_scipy(distance):
    image_t, image_k, z_t, z_k, flow = inputs(torch.float64, reach=0)
    flow[:, 0, :, :-1] = 1  # whole pixels: warping is shifting
    visible = torch.rand(N, 1, H, W, generator=torch.Generator().manual_seed(9)) > 0.3
    loss = MotionLoss(weight=0.7, visibility="forward_backward", mask_padding=False, distance=distance)
    value = loss(image_t, image_k, z_t, z_k, flow, visible)
    p_t, p_k = (z.softmax(1).numpy() for z in (z_t, z_k))
    warped = np.concatenate([p_k[..., 1:], p_k[..., -1:]], axis=3)
    if distance == "kl":
        each = scipy.stats.entropy(warped, p_t, axis=1)
    else:
        each = scipy.spatial.distance.jensenshannon(warped, p_t, axis=1) ** 2
    assert value.item() == pytest.approx(0.7 * (each * visible[:, 0].numpy()).mean(), rel=1e-6)


def test_the_mask_outside_the_square_weighs_by_itself_and_not_by_its_square():
    tensors = inputs(torch.float64, reach=0)
    difference = (tensors[2] - tensors[3]).square()
    mask = MotionLoss(weight=1.0, mask_padding=False).mask(tensors[0], tensors[1], tensors[4])
    once = MotionLoss(weight=1.0, mask_padding=False, mask_once=True)(*tensors)
    assert once.item() == pytest.approx((mask * difference).mean().item(), rel=1e-9)
    assert MotionLoss(weight=1.0, mask_padding=False)(*tensors).item() == pytest.approx(
        (mask.square() * difference).mean().item(), rel=1e-9
    )


@pytest.mark.parametrize("distance", ["mse", "kl", "js"])
@pytest.mark.parametrize("gradient", ["both", "frame"])
def test_the_gradient_flows_where_it_is_asked_for_and_is_finite(distance, gradient):
    image_t, image_k, z_t, z_k, flow = inputs()
    z_t[:, 0], z_k[:, 1] = 300, 300  # probabilities that underflow
    z_t.requires_grad_()
    z_k.requires_grad_()
    MotionLoss(weight=1.0, distance=distance, gradient=gradient)(image_t, image_k, z_t, z_k, flow).backward()
    assert z_t.grad.isfinite().all()
    if gradient == "both":
        assert z_k.grad.isfinite().all()
    else:
        assert z_k.grad is None


def test_only_pixels_whose_neighbour_is_confident_or_agrees_count():
    image = torch.full((1, 3, 1, 3), 0.5)
    flow = torch.zeros(1, 2, 1, 3)
    # pixel 0: confident and of another class; 1: unsure and of another class; 2: unsure, but agrees
    z_k = torch.tensor([[5.0, 0.0], [0.1, 0.0], [0.1, 0.0]]).T.reshape(1, 2, 1, 3)
    z_t = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 3)
    loss = MotionLoss(weight=1.0, mask_once=True, confidence=0.9)(image, image, z_t, z_k, flow)
    each = (z_t - z_k).square()[0, :, 0].sum(0)
    assert loss.item() == pytest.approx((each[0] + each[2]).item() / 6, rel=1e-6)


def test_forward_backward_visibility_without_the_visible_pixels_is_refused():
    with pytest.raises(ValueError, match="needs the visible pixels"):
        MotionLoss(weight=1.0, visibility="forward_backward")(*inputs())
