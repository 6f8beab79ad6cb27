"""PSPNet: the published keys and shapes, the dilations, sizes in and out, the ImageNet start."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import resnet18

from model import PSPNet, build_model, parameter_groups

FACTS = Path(__file__).with_name("pspnet_state_dict.txt")


def published_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Keys and shapes by network; a line ``name bn C`` stands for the five entries of a batch norm."""
    networks: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in FACTS.read_text().splitlines():
        if line.startswith("# "):
            shapes = networks.setdefault(line[2:], {})
            continue
        name, *kind, size = line.split()
        if kind:
            shapes.update({f"{name}.{part}": (int(size),) for part in ("weight", "bias")})
            shapes.update({f"{name}.running_{part}": (int(size),) for part in ("mean", "var")})
            shapes[f"{name}.num_batches_tracked"] = ()
        else:
            shapes[name] = tuple(map(int, size.split("x")))
    return networks


def own_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = PSPNet(layers=layers, classes=19)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def psp18() -> PSPNet:
    torch.manual_seed(0)
    return PSPNet(layers=18, classes=5)


@pytest.mark.parametrize("layers", [18, 50, 101])
def test_keys_and_shapes_are_the_published_ones(layers):
    assert own_shapes(layers) == published_shapes()[f"PSPNet{layers}"]


def test_psp152_repeats_the_blocks_of_psp101():
    expected = dict(published_shapes()["PSPNet101"])
    for stage, blocks_101, blocks_152 in (("layer2", 4, 8), ("layer3", 23, 36)):
        one = {key: shape for key, shape in expected.items() if key.startswith(f"{stage}.1.")}
        for index in range(blocks_101, blocks_152):
            expected |= {key.replace(f"{stage}.1.", f"{stage}.{index}."): s for key, s in one.items()}
    assert own_shapes(152) == expected


@pytest.mark.parametrize("layers", [18, 50])
def test_only_conv2_is_dilated_and_no_stride_is_left_in_layer3_and_layer4(layers):
    with torch.device("meta"):
        network = PSPNet(layers=layers, classes=2)
    for stage, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for name, module in stage.named_modules():
            if isinstance(module, nn.Conv2d):
                expected = dilation if name.endswith("conv2") else 1
                assert module.stride == (1, 1), name
                assert module.dilation == (expected, expected), name
                assert module.padding == (module.kernel_size[0] // 2 * expected,) * 2, name


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 64), (49, 65), (37, 50)])
def test_training_outputs_are_at_an_eighth_of_the_image(psp18, height, width):
    outputs = psp18.train()(torch.randn(2, 3, height, width))
    size = (-(-height // 8), -(-width // 8))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {
        "logits": (2, 5, *size),
        "dsn": (2, 5, *size),
        "fea": (2, 1024, *size),
    }


@pytest.mark.parametrize(("height", "width"), [(32, 32), (49, 65), (37, 50)])
def test_evaluation_logits_have_the_size_of_the_image(psp18, height, width):
    with torch.no_grad():
        assert psp18.eval()(torch.randn(1, 3, height, width)).shape == (1, 5, height, width)


@torch.no_grad()
def test_evaluation_is_the_coarse_logits_resized_with_aligned_corners(psp18):
    image = torch.randn(1, 3, 41, 57)
    coarse = psp18.eval().outputs(image)["logits"]
    logits = psp18(image)
    torch.testing.assert_close(logits[..., 0, 0], coarse[..., 0, 0])
    torch.testing.assert_close(logits[..., -1, -1], coarse[..., -1, -1])
    # 41 and 57 pixels over 6 and 8 cells: with aligned corners cell k lies exactly on pixel 8k
    torch.testing.assert_close(logits[..., ::8, ::8], coarse, rtol=0, atol=1e-5)


@torch.no_grad()
def test_outputs_in_evaluation_have_no_auxiliary_logits_but_the_features(psp18):
    assert set(psp18.eval().outputs(torch.randn(1, 3, 33, 33))) == {"logits", "fea"}


@torch.no_grad()
def test_features_are_the_backbone_and_the_image_means(psp18):
    psp18.eval()
    image = torch.randn(2, 3, 40, 40)
    deep = psp18.layer4(psp18.layer3(psp18.layer2(psp18.layer1(psp18.layer0(image)))))
    fea = psp18.outputs(image)["fea"]
    torch.testing.assert_close(fea[:, :512], deep)
    _, conv, norm, _ = psp18.ppm.features[0]
    mean = torch.einsum("oc,nc->no", conv.weight[:, :, 0, 0], deep.mean((2, 3)))
    mean = (mean - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(fea[:, 512:640], mean.relu()[:, :, None, None].expand(-1, -1, 5, 5))


def test_training_on_one_image_is_refused_with_the_reason(psp18):
    with pytest.raises(ValueError, match="batch of 1 image per process"):
        psp18.train()(torch.randn(1, 3, 33, 33))


def test_one_image_is_fine_when_batch_norm_is_frozen(psp18):
    psp18.train()
    for module in psp18.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert psp18(torch.randn(1, 3, 33, 33))["logits"].shape == (1, 5, 5, 5)


def test_without_the_auxiliary_head_there_is_no_dsn():
    network = PSPNet(classes=3, aux=False)
    assert set(network.train()(torch.randn(2, 3, 32, 32))) == {"logits", "fea"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"layers": 34, "classes": 2}, "34"),
        ({"classes": 0}, "classes is 0"),
        ({"classes": 2, "dropout": 1.5}, "1.5"),
    ],
)
def test_impossible_arguments_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        PSPNet(**arguments)


