"""EfficientNet-Lite0 from pip's weights: its features equal those of the network written out here."""

import pytest
import torch
from torch.nn import functional as F

from model import build_model
from model.efficientnet_lite import timm_encoder

timm = pytest.importorskip("timm")

# Kernel, stride, expansion, output channels, repeats of each stage (Tan and Le, EfficientNet, table 1; lite0).
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4)]
STAGES += [(3, 1, 6, 320, 1)]
MEAN, STD = (torch.tensor(x).view(1, 3, 1, 1) * 255 for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Random weights under the names of the pip package."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, torch.Tensor] = {}

    def convolution(name, *shape):
        made[f"{name}.weight"] = torch.randn(*shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5

    def norm(name, channels):
        for value in ("weight", "bias", "running_mean", "running_var"):
            made[f"{name}.{value}"] = 0.5 + torch.rand(channels, generator=generator)
        made[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    number, inside = 0, 32
    for kernel, _, expand, outside, repeats in STAGES:
        for _ in range(repeats):
            block, middle = f"_blocks.{number}", inside * expand
            if expand > 1:
                convolution(f"{block}._expand_conv", middle, inside, 1, 1)
                norm(f"{block}._bn0", middle)
            convolution(f"{block}._depthwise_conv", middle, 1, kernel, kernel)
            norm(f"{block}._bn1", middle)
            convolution(f"{block}._project_conv", outside, middle, 1, 1)
            norm(f"{block}._bn2", outside)
            number, inside = number + 1, outside
    convolution("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    made["_fc.weight"] = torch.randn(10, 1280, generator=generator)
    return made


def features(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The last feature map of EfficientNet-Lite0, ``x`` is ``(rgb - 127) / 128``."""

    def conv(name, x, stride=1, groups=1):
        weight, size = tensors[f"{name}.weight"], x.shape[-1]
        pad = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)  # TensorFlow's "same"
        return F.conv2d(F.pad(x, [pad // 2, pad - pad // 2] * 2), weight, stride=stride, groups=groups)

    def norm(name, x):
        parts = [tensors[f"{name}.{value}"] for value in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-3)

    x, number = F.relu6(norm("_bn0", conv("_conv_stem", x, stride=2))), 0
    for _, first_stride, expand, _, repeats in STAGES:
        for repeat in range(repeats):
            block, entering, stride = f"_blocks.{number}", x, first_stride if repeat == 0 else 1
            if expand > 1:
                x = F.relu6(norm(f"{block}._bn0", conv(f"{block}._expand_conv", x)))
            x = F.relu6(norm(f"{block}._bn1", conv(f"{block}._depthwise_conv", x, stride, groups=x.shape[1])))
            x = norm(f"{block}._bn2", conv(f"{block}._project_conv", x))
            x = x + entering if repeat else x
            number += 1
    return x


def test_features_equal_those_of_the_network_written_out(tensors):
    network = timm.create_model("tf_efficientnet_lite0", features_only=True)
    known = timm_encoder(tensors)
    known |= {"conv_stem.weight": tensors["_conv_stem.weight"], "bn1.running_mean": tensors["_bn0.running_mean"]}
    network.load_state_dict(known)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network.eval()(image)[-1], features(tensors, image)
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_first_layer_takes_frames_normalised_as_all_networks_here(tensors):
    rgb = 255 * torch.rand(1, 3, 17, 17, generator=torch.Generator().manual_seed(2))
    known = timm_encoder(tensors)
    outputs = []
    for image, weight, mean in (
        ((rgb - 127) / 128, tensors["_conv_stem.weight"], tensors["_bn0.running_mean"]),
        ((rgb - MEAN) / STD, known["conv_stem.weight"], known["bn1.running_mean"]),
    ):
        outputs.append(F.conv2d(image, weight) - mean.view(1, -1, 1, 1))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_network_starts_from_the_file(tensors, tmp_path):
    torch.save(tensors, tmp_path / "lite0.pth")
    network = build_model("timm:tf_efficientnet_lite0", classes=5, weights=tmp_path / "lite0.pth")
    own = network.encoder.network.state_dict()
    assert torch.equal(own["blocks.5.3.conv_pwl.weight"], tensors["_blocks.14._project_conv.weight"])
    assert torch.equal(own["blocks.0.0.conv_pw.weight"], tensors["_blocks.0._project_conv.weight"])


def test_weights_of_another_network_are_refused(tensors, tmp_path):
    for wrong, message in (
        ({k: v for k, v in tensors.items() if "_blocks.15." not in k}, "with 15 blocks: only lite0"),
        ({"layer1.weight": torch.zeros(3)}, "do not fit the encoder"),
    ):
        torch.save(wrong, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=message):
            build_model("timm:tf_efficientnet_lite0", classes=5, weights=tmp_path / "w.pth")
