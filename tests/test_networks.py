"""Networks from settings: the ImageNet start, somebody's module; what errors name."""

import hashlib
import logging
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from etc.config import load_settings
from etc.errors import UserError
from etc.networks import network_for_cost, new_network, trained_network
from etc.predict.onnx_export import export_onnx
from etc.train.build import new_student
from model import build_model
from tests.scripts import run

SOURCE = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))
"""


def test_a_file_of_imagenet_weights_starts_the_backbone(tmp_path):
    torch.manual_seed(1)
    imagenet = resnet18()
    torch.save(imagenet.state_dict(), tmp_path / "resnet18.pth")
    network = new_network(load_settings(None, [f"TRAIN.backbone_weights={tmp_path}/resnet18.pth"]))
    assert torch.equal(network.layer3[1].conv2.weight, imagenet.layer3[1].conv2.weight)
    assert torch.equal(network.layer0[1].running_var, imagenet.bn1.running_var)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            ["TRAIN.backbone_weights=no.pth"],
            r"TRAIN\.arch psp18 with TRAIN\.backbone_weights no\.pth: no .* at no\.pth",
        ),
        (
            ["TRAIN.backbone_weights=bad.pth"],
            r"TRAIN\.backbone_weights bad\.pth: .* damaged or no checkpoint",
        ),
        (["TRAIN.backbone_weights=foreign.pth"], r"backbone_weights foreign\.pth: the ImageNet weights do not fit"),
        (
            ["TRAIN.backbone_weights=x.pth", "TRAIN.arch=lraspp"],
            r"lraspp with TRAIN\.backbone_weights .* takes no file",
        ),
        (
            ["TRAIN.layers=50", "TRAIN.pretrained=true"],
            r"psp50 with TRAIN\.pretrained and no TRAIN\.backbone_weights: ",
        ),
        (["TRAIN.arch=psp17"], r"^TRAIN\.arch psp17: arch 'psp17' is unknown"),
    ],
)
def test_what_is_wrong_with_the_start_names_its_setting(tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    Path("bad.pth").write_bytes(b"none")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "foreign.pth")
    with pytest.raises(UserError, match=named):
        new_network(load_settings(None, ["TRAIN.pretrained=false", *words]))


@pytest.mark.parametrize(("last", "refused"), [("", False), (", nn.Softmax(1)", True), (", nn.Sigmoid()", True)])
def test_somebodys_network_that_returns_probabilities_is_not_trained_on_them(tmp_path, monkeypatch, last, refused):
    source = SOURCE.replace("nn.Conv2d(8, classes, 1)", f"nn.Conv2d(8, classes, 1){last}")
    (tmp_path / f"network_{refused}_{len(last)}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_settings(None, [f"TRAIN.arch=network_{refused}_{len(last)}:make", "TRAIN.pretrained=false"])
    if refused:
        with pytest.raises(UserError, match=r"^TRAIN\.arch network_.*:make returns probabilities, expected logits"):
            new_student(settings, torch.device("cpu"))
    else:
        assert new_student(settings, torch.device("cpu")).training


def test_somebodys_network_without_clear_logits_in_evaluation_is_refused_before_training(tmp_path, monkeypatch):
    code = """
from torch import nn

class Two(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 3, 4, 1)

    def forward(self, image):
        logits = self.conv(image)
        return {"out": logits} if self.training else [logits, logits]
