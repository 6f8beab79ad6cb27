"""Networks of other libraries through the scripts: a few steps with the motion loss, and prediction.

tests/predict/test_onnx_export.py exports them."""

import json
import sys

import numpy as np
import pytest

from tests.scripts import run

# The forward of mmsegmentation's EncoderDecoder: what it returns depends on the mode, and without one it is logits.
MMSEGMENTATION = """
from torch import nn

class EncoderDecoder(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.decode_head = nn.Conv2d(8, classes, 1)
        self.auxiliary_head = nn.Conv2d(8, classes, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "tensor":
            raise RuntimeError(f"mode {mode} needs data_samples")
        return self.decode_head(self.backbone(inputs))

def init_model(config, device):
    return EncoderDecoder(classes=19)
"""
FACTORY = """
from apis_of_mmseg import init_model

def make(classes):
    network = init_model("segformer.py", device="cpu")
    network.auxiliary_head = None
    network.new_layers = ("decode_head",)
    return network
"""
TRANSFORMER = ["TRAIN.optimizer=adamw", "TRAIN.base_lr=6e-4", "TRAIN.warmup=2", "TRAIN.weight_decay=0.01"]


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("transformers:segformer_b0", TRANSFORMER),
        ("timm:pvt_v2_b0@segformer", TRANSFORMER),
        ("timm:mobilenetv3_small_050@16", []),
        ("smp:FPN/resnet18", []),
        ("factory_of_mmseg:make", []),
    ],
)
def test_a_network_is_trained_with_motion_loss_and_predicts(tiny_training, tmp_path, monkeypatch, arch, words):
    (tmp_path / "apis_of_mmseg.py").write_text(MMSEGMENTATION)
    (tmp_path / "factory_of_mmseg.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("apis_of_mmseg", "factory_of_mmseg"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = [*tiny_training, f"TRAIN.arch={arch}", "TRAIN.pretrained=false", "TRAIN.print_freq=1", *words]
    assert run("train_with_flow", *words) == 0
    rows = [line.split(",") for line in (tmp_path / "run/log.csv").read_text().splitlines()[1:]]
    motion = [float(value) for _, name, value in rows if name.endswith("motion")]
    assert motion and all(0 < value < np.inf for value in motion)
    assert run("test", *words) == 0
    assert 0 <= json.loads((tmp_path / "run/result/miou.json").read_text())["mIoU"] <= 1
