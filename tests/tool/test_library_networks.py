"""Networks of other libraries through the scripts: a few steps with the motion loss, and prediction.

tests/predict/test_onnx_export.py exports them."""

import json
import sys
from pathlib import Path

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
PAGE = Path(__file__).resolve().parents[2] / "docs/your-own-model.md"
TRANSFORMER = ["TRAIN.optimizer=adamw", "TRAIN.base_lr=6e-4", "TRAIN.warmup=2", "TRAIN.weight_decay=0.01"]


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("transformers:segformer_b0", TRANSFORMER),
        pytest.param("timm:pvt_v2_b0@segformer", TRANSFORMER, marks=pytest.mark.slow),
        ("timm:mobilenetv3_small_050@16", []),
        pytest.param("smp:FPN/resnet18", [], marks=pytest.mark.slow),
        ("theirs:mmsegmentation", []),
    ],
)
def test_a_network_is_trained_with_motion_loss_and_predicts(tiny_training, tmp_path, monkeypatch, arch, words):
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("cat > theirs.py <<'EOF'\n")
    (tmp_path / "theirs.py").write_text(rest.partition("\nEOF\n")[0])
    (tmp_path / "mmseg").mkdir()
    (tmp_path / "mmseg/apis.py").write_text(MMSEGMENTATION)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("theirs", "mmseg", "mmseg.apis"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = [*tiny_training, f"TRAIN.arch={arch}", "TRAIN.pretrained=false", "TRAIN.print_freq=1", *words]
    assert run("train_with_flow", *words) == 0
    rows = [line.split(",") for line in (tmp_path / "run/log.csv").read_text().splitlines()[1:]]
    motion = [float(value) for _, name, value in rows if name.endswith("motion")]
    assert motion and all(0 < value < np.inf for value in motion)
    assert run("test", *words) == 0
    assert 0 <= json.loads((tmp_path / "run/result/miou.json").read_text())["mIoU"] <= 1
