"""Exported networks: what the file computes, at which sizes, what stands in it, and what is refused."""

import json
import re
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from etc.predict import onnx_export as export
from model import build_model
from tests.scripts import run

CLASSES = 5
SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

class Tiny(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Conv2d(3, classes, 3, stride=2, padding=1)

    def forward(self, image):
        x = self.head(image)
        return {"out": x + F.interpolate(F.adaptive_avg_pool2d(x, (3, 2)), size=x.shape[-2:])}

class Fussy(Tiny):
    def forward(self, image):
        assert image.shape[-1] % 32 == 0, f"width {image.shape[-1]} is no multiple of 32"
        return super().forward(image)

class Unlucky(Tiny):
    def forward(self, image):
        assert image.shape[-1] != 65, "width 65 is unlucky"
        return super().forward(image)

class Stubborn(Tiny):
    def forward(self, image):
        return super().forward(image)["out"] * (1 if image.sum() > 0 else 2)
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Makes the settings of a network with a checkpoint whose logits are far from constant."""
    (tmp_path / "exported_network.py").write_text(SOURCE)
    (tmp_path / "names.txt").write_text("\n".join(f"class {index}" for index in range(CLASSES)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "exported_network", raising=False)

    def make(arch: str) -> list[str]:
        torch.manual_seed(0)
        network = build_model(arch, classes=CLASSES).train()
        with torch.no_grad():
            for _ in range(3):  # running statistics of the start, 0 and 1, would let the features die out
                network(torch.randn(2, 3, 64, 96))
        torch.save({"student": network.state_dict()}, tmp_path / "best.pth")
        return [
            f"TRAIN.arch={arch}",
            f"DATA.classes={CLASSES}",
            f"DATA.names_path={tmp_path}/names.txt",
            f"TEST.ckpt_path={tmp_path}/best.pth",
            "TEST.device=cpu",
        ]

    return make


def computed(path: Path, image: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def network_of(arch: str, tmp_path: Path) -> torch.nn.Module:
    network = build_model(arch, classes=CLASSES)
    network.load_state_dict(torch.load(tmp_path / "best.pth", weights_only=True)["student"])
    return network.eval()


def error_of(capsys, *arguments: object) -> str:
    """The one line of a script call that must be refused."""
    capsys.readouterr()
    assert run("export_onnx", *arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


SLOW = (
    "mobile",
    "lraspp",
    "timm:mobilenetv3_small_050@16",
    "timm:pvt_v2_b0@segformer",
    "smp:FPN/resnet18",
)


@pytest.mark.parametrize(
    "arch",
    ["psp18"]
    + [
        pytest.param(arch, marks=pytest.mark.slow) for arch in ("transformers:segformer_b0", "smp:Unet/resnet18", *SLOW)
    ],
)
def test_the_file_computes_what_torch_computes_at_sizes_it_was_not_traced_at(words, tmp_path, capsys, arch):
    assert run("export_onnx", *words(arch), "--check", "96x128", "--check", "97x161") == 0
    assert "opset 18" in (out := capsys.readouterr().out) and "97x161: logits differ by" in out
    network = network_of(arch, tmp_path)
    for shape in ((1, 3, 64, 200), (3, 3, 83, 75)):
        image = torch.randn(shape)
        with torch.inference_mode():
            logits = network(image)
        assert logits.std() > 0.01  # constant logits would be equal whatever the file computed
        found = computed(tmp_path / "best.onnx", image)
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-4)
        assert (found.argmax(1) == logits.argmax(1)).float().mean() >= 0.999


def test_labels_are_the_argmax_as_bytes(words, tmp_path):
    arch, out = "exported_network:Tiny", tmp_path / "deep/labels.onnx"
    assert run("export_onnx", *words(arch), "--labels", "--out", out) == 0
    image = torch.randn(2, 3, 37, 50)
    with torch.inference_mode():
        expected = network_of(arch, tmp_path)(image).argmax(1)
    found = computed(out, image)
    assert found.dtype == torch.uint8 and found.shape == (2, 37, 50)
    assert (found == expected).float().mean() >= 0.999


def test_the_file_says_how_it_is_to_be_fed_and_what_it_returns(words, tmp_path):
    assert run("export_onnx", *words("exported_network:Tiny"), "--opset", "20") == 0
    model = onnx.load(tmp_path / "best.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["classes"] == str(CLASSES)
    assert json.loads(facts["names"]) == [f"class {index}" for index in range(CLASSES)]
    assert json.loads(facts["mean"]) == [123.675, 116.28, 103.53]
    assert json.loads(facts["std"]) == [58.395, 57.12, 57.375]
    assert facts["input"].startswith("RGB, float32 [batch, 3, height, width]")
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    names = [dimension.dim_param or dimension.dim_value for dimension in image.type.tensor_type.shape.dim]
    assert names == ["batch", 3, "height", "width"]


def test_a_network_of_some_sizes_only_is_compared_at_sizes_that_it_takes(words, tmp_path):
    arch = "exported_network:Fussy"
    assert run("export_onnx", *words(arch), "--check", "64x64", "--check", "50x96") == 0
    image = torch.randn(1, 3, 33, 160)
    with torch.inference_mode():
        logits = network_of(arch, tmp_path)(image)
    torch.testing.assert_close(computed(tmp_path / "best.onnx", image), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 6), (12, 17), (97, 3)])
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 3), (6, 6), (3, None), (8, 1)])
def test_grid_means_are_the_adaptive_average_pool(size, grid):
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(export.grid_means(x, grid), F.adaptive_avg_pool2d(x, grid), rtol=0, atol=1e-12)


def test_a_file_that_computes_something_else_is_not_kept(words, tmp_path, capsys, monkeypatch):
    overrides = words("exported_network:Tiny")
    (tmp_path / "best.onnx").write_bytes(b"of an earlier export")
    before = set(tmp_path.iterdir())
    monkeypatch.setattr(export, "grid_means", lambda x, size: x.new_zeros(*x.shape[:2], *size))
    line = error_of(capsys, *overrides)
    assert "does not compute what torch does, it is removed: 128x256: logits differ by" in line
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "__pycache__"}
    assert (tmp_path / "best.onnx").read_bytes() == b"of an earlier export"


@pytest.mark.parametrize(
    ("arch", "arguments", "named"),
    [
        (
            "Unlucky",
            ["--check", "64x64", "--check", "64x65"],
            r"refuses images of 64x65 .*: width 65 is unlucky \(ETC_DEBUG=1 shows",
        ),
        ("Stubborn", [], r"the network cannot be exported: GuardOnDataDependentSymNode: .* \(ETC_DEBUG=1 shows"),
        ("Tiny", ["--check", "64"], "--check 64: expected HEIGHTxWIDTH"),
        ("Tiny", ["--opset", "99"], "opset 99: torch wrote 18"),
        ("Tiny", ["--out", "net.pt"], r"net\.pt: expected a file name that ends in \.onnx"),
        ("Tiny", ["TEST.ckpt_path=nowhere.pth"], r"TEST\.ckpt_path nowhere\.pth does not exist"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(words, tmp_path, capsys, arch, arguments, named):
    line = error_of(capsys, *words(f"exported_network:{arch}"), *arguments)
    assert re.search(named, line)
    assert not list(tmp_path.rglob("*.onnx"))


def test_missing_packages_are_named_with_the_command_that_installs_them(words, capsys, monkeypatch):
    monkeypatch.setattr(export, "PACKAGES", ("onnx", "no_such_runtime"))
    line = error_of(capsys, *words("exported_network:Tiny"))
    assert line == "error: the export needs no_such_runtime: pip install no_such_runtime"
