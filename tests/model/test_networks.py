"""What every network of build_model must do, on tiny images; then what is special to the borrowed ones."""

import copy
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, mobilenet_v3_large

from model import SegmentationNetwork, build_model, load_student, parameter_groups

CLASSES = 5
SOURCE = """
import dataclasses

import torch
from torch import nn

class Tiny(nn.Module):
    new_layers = ("head",)

    def __init__(self, classes):
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, image):
        return self.head(self.network(image))

def plain(classes):
    return Tiny(classes)

class WithOut(Tiny):
    def forward(self, image):
        features = self.network(image)
        return {"out": self.head(features), "fea": features, "aux": features}

def deaf(classes):
    return Tiny(classes + 1)

def listing(classes):
    return [classes]

def greedy(classes, depth):
    return Tiny(classes)

class Pair(Tiny):
    def forward(self, image):
        return super().forward(image), None

class Twins(Tiny):
    def forward(self, image):
        return super().forward(image), super().forward(image)

class Listed(Tiny):
    def forward(self, image):
        return [super().forward(image)]

@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor = None

class Structured(Tiny):
    def forward(self, image):
        return Output(super().forward(image))

class Skips(nn.Module):
    '''An encoder and a decoder whose maps are added: the sides must be multiples of 8.'''
    def __init__(self, classes):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, stride=2, padding=1) for i in range(3))
        self.head = nn.Conv2d(4, classes, 1)
    def forward(self, image):
        maps = []
        for layer in self.down:
            image = layer(image)
            maps.append(image)
        for before in maps[-2::-1]:
            image = nn.functional.interpolate(image, scale_factor=2) + before
        return nn.functional.interpolate(self.head(image), scale_factor=2)

class Nothing(Tiny):
    def forward(self, image):
        return {"out": super().forward(image), "fea": None, "dsn": None}

class Fourteen(Tiny):
    def forward(self, image):
        assert image.shape[-1] % 14 == 0 and image.shape[-2] % 14 == 0, "sides must be multiples of 14"
        return super().forward(image)

class Forty(Tiny):
    def forward(self, image):
        assert image.shape[2] % 40 == image.shape[3] % 40 == 0, "needs multiples of 40"
        return super().forward(image)

class OneName(Tiny):
    new_layers = ("head")

class Misspelt(Tiny):
    new_layers = ("network", "haed")

class Broken(Tiny):
    def forward(self, image):
        raise RuntimeError("never runs")

answer = 42
"""


class FakeFeatures(nn.Module):
    """Looks like a timm network made with ``features_only``."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, stride=stride, padding=1)
        self.deep = nn.Conv2d(20, 24, 3, stride=2, padding=1)
        self.feature_info = types.SimpleNamespace(channels=lambda: [20, 24])

    def forward(self, image):
        middle = self.stem(image)
        return [middle, self.deep(middle)]


def fake_timm(create) -> types.ModuleType:
    module = types.ModuleType("timm")
    module.__version__ = "9.9"
    module.is_model = lambda name: name == "fake"
    module.list_models = lambda: ["fake", "resnet18"]
    module.create_model = create
    return module


def create_fake(name, *, features_only, pretrained, output_stride=32):
    return FakeFeatures(stride=output_stride // 2)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A network on PYTHONPATH and a stand-in for timm."""
    (tmp_path / "somebodys_network.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_network", raising=False)
    monkeypatch.setitem(sys.modules, "timm", fake_timm(create_fake))


ARCHS = [
    "psp18",
    "mobile",
    "lraspp",
    "deeplabv3_mobilenet_v3_large",
    "timm:fake",
    "somebodys_network:plain",
    "somebodys_network:WithOut",
]
every_network = pytest.mark.parametrize("arch", ARCHS)


def built(arch: str, seed: int = 0) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return build_model(arch, classes=CLASSES)


@every_network
def test_training_returns_logits_and_named_maps(arch):
    outputs = built(arch).train()(torch.randn(2, 3, 49, 65))
    assert {"logits"} <= set(outputs) <= {"logits", "dsn", "fea"}
    for name in {"logits", "dsn"} & set(outputs):
        assert outputs[name].shape[:2] == (2, CLASSES)
        assert outputs[name].requires_grad


@every_network
@torch.no_grad()
def test_evaluation_returns_logits_at_the_size_of_the_image(arch):
    network = built(arch).eval()
    for size in ((48, 64), (49, 65), (33, 70)):
        logits = network(torch.randn(1, 3, *size))
        assert logits.shape == (1, CLASSES, *size)
        assert logits.isfinite().all()


