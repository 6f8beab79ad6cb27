"""Networks of timm, transformers and smp as these libraries make them, with random weights."""

import copy
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import transformers
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from model import ARCHITECTURES, build_model, libraries, load_student, parameter_groups
from model.own_source import is_own_code
from model.segformer import SegformerHead

CLASSES = 5
# name -> output stride of the logits, multiple that images are padded to
NETWORKS = {
    "timm:resnet18@16": (16, 1),
    "timm:swin_tiny_patch4_window7_224@32": (32, 4),
    "timm:resnet18@segformer": (4, 1),
    "timm:pvt_v2_b0@segformer": (4, 1),
    "timm:hrnet_w18_small@segformer": (4, 32),
    "transformers:segformer_b0": (4, 1),
    "smp:DeepLabV3Plus/resnet18": (1, 16),
    "smp:FPN/mit_b0": (1, 32),
}
every_network = pytest.mark.parametrize("arch", NETWORKS)


def built(arch: str, seed: int = 0):
    torch.manual_seed(seed)
    return build_model(arch, classes=CLASSES)


@every_network
def test_the_logits_have_the_stride_of_the_network_and_every_parameter_learns(arch):
    stride, multiple = NETWORKS[arch]
    network = built(arch).train()
    assert network.pad_to == multiple
    outputs = network(torch.randn(2, 3, 64, 96))
    assert outputs["logits"].shape == (2, CLASSES, 64 // stride, 96 // stride)
    sum(outputs[name].square().mean() for name in {"logits", "dsn"} & set(outputs)).backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


@every_network
@torch.no_grad()
def test_images_of_odd_sizes_are_padded_by_their_border_and_the_logits_cut(arch):
    _, multiple = NETWORKS[arch]
    network = built(arch).eval()
    image = torch.randn(1, 3, 67, 93)
    found = network(image)
    network.pad_to = 1
    padded = F.pad(image, (0, -93 % multiple, 0, -67 % multiple), mode="replicate")
    logits = network.outputs(padded)["logits"]
    expected = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=True)[..., :67, :93]
    assert expected.std() > 1e-4  # constant logits would be equal whatever was cut
    torch.testing.assert_close(found, expected)


def test_features_of_a_padded_image_are_those_of_the_cells_that_it_reaches():
    network = built("timm:hrnet_w18_small@segformer").eval()
    image = torch.randn(1, 3, 67, 93)
    with torch.no_grad():
        outputs = network.outputs(image)
        whole = network.head(network.encoder(F.pad(image, (0, 3, 0, 29), mode="replicate")))
    assert outputs["logits"].shape[-2:] == (67, 93) and whole.shape[-2:] == (24, 24)
    assert torch.equal(outputs["fea"], whole[..., :17, :24])  # 67 / 4 and 93 / 4, rounded up


@every_network
def test_the_head_learns_ten_times_as_fast(arch):
    slow, fast = parameter_groups(built(arch), 0.01)
    assert (slow["lr"], fast["lr"]) == (0.01, 0.1)
    # what has the classes in its shape belongs to a head
    assert any(parameter.shape[0] == CLASSES for parameter in fast["params"])
    assert all(parameter.shape[0] != CLASSES for parameter in slow["params"])


@every_network
@torch.no_grad()
def test_a_checkpoint_and_a_copy_predict_the_same(arch, tmp_path):
    written, read = built(arch, 1).eval(), built(arch, 2).eval()
    image = torch.randn(1, 3, 64, 96)
    expected = written(image)
    torch.save({"student": written.state_dict()}, tmp_path / "net.pth")
    assert load_student(read, tmp_path / "net.pth") == ((), ())
    assert torch.equal(read(image), expected) and torch.equal(copy.deepcopy(written)(image), expected)


def test_every_name_with_a_colon_but_the_last_is_of_a_library():
    named = [arch for arch in ARCHITECTURES if ":" in arch]
    assert [is_own_code(arch) for arch in named] == [False] * (len(named) - 1) + [True]