def test_every_parameter_is_in_one_group_and_the_new_layers_learn_ten_times_faster(psp18):
    slow, fast = parameter_groups(psp18, 0.02)
    assert (slow["lr"], fast["lr"]) == (0.02, pytest.approx(0.2))
    backbone = {id(p) for stage in range(5) for p in getattr(psp18, f"layer{stage}").parameters()}
    assert {id(p) for p in slow["params"]} == backbone
    assert {id(p) for p in fast["params"]} == {id(p) for p in psp18.parameters()} - backbone


def test_a_network_without_new_layers_learns_at_one_rate():
    network = nn.Conv2d(3, 2, 1)
    assert parameter_groups(network, 0.1) == [{"params": list(network.parameters()), "lr": 0.1}]


def test_frozen_parameters_are_in_no_group():
    network = nn.Conv2d(3, 2, 1)
    network.bias.requires_grad_(False)
    assert parameter_groups(network, 0.1) == [{"params": [network.weight], "lr": 0.1}]


def test_imagenet_weights_of_torchvision_start_psp18(tmp_path):
    torch.manual_seed(1)
    imagenet = resnet18()
    torch.save(imagenet.state_dict(), tmp_path / "resnet18.pth")
    network = build_model("psp18", classes=4, weights=tmp_path / "resnet18.pth")
    assert torch.equal(network.layer0[0].weight, imagenet.conv1.weight)
    assert torch.equal(network.layer0[1].weight, imagenet.bn1.weight)
    assert torch.equal(network.layer4[1].conv2.weight, imagenet.layer4[1].conv2.weight)


def test_imagenet_weights_of_semseg_start_the_deep_stem(tmp_path):
    shapes = {key: s for key, s in published_shapes()["PSPNet50"].items() if key.startswith("layer")}
    stem = {"layer0.0": "conv1", "layer0.1": "bn1", "layer0.3": "conv2", "layer0.4": "bn2"}
    stem |= {"layer0.6": "conv3", "layer0.7": "bn3"}
    generator = torch.Generator().manual_seed(2)
    state = {"fc.weight": torch.zeros(2, 2)}
    for key, shape in shapes.items():
        prefix, _, rest = key.rpartition(".")
        state[f"{stem.get(prefix, prefix)}.{rest}"] = torch.rand(shape, generator=generator)
    torch.save(state, tmp_path / "resnet50_v2.pth")
    network = build_model("psp50", classes=4, weights=tmp_path / "resnet50_v2.pth")
    assert torch.equal(network.layer0[6].weight, state["conv3.weight"])
    assert torch.equal(network.layer0[7].running_var, state["bn3.running_var"])
    assert torch.equal(network.layer3[5].conv3.weight, state["layer3.5.conv3.weight"])


def test_imagenet_weights_of_another_network_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "stub.pth")
    with pytest.raises(ValueError, match=r"99 of the backbone's 120 tensors .* layer0\.1\.weight"):
        build_model("psp18", classes=4, weights=tmp_path / "stub.pth")


def test_deep_stems_need_a_file_of_imagenet_weights():
    with pytest.raises(ValueError, match=r"psp50 .* give the file as weights"):
        build_model("psp50", classes=4, pretrained=True)


def test_a_failing_download_says_where_to_put_the_file(monkeypatch, tmp_path):
    def fail(*_arguments, **_named):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(OSError, match=r"no route to host.*checkpoints/resnet18-f37072fd.pth.*pretrained to false"):
        build_model("psp18", classes=4, pretrained=True)


def test_features_have_half_precision_under_the_autocast_of_a_gpu():
    """CUDA's autocast interpolates in float32, unlike the CPU's. Fake tensors follow its rules without a GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            outputs = PSPNet(classes=5).outputs(torch.randn(2, 3, 65, 65))
            enlarged = nn.functional.interpolate(outputs["logits"], scale_factor=2.0, mode="bilinear")
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
    assert enlarged.dtype == torch.float32
    assert {name: x.dtype for name, x in outputs.items()} == dict.fromkeys(("logits", "fea", "dsn"), torch.float16)