@pytest.mark.parametrize("arch", [*ARCHS, "psp50"])
@torch.no_grad()
def test_a_frozen_teacher_gives_logits_and_the_features_that_it_has(arch):
    teacher = built(arch).eval().requires_grad_(False)
    outputs = teacher.outputs(torch.randn(2, 3, 49, 65))
    bare = ("lraspp", "deeplabv3_mobilenet_v3_large", "somebodys_network:plain")
    assert set(outputs) == ({"logits"} if arch in bare else {"logits", "fea"})
    assert outputs["logits"].shape[:2] == (2, CLASSES)
    for name in outputs:
        assert outputs[name].dim() == 4 and outputs[name].shape[0] == 2
    if arch.startswith("psp"):
        assert outputs["fea"].shape[1:] == ({"psp18": 1024, "psp50": 4096}[arch], 7, 9)


@every_network
@torch.no_grad()
def test_a_checkpoint_brings_the_predictions_back(arch, tmp_path):
    written, read = built(arch, seed=1).eval(), built(arch, seed=2).eval()
    image = torch.randn(1, 3, 48, 64)
    assert not torch.equal(written(image), read(image))
    torch.save({"student": written.state_dict(), "epoch": 1}, tmp_path / "net.pth")
    assert load_student(read, tmp_path / "net.pth") == ((), ())
    assert torch.equal(written(image), read(image))


@every_network
@torch.no_grad()
def test_a_copy_is_independent_and_equal(arch):
    network = built(arch).eval()
    twin = copy.deepcopy(network)
    assert set(twin.state_dict()) == set(network.state_dict())
    image = torch.randn(1, 3, 48, 64)
    before = network(image)
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(network(image), before)
    assert not torch.equal(twin(image), before)


@every_network
def test_groups_split_the_parameters(arch):
    network = built(arch)
    groups = parameter_groups(network, 0.01)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.1])
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize("arch", ["psp18", "somebodys_network:plain"])
def test_networks_can_be_exported(arch):
    network, image = built(arch).eval(), torch.randn(1, 3, 48, 64)
    exported = torch.export.export(network, (image,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image))


@pytest.mark.parametrize("arch", ["psp18", "mobile", "deeplabv3_mobilenet_v3_large"])
def test_training_on_one_image_says_what_to_do(arch):
    with pytest.raises(ValueError, match="batch of 1 image per process"):
        built(arch).train()(torch.randn(1, 3, 48, 64))


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'psp19' is unknown, expected one of psp18, .*, mobile"):
        build_model("psp19", classes=2)


def test_a_weights_file_is_for_pspnet_alone():
    with pytest.raises(ValueError, match="weights is for psp18"):
        build_model("lraspp", classes=2, weights="somewhere.pth")


