import pytest
import torch
import torch.nn.functional as F

from flownet import VARIANTS, FlowNet2, FlowNet2C, FlowNet2S
from tests.flownet.published_keys import published_keys
from tests.flownet.reference import reference_flow

PARAMETERS = {
    "flownet2": 162_518_834,
    "flownet2-c": 39_175_298,
    "flownet2-s": 38_676_506,
    "flownet2-sd": 45_371_666,
    "flownet2-cs": 77_870_620,
    "flownet2-css": 116_565_942,
}


@pytest.fixture(scope="module")
def weights():
    """Seeded weights of all of FlowNet2. They keep the activations at their scale: flow of some pixels."""
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(12_000_000, generator=generator)
    state = {}
    for key, shape in published_keys("flownet2").items():
        size = torch.Size(shape)
        at = int(torch.randint(len(pool) - size.numel(), (1,), generator=generator))
        values = pool[at : at + size.numel()].view(size)
        if key.endswith("bias"):
            state[key] = values * 0.1
            continue
        transposed = "deconv" in key or "upsampled" in key
        fan_in = size[0] * 4 if transposed else size[1] * size[2] * size[3]
        state[key] = values * ((1.0 if "predict" in key else 1.4) / fan_in**0.5)
    return state


def build(variant, weights, **settings):
    with torch.device("meta"):
        network = VARIANTS[variant](**settings)
    prefix = {"flownet2-c": "flownetc.", "flownet2-s": "flownets_1.", "flownet2-sd": "flownets_d."}.get(variant, "")
    state = {key: weights[prefix + key] for key in network.state_dict()}
    if variant == "flownet2-s":
        state["conv1.0.weight"] = state["conv1.0.weight"][:, :6]
    network.load_state_dict(state, assign=True)
    return network.eval()


@pytest.fixture(scope="module")
def full_network(weights):
    return build("flownet2", weights)


def frames(batch=2, height=64, width=64, seed=1):
    """Smooth random RGB frames 0..255, the second one moved."""
    noise = torch.rand(batch, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) * 255
    image = F.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)
    return image, image.roll((1, 2), (2, 3))