# ---------------------------------------------------------------- timm


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_head_of_pspnet_lies_at_the_stride_that_is_asked_for(stride):
    network = build_model(f"timm:mobilenetv3_small_050@{stride}", classes=CLASSES).train()
    outputs = network(torch.randn(2, 3, 96, 64))
    assert outputs["fea"].shape[-2:] == outputs["logits"].shape[-2:] == (96 // stride, 64 // stride)


@pytest.mark.parametrize(
    ("arch", "named"),
    [
        ("timm:swin_tiny_patch4_window7_224@8", r"has the output stride 32, which timm cannot change to 8"),
        ("timm:resnet18@4", r"timm:resnet18@4: expected @8, @16 or @32, .* or @segformer"),
        ("timm:vit_tiny_patch16_224@segformer", r"vit_tiny_patch16_224 has 3 feature maps, expected 4 or more"),
        ("transformers:segformer_b6", r"segformer_b6 is unknown, expected one of segformer_b0, .*segformer_b5"),
        ("smp:Unet", r"expected smp:Architecture/encoder"),
        ("smp:Onet/resnet18", r"smp \S+ cannot make Onet/resnet18: Wrong architecture type `Onet`"),
        ("smp:Unet/resnet17", r"cannot make Unet/resnet17: Wrong encoder name `resnet17`; near names: resnet1\d+"),
    ],
)
def test_what_a_library_does_not_have_is_said(arch, named):
    with pytest.raises(ValueError, match=named):
        build_model(arch, classes=CLASSES)


def test_timm_weights_reach_the_encoder_under_the_head_of_segformer(tmp_path):
    donor = timm.create_model("resnet18")
    torch.save(donor.state_dict(), tmp_path / "resnet18.pth")
    network = build_model("timm:resnet18@segformer", classes=CLASSES, weights=tmp_path / "resnet18.pth")
    assert torch.equal(network.encoder.network.layer4[1].conv2.weight, donor.layer4[1].conv2.weight)


@torch.no_grad()
def test_the_head_of_segformer_computes_what_that_of_transformers_does():
    config = transformers.SegformerConfig(hidden_sizes=[8, 12, 16, 20], decoder_hidden_size=24, num_labels=CLASSES)
    torch.manual_seed(0)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval().decode_head
    theirs.batch_norm.running_mean.uniform_(-1, 1)
    theirs.batch_norm.running_var.uniform_(0.5, 2)
    ours = SegformerHead(channels=config.hidden_sizes, hidden=24).eval()
    state = {key.replace(".proj.", "."): value for key, value in theirs.state_dict().items() if "classifier" not in key}
    state = {key.replace("linear_projections", "linear_c"): value for key, value in state.items()}
    ours.load_state_dict({key: x[..., None, None] if x.dim() == 2 else x for key, x in state.items()})
    maps = [
        torch.randn(2, c, *size) for c, size in zip([8, 12, 16, 20], [(9, 13), (5, 7), (3, 4), (2, 2)], strict=True)
    ]
    torch.testing.assert_close(theirs.classifier(ours(maps)), theirs(maps), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 3.8), ("b1", 13.7), ("b2", 27.5), ("b3", 47.3), ("b4", 64.1), ("b5", 84.7)]
)
def test_the_sizes_are_the_published_ones(size, millions):
    with torch.device("meta"):
        network = build_model(f"transformers:segformer_{size}", classes=150)
    # SegFormer's table 1, for the 150 classes of ADE20K
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@torch.no_grad()
def test_files_of_transformers_and_its_own_state_dict_load(tmp_path):
    config = transformers.SegformerConfig(num_labels=CLASSES)  # the sizes of b0
    torch.manual_seed(3)
    theirs = transformers.SegformerForSemanticSegmentation(config).eval()
    theirs.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    image = torch.randn(1, 3, 65, 97)
    expected = F.interpolate(theirs(image).logits, (65, 97), mode="bilinear", align_corners=True)
    for file in ("model.safetensors", "own.pth"):
        network = built("transformers:segformer_b0").eval()
        assert load_student(network, tmp_path / file) == ((), ())
        torch.testing.assert_close(network(image), expected)


def test_checkpoints_have_the_keys_of_the_published_files(tmp_path):
    config = transformers.SegformerConfig(num_labels=CLASSES)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    network = built("transformers:segformer_b0")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(network.state_dict()) == set(file.keys())
    inside = nn.ModuleDict({"student": network})
    assert "student.segformer.encoder.block.0.0.attention.self.query.weight" in inside.state_dict()
    inside.load_state_dict(inside.state_dict())


def test_the_imagenet_encoder_is_loaded_and_the_head_starts_anew(tmp_path, monkeypatch):
    donor = transformers.SegformerForImageClassification(transformers.SegformerConfig())
    donor.save_pretrained(tmp_path / "mit-b0")
    monkeypatch.setattr(libraries, "IMAGENET", f"{tmp_path}/mit-{{size}}")
    network = build_model("transformers:segformer_b0", classes=CLASSES, pretrained=True)
    own, theirs = network.network.segformer.state_dict(), donor.segformer.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
    assert network.network.training and network.network.decode_head.classifier.out_channels == CLASSES


@pytest.mark.parametrize(
    ("arch", "named"),
    [
        ("transformers:segformer_b1", r"cannot download the weights .*/mit-b1 .*set pretrained to false"),
        ("smp:Unet/resnet18", r"cannot download smp's weights of resnet18 \(no route to host\).*pretrained to false"),
    ],
)
def test_a_failing_download_says_what_to_do(arch, named, tmp_path, monkeypatch):
    def unreachable(*_arguments, **_settings):
        raise OSError("no route to host")

    monkeypatch.setattr(libraries, "IMAGENET", f"{tmp_path}/mit-{{size}}")
    monkeypatch.setattr(smp, "create_model", unreachable)
    with pytest.raises(OSError, match=named):
        build_model(arch, classes=CLASSES, pretrained=True)


@pytest.mark.parametrize(
    ("arch", "package", "pip"),
    [
        ("timm:resnet18", "timm", r"pip install timm, .*pip install -e '\.\[timm\]'"),
        ("transformers:segformer_b0", "transformers", r"pip install transformers, .*'\.\[transformers\]'"),
        (
            "smp:Unet/resnet18",
            "segmentation_models_pytorch",
            r"pip install segmentation-models-pytorch, .*'\.\[smp\]'",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_pip_command_in_one_line(arch, package, pip, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"^arch {arch} needs the package {package}, .*: {pip}$") as error:
        build_model(arch, classes=CLASSES)
    assert "\n" not in str(error.value) and error.value.__cause__ is None