"""
    (tmp_path / "network_of_two.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_settings(None, ["TRAIN.arch=network_of_two:Two", "TRAIN.pretrained=false"])
    with pytest.raises(UserError, match=r"TRAIN\.arch network_of_two:Two: Two returned .*expected logits"):
        new_student(settings, torch.device("cpu"))


def test_somebodys_module_is_found_where_the_script_is_started(tmp_path, monkeypatch, capsys):
    (tmp_path / "network_of_this_test.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run("export_onnx", "TRAIN.arch=network_of_this_test:make", "TEST.ckpt_path=none.pth") == 2
    # The network was built: only its checkpoint is missing.
    assert capsys.readouterr().err.strip().endswith("error: TEST.ckpt_path none.pth does not exist")


def test_a_module_that_is_nowhere_is_answered_with_the_places(monkeypatch):
    settings = load_settings(None, ["TRAIN.arch=no_such_module:make", "TRAIN.pretrained=false"])
    with pytest.raises(UserError, match=r"No module named 'no_such_module'; .* on PYTHONPATH, then in the current"):
        new_network(settings)


def test_a_network_knows_the_hash_of_its_checkpoint(tmp_path):
    settings = load_settings(
        None, ["TRAIN.arch=mobile", f"TEST.ckpt_path={tmp_path}/net.pth", "TRAIN.pretrained=false"]
    )
    network = new_network(settings)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    expected = hashlib.sha256((tmp_path / "net.pth").read_bytes()).hexdigest()
    assert network.weights_sha256 is None and trained_network(settings).weights_sha256 == expected


def test_a_checkpoint_that_is_not_finite_is_refused_under_its_setting(tmp_path, capsys):
    network = new_network(load_settings(None, ["TRAIN.arch=mobile", "TRAIN.pretrained=false"]))
    state = network.state_dict()
    name = next(iter(state))
    state[name] *= float("inf")
    torch.save({"student": state}, tmp_path / "net.pth")
    assert run("test", "TRAIN.arch=mobile", f"TEST.ckpt_path={tmp_path}/net.pth") == 2
    assert f"error: TEST.ckpt_path: {tmp_path}/net.pth: " in (error := capsys.readouterr().err)
    assert f"values of {name} are NaN or infinite" in error and "Traceback" not in error


def test_weights_of_another_number_of_classes_start_where_they_fit(tmp_path, caplog):
    trained = build_model("psp18", classes=5)
    torch.save({"model": trained.state_dict()}, tmp_path / "five.pth")
    words = ["DATA.classes=7", "TRAIN.arch=psp", "TRAIN.pretrained=false", f"TRAIN.weight={tmp_path}/five.pth"]
    with pytest.raises(UserError, match=r"^TRAIN\.weight: .*five\.pth .*of another shape .*TRAIN\.weight_strict false"):
        new_network(load_settings(None, words))
    caplog.set_level(logging.INFO)
    network = new_network(load_settings(None, [*words, "TRAIN.weight_strict=false"]))
    own, before = network.state_dict(), trained.state_dict()
    anew = [name for name in own if own[name].shape != before[name].shape]
    assert len(anew) == 4 and all(torch.equal(own[name], before[name]) for name in own if name not in anew)
    assert f"4 tensors start anew: {', '.join(anew)}" in caplog.text


def test_what_a_checkpoint_has_besides_is_named(tmp_path, caplog):
    torch.save(build_model("psp18", classes=2).state_dict() | {"extra.bias": torch.zeros(3)}, tmp_path / "net.pth")
    words = ["DATA.classes=2", "TRAIN.pretrained=false", f"TRAIN.weight={tmp_path}/net.pth"]
    caplog.set_level(logging.INFO)
    new_network(load_settings(None, [*words, "TRAIN.weight_strict=false"]))
    assert "left out: extra.bias" in caplog.text and "start anew" not in caplog.text


def test_a_checkpoint_of_another_output_stride_is_not_predicted_with(tmp_path):
    """The weights fit, and the file says that they belong to another network."""
    words = ["TRAIN.arch=timm:mobilenetv3_small_050@16", "TRAIN.pretrained=false", f"TEST.ckpt_path={tmp_path}/a.pth"]
    settings = load_settings(None, words)
    path = tmp_path / "a.pth"
    torch.save({"student": new_network(settings).state_dict(), "config": settings.model_dump(mode="json")}, path)
    assert trained_network(settings) is not None
    other = load_settings(None, [*words, "TRAIN.arch=timm:mobilenetv3_small_050@32"])
    with pytest.raises(UserError, match=r"trained as timm:mobilenetv3_small_050@16, and timm:.*@32 is to load it"):
        trained_network(other)
    with pytest.raises(UserError, match=r"missing.*trained as timm:mobilenetv3_small_050@16, and lraspp"):
        trained_network(load_settings(None, [*words, "TRAIN.arch=lraspp"]))


def test_to_train_on_from_a_checkpoint_of_another_output_stride_is_a_warning(tmp_path, caplog):
    words = ["TRAIN.arch=timm:mobilenetv3_small_050@16", "TRAIN.pretrained=false"]
    settings = load_settings(None, words)
    path = tmp_path / "a.pth"
    torch.save({"student": new_network(settings).state_dict(), "config": settings.model_dump(mode="json")}, path)
    new_network(load_settings(None, [*words, "TRAIN.arch=timm:mobilenetv3_small_050@32", f"TRAIN.weight={path}"]))
    assert "was trained as timm:mobilenetv3_small_050@16" in caplog.text


def test_several_checkpoints_predict_the_mean_of_their_logits_and_cost_as_many_networks(tmp_path):
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(build_model("lraspp", classes=4, pretrained=False).eval())
        torch.save({"student": networks[-1].state_dict()}, tmp_path / f"{seed}.pth")
    words = ["DATA.classes=4", "TRAIN.arch=lraspp", "TEST.device=cpu"]
    settings = load_settings(None, [*words, f"TEST.ckpt_path=[{tmp_path}/1.pth, {tmp_path}/2.pth]"])
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = (networks[0].outputs(image)["logits"] + networks[1].outputs(image)["logits"]) / 2
        torch.testing.assert_close(trained_network(settings).outputs(image)["logits"], expected)
    one = load_settings(None, [*words, f"TEST.ckpt_path={tmp_path}/1.pth"])
    parameters = [sum(p.numel() for p in network_for_cost(each).parameters()) for each in (one, settings)]
    assert parameters[1] == 2 * parameters[0]
    hashes = [hashlib.sha256((tmp_path / f"{seed}.pth").read_bytes()).hexdigest() for seed in (1, 2)]
    assert trained_network(one).weights_sha256 == hashes[0]
    assert trained_network(settings).weights_sha256 == "+".join(hashes)


@pytest.mark.parametrize(
    ("words", "named"), [("[]", "names no checkpoint"), ("[a.pth, a.pth]", "names a checkpoint twice")]
)
def test_a_list_of_no_checkpoint_or_of_one_twice_is_refused(words, named):
    with pytest.raises(UserError, match=rf"TEST\.ckpt_path: {named}"):
        load_settings(None, [f"TEST.ckpt_path={words}"])


def test_an_export_of_several_checkpoints_needs_a_name():
    pytest.importorskip("onnxscript")
    with pytest.raises(UserError, match="several checkpoints become one file: name it with --out"):
        export_onnx(load_settings(None, ["TEST.ckpt_path=[a.pth, b.pth]"]))