# ---------------------------------------------------------------- torchvision


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def test_mobile_keeps_its_reach_where_strides_are_taken_away():
    plain = convolutions(mobilenet_v2().features[:18])
    dilated = convolutions(built("mobile").encoder.features)
    assert set(plain) == set(dilated)
    stride = 1  # of the plain network, up to each layer
    for name, convolution in plain.items():
        own = dilated[name]
        if convolution.kernel_size == (3, 3):
            lost = max(1, stride // 8)  # how much of the stride so far the dilated network did not take
            assert own.dilation == (lost, lost), name
            assert own.padding == (lost, lost), name
        stride *= convolution.stride[0]
        assert own.stride == convolution.stride or stride > 8, name
    assert stride == 32


@torch.no_grad()
def test_mobile_features_at_every_fourth_cell_are_those_of_the_plain_network():
    # dilation computes the strided features and those in between; away from the borders they agree
    torch.manual_seed(0)
    plain = mobilenet_v2().features[:18].eval()
    network = built("mobile").eval()
    network.encoder.load_state_dict({f"features.{key}": value for key, value in plain.state_dict().items()})
    image = torch.randn(1, 3, 64, 96)
    _, deep = network.encoder(image)
    assert deep.shape[-2:] == (8, 12)
    torch.testing.assert_close(deep[..., ::4, ::4], plain(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "donor", "backbone"),
    [
        ("mobile", mobilenet_v2, lambda network: network.encoder.features),
        ("lraspp", mobilenet_v3_large, lambda network: network.network.backbone),
        ("deeplabv3_mobilenet_v3_large", mobilenet_v3_large, lambda network: network.network.backbone),
    ],
)
def test_imagenet_weights_reach_the_whole_backbone(arch, donor, backbone, monkeypatch):
    torch.manual_seed(9)
    weights = {key: torch.rand_like(value.float()) for key, value in donor().state_dict().items()}
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", lambda self, **_: weights)
    network = build_model(arch, classes=CLASSES, pretrained=True)
    state = backbone(network).state_dict()
    assert len(state) > 200
    for key, value in state.items():
        torch.testing.assert_close(value, weights[f"features.{key}"].to(value.dtype))


def test_deeplab_has_an_auxiliary_head_unless_told_otherwise():
    image = torch.randn(2, 3, 48, 64)
    assert set(built("deeplabv3_mobilenet_v3_large").train()(image)) == {"logits", "dsn"}
    bare = build_model("deeplabv3_mobilenet_v3_large", classes=CLASSES, aux=False)
    assert set(bare.train()(image)) == {"logits"}


# ---------------------------------------------------------------- timm


def test_timm_encoders_are_dilated_where_they_can_be():
    outputs = built("timm:fake").train()(torch.randn(2, 3, 64, 96))
    assert outputs["logits"].shape[-2:] == (8, 12)
    assert outputs["dsn"].shape[-2:] == (16, 24)


def test_timm_encoders_that_cannot_be_dilated_keep_their_stride(monkeypatch):
    def create(name, *, features_only, pretrained, output_stride=32):
        if output_stride != 32:
            raise NotImplementedError("no dilation here")
        return create_fake(name, features_only=True, pretrained=False)

    monkeypatch.setitem(sys.modules, "timm", fake_timm(create))
    assert built("timm:fake").train()(torch.randn(2, 3, 64, 96))["logits"].shape[-2:] == (2, 3)


@pytest.mark.parametrize("option", [{"strict_img_size": False}, {"dynamic_img_size": True, "dynamic_img_pad": True}])
def test_timm_transformers_are_asked_to_take_images_of_any_size(monkeypatch, option):
    def create(name, *, features_only, pretrained, **options):
        if options != option:
            raise TypeError(f"unexpected {options}")
        return FakeFeatures(stride=16)

    monkeypatch.setitem(sys.modules, "timm", fake_timm(create))
    assert built("timm:fake").eval()(torch.randn(1, 3, 64, 96)).shape == (1, CLASSES, 64, 96)


def test_timm_features_with_the_channels_last_are_turned(monkeypatch):
    class ChannelsLast(FakeFeatures):
        def forward(self, image):
            return [x.permute(0, 2, 3, 1) for x in super().forward(image)]

    monkeypatch.setitem(sys.modules, "timm", fake_timm(lambda name, **_: ChannelsLast(4)))
    fea = built("timm:fake").train()(torch.randn(2, 3, 192, 96))["fea"]
    assert fea.shape == (2, 48, 24, 12)  # as high as the encoder's map has channels


def test_pretrained_is_handed_to_timm(monkeypatch):
    asked = []

    def create(name, *, features_only, pretrained, output_stride):
        asked.append(pretrained)
        return FakeFeatures(stride=4)

    monkeypatch.setitem(sys.modules, "timm", fake_timm(create))
    for pretrained in (True, False):
        build_model("timm:fake", classes=2, pretrained=pretrained)
    assert asked == [True, False]


def refuse(error):
    def create(*_arguments, **_settings):
        raise error

    return create


@pytest.mark.parametrize(
    ("timm", "named"),
    [
        (None, "needs the package timm"),
        (fake_timm(refuse(RuntimeError("features_only not implemented"))), "features_only not implemented"),
    ],
)
def test_what_timm_cannot_do_is_said(timm, named, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", timm)
    with pytest.raises(ValueError, match=named):
        built("timm:fake")


def test_networks_that_timm_does_not_know_are_named():
    with pytest.raises(ValueError, match=r"timm 9\.9 has no network 'resnet17'; near names: resnet18$"):
        built("timm:resnet17")


def test_a_failing_download_of_timm_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", fake_timm(refuse(OSError("no route to host"))))
    with pytest.raises(OSError, match=r"timm's weights of fake \(no route to host\).*pretrained to false"):
        build_model("timm:fake", classes=2, pretrained=True)


def test_encoders_of_one_image_size_are_refused(monkeypatch):
    class Fixed(FakeFeatures):
        def forward(self, image):
            raise AssertionError("Input height (96) doesn't match model (224).")

    monkeypatch.setitem(sys.modules, "timm", fake_timm(lambda name, **_: Fixed(4)))
    with pytest.raises(ValueError, match=r"timm:fake does not take images of any size: Input height"):
        built("timm:fake")


# ---------------------------------------------------------------- anybody's


def test_somebodys_checkpoint_keys_have_no_prefix():
    keys = set(built("somebodys_network:plain").state_dict())
    assert keys == {
        *(f"network.1.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
        "network.1.num_batches_tracked",
        *(f"{layer}.{part}" for layer in ("network.0", "head") for part in ("weight", "bias")),
    }


def test_somebodys_network_loads_inside_another_module():
    written, read = (nn.ModuleDict({"student": built("somebodys_network:plain", seed)}) for seed in (1, 2))
    read.load_state_dict(written.state_dict())
    assert "student.head.weight" in written.state_dict()
    assert torch.equal(read["student"].network.head.weight, written["student"].network.head.weight)


@torch.no_grad()
def test_somebodys_logits_are_resized_with_aligned_corners():
    network, image = built("somebodys_network:plain").eval(), torch.randn(1, 3, 49, 65)
    coarse = network.network(image)
    assert coarse.shape[-2:] == (13, 17)
    expected = F.interpolate(coarse, (49, 65), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(image), expected)


def test_a_dict_with_out_is_used_without_an_auxiliary_head():
    assert set(built("somebodys_network:WithOut").train()(torch.randn(2, 3, 48, 64))) == {"logits", "fea"}


def test_new_layers_of_somebodys_network_learn_faster():
    network = built("somebodys_network:plain")
    _, fast = parameter_groups(network, 0.01)
    assert {id(p) for p in fast["params"]} == {id(p) for p in network.network.head.parameters()}
    assert built("somebodys_network:OneName").new_layers == ("network.head",)
    with pytest.raises(ValueError, match="its new_layers names 'haed', which is none of its submodules"):
        built("somebodys_network:Misspelt")


@pytest.mark.parametrize("arch", ["psp18", "mobile", "lraspp", "deeplabv3_resnet50"])
def test_networks_for_any_size_take_no_multiple(arch):
    with pytest.raises(ValueError, match="takes images of any size"):
        build_model(arch, classes=5, pad_to=32)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("nowhere", r"there is no nowhere in .*somebodys_network\.py"),
        ("answer", "is no function but of type int"),
        ("listing", "made a list"),
        ("greedy", "missing a required argument: 'depth'"),
    ],
)
def test_factories_that_are_none_are_refused(name, named):
    with pytest.raises(ValueError, match=rf"{name}.*{named}"):
        built(f"somebodys_network:{name}")


@pytest.mark.parametrize("arch", ["my-net:make", ".net:make", ":make", "net:"])
def test_names_that_no_function_can_have_are_refused(arch):
    with pytest.raises(ValueError, match=r"no name of a function, expected package\.module:factory"):
        built(arch)


def test_a_module_that_cannot_be_imported_is_named():
    with pytest.raises(ValueError, match=r"arch 'no_such_package:net': cannot be imported: No module named"):
        built("no_such_package:net")
    with pytest.raises(ValueError, match="arch 'net:make:it': there is no folder net"):
        built("net:make:it")


@pytest.mark.parametrize(
    ("name", "named"),
    [("deaf", r"a tensor \(2, 6, 12, 16\), expected logits \[N, 5, H, W\]"), ("Twins", "a tuple")],
)
def test_returned_things_that_are_no_logits_are_named(name, named):
    with pytest.raises(ValueError, match=named):
        built(f"somebodys_network:{name}")(torch.randn(2, 3, 48, 64))


@pytest.mark.parametrize("name", ["Pair", "Listed", "Structured"])
def test_logits_in_a_tuple_a_list_or_a_dataclass_are_found(name):
    network, image = built(f"somebodys_network:{name}").eval(), torch.randn(1, 3, 48, 64)
    returned = network.network(image)
    logits = returned.logits if name == "Structured" else returned[0]
    torch.testing.assert_close(network.outputs(image)["logits"], logits)


@torch.no_grad()
def test_the_multiple_that_a_network_needs_is_found_and_its_images_are_padded():
    network = built("somebodys_network:Skips").eval()
    assert network.pad_to == 8
    image = torch.randn(2, 3, 43, 61)
    padded = F.pad(image, (0, 3, 0, 5), mode="replicate")
    torch.testing.assert_close(network(image), network.network(padded)[..., :43, :61])
    assert network(torch.randn(1, 3, 48, 64)).shape[-2:] == (48, 64)
    compiled = torch.compile(network.outputs, backend="eager")
    image = torch.randn(1, 3, 48, 64)
    assert compiled(image)["logits"].shape == network.outputs(image)["logits"].shape
    assert built("somebodys_network:plain").pad_to == 1
    assert build_model("somebodys_network:Skips", classes=5, pad_to=16).pad_to == 16


def test_entries_without_a_map_are_no_outputs():
    network = built("somebodys_network:Nothing")
    for mode in (True, False):
        assert set(network.train(mode).outputs(torch.randn(2, 3, 48, 64))) == {"logits"}


def test_other_multiples_are_tried_too_and_a_network_that_never_runs_is_warned_of(caplog):
    assert built("somebodys_network:Fourteen").pad_to == 14
    assert built("somebodys_network:Forty").pad_to == 1  # and not 24, of which 120 is a multiple, too
    caplog.clear()
    assert built("somebodys_network:Broken").pad_to == 1
    assert "Broken runs on images of no size that was tried (never runs): set TEST.pad_to" in caplog.text


def test_pretrained_is_the_business_of_the_factory():
    with pytest.raises(ValueError, match="pretrained is not for arch 'somebodys_network:plain'"):
        build_model("somebodys_network:plain", classes=2, pretrained=True)