def constant_flow(monkeypatch, flow, **settings):
    """FlowNet2C that answers the same vector everywhere, and the list of inputs that it is given."""
    seen = []

    def answer(self, x1, x2):
        seen.append((x1, x2))
        return torch.tensor(flow).view(1, 2, 1, 1).expand(x1.shape[0], 2, *x1.shape[2:])

    monkeypatch.setattr(FlowNet2C, "_flow", answer)
    with torch.device("meta"):
        return FlowNet2C(**settings), seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_the_published_ones(variant):
    with torch.device("meta"):
        network = VARIANTS[variant]()
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == published_keys(variant)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_flow_equals_the_functional_reference(variant, weights):
    network = build(variant, weights)
    img1, img2 = frames(batch=1)
    with torch.no_grad():
        flow = network(img1, img2)
        expected = reference_flow(variant, network.state_dict(), img1, img2)
    assert flow.shape == (1, 2, 64, 64)
    assert flow.std() > 0.5  # otherwise the tolerance says nothing
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_each_sample_of_a_batch_is_as_if_alone(full_network):
    img1, img2 = frames(batch=2)
    together = full_network(img1, img2)
    alone = torch.cat([full_network(img1[n : n + 1], img2[n : n + 1]) for n in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)


@torch.no_grad()
def test_compiled_equals_eager(full_network):
    img1, img2 = frames(batch=1)
    compiled = torch.compile(full_network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(img1, img2), full_network(img1, img2), rtol=0, atol=1e-3)


@torch.no_grad()
def test_bfloat16_autocast_is_close_to_float32(weights):
    network = build("flownet2-c", weights)
    img1, img2 = frames(batch=1)
    expected = network(img1, img2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow = network(img1, img2)
    assert (flow.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_gradients_reach_every_parameter_and_both_images(weights):
    network = build("flownet2-cs", weights)
    img1, img2 = frames(batch=1)
    network(img1.requires_grad_(), img2.requires_grad_()).square().mean().backward()
    for tensor in (img1, img2, *network.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_input_is_centred_by_the_mean_of_both_images_and_divided_by_rgb_max(monkeypatch):
    network, seen = constant_flow(monkeypatch, (0.0, 0.0), rgb_max=128.0)
    img1, img2 = frames(batch=2)
    network(img1, img2)
    for n in range(2):
        for c in range(3):
            mean = (img1[n, c].double().sum() + img2[n, c].double().sum()) / (2 * 64 * 64)
            torch.testing.assert_close(seen[0][0][n, c], ((img1[n, c] - mean) / 128).float(), rtol=0, atol=1e-5)
            torch.testing.assert_close(seen[0][1][n, c], ((img2[n, c] - mean) / 128).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "expected"), [("scaled", (3.0 * 100 / 64, 2.0 * 130 / 128)), ("published", (3.0, 2.0))]
)
def test_odd_sizes_are_resized_and_only_the_default_scales_the_vectors(monkeypatch, mode, expected):
    network, seen = constant_flow(monkeypatch, (3.0, 2.0), resize_mode=mode)
    flow = network(*frames(height=130, width=100))
    assert seen[0][0].shape == (2, 3, 128, 64)
    assert flow.shape == (2, 2, 130, 100)
    torch.testing.assert_close(flow[:, 0], torch.full((2, 130, 100), expected[0]))
    torch.testing.assert_close(flow[:, 1], torch.full((2, 130, 100), expected[1]))


def test_images_are_resized_with_their_corners_aligned(monkeypatch):
    network, seen = constant_flow(monkeypatch, (0.0, 0.0))
    ramp = torch.linspace(0, 1, 100).expand(1, 3, 64, 100)
    network(ramp, ramp)
    torch.testing.assert_close(seen[0][0][0, 0, 0] * 255 + 0.5, torch.linspace(0, 1, 64), rtol=0, atol=1e-4)


def test_sizes_divisible_by_64_are_not_resized(monkeypatch):
    network, seen = constant_flow(monkeypatch, (0.0, 0.0), rgb_max=1.0)
    img1, img2 = frames(batch=1, height=128, width=64)
    network(img1, img2)
    torch.testing.assert_close(seen[0][0] - seen[0][1], img1 - img2, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("img1", "img2", "message"),
    [
        (
            torch.zeros(1, 3, 63, 64),
            torch.zeros(1, 3, 63, 64),
            r"at least 64 pixels high and wide, got \(63, 64\)",
        ),
        (torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64), r"img1 must be RGB .* got \(1, 1, 64, 64\)"),
        (torch.zeros(3, 64, 64), torch.zeros(3, 64, 64), r"img1 must be RGB .* got \(3, 64, 64\)"),
        (
            torch.zeros(1, 3, 64, 64),
            torch.zeros(2, 3, 64, 64),
            r"\(1, 3, 64, 64\) and img2 \(2, 3, 64, 64\) differ",
        ),
        (
            torch.zeros(1, 3, 64, 64).byte(),
            torch.zeros(1, 3, 64, 64).byte(),
            "img1 must be floating point, got",
        ),
    ],
)
def test_wrong_images_are_refused_with_their_shapes(img1, img2, message):
    with torch.device("meta"):
        network = FlowNet2S()
    with pytest.raises(ValueError, match=message):
        network(img1, img2)


def test_wrong_settings_are_refused():
    with torch.device("meta"):
        with pytest.raises(ValueError, match="resize_mode must be 'scaled' or 'published', got 'pad'"):
            FlowNet2(resize_mode="pad")
        with pytest.raises(ValueError, match=r"rgb_max must be positive, got 0\.0"):
            FlowNet2(rgb_max=0.0)
