"""Validation of a training: without labels, without anything, and checked before the first step."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.images import write_png
from etc.errors import UserError
from etc.evaluate import validation
from etc.networks import trained_network
from etc.train import trainer as trainer_module
from etc.train.trainer import Trainer

CPU = torch.device("cpu")
CLASSES = 3
NETWORK = """
from torch import nn

def make(classes):
    first = nn.Conv2d(3, 4, 3, stride=4, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, classes, 1))
"""

OF_CLIPS = {"TC", "pixel_consistency", "frequency_weighted_tc"}


@pytest.fixture
def video(tmp_path, monkeypatch) -> list[str]:
    """Settings of a folder with two clips of three frames each, without a single label, and a network with weights."""
    rng = np.random.default_rng(0)
    for clip in "ab":
        scene = np.kron(rng.integers(0, 255, (4, 8, 3)), np.ones((12, 12, 1))).astype(np.uint8)
        for number in range(3):
            write_png(tmp_path / f"video/{clip}/{clip}{number}.png", np.roll(scene, number, axis=1))
    lines = [[f"{clip}/{clip}{number}.png\n" for number in range(3)] for clip in "ab"]
    (tmp_path / "clips.lst").write_text("\n".join("".join(own) for own in lines))
    (tmp_path / "colors.txt").write_text("1 2 3\n4 5 6\n7 8 9\n")
    (tmp_path / "small_net.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small_net", raising=False)
    import small_net

    torch.manual_seed(0)
    torch.save(small_net.make(CLASSES).state_dict(), tmp_path / "start.pth")
    data = {
        "data_root": "video", "layout": "folder", "label_map": "none", "synthetic": "false", "classes": CLASSES,
        "train_list": "clips.lst", "clip_list": "clips.lst", "colors_path": "colors.txt",
        "allow_missing_neighbours": "true",
    }  # fmt: skip
    train = {
        "arch": "small_net:make", "pretrained": "false", "weight": "start.pth", "train_h": 32, "train_w": 48,
        "batch_size": 2, "workers": 0, "epochs": 2, "val_freq": 1, "st_weight": 0.5, "self_training": 0.1,
        "frame_gap": 1, "save_path": "run",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = [f"DATA.{key}={value}" for key, value in data.items()] + [f"TRAIN.{k}={v}" for k, v in train.items()]
    return [*words, "DATA.val_list=none", "FLOW.name=dis", "FLOW.cache=flow", "TEST.device=cpu"]


def train(overrides: list[str]) -> dict[str, float]:
    return Trainer(load_settings(None, overrides), CPU).run()


def test_training_works_without_a_single_label_and_tc_chooses_the_best(video, caplog):
    metrics = train([*video, "TRAIN.epochs=3"])
    assert set(metrics) == {*OF_CLIPS, "best_TC"} and 0 < metrics["TC"] <= metrics["best_TC"] <= 1
    assert "DATA.val_list none has no label: best.pth will be the network with the highest TC" in caplog.text
    best = torch.load("run/best.pth", weights_only=True)
    assert best["metrics"]["TC"] == best["metrics"]["best_TC"] == metrics["best_TC"]
    # The score is that of the weights in the file.
    settings = load_settings(None, video)
    again = validation.validate(trained_network(settings, Path("run/best.pth")), settings, CPU)
    assert set(again) == OF_CLIPS and all(again[key] == best["metrics"][key] for key in OF_CLIPS)


def test_a_list_without_any_label_is_the_same_as_none(video):
    metrics = train([*video, "DATA.val_list=clips.lst", "TRAIN.epochs=1"])
    assert set(metrics) == {*OF_CLIPS, "best_TC"}


def test_labels_alone_are_validated_without_any_clip(video):
    labels = labelled(1)
    metrics = train([*video, labels, "DATA.clip_list=none", "TRAIN.epochs=1"])
    assert "mIoU" in metrics and not OF_CLIPS & set(metrics)


def test_what_a_network_keeps_of_a_validation_it_can_train_with(video, monkeypatch):
    """A network that makes a map for each size keeps it from the check before the first step."""
    code = (
        "import torch\n"
        + NETWORK
        + """
class Keeping(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.slope, self.ramp = make(classes), nn.Parameter(torch.zeros(1)), None

    def forward(self, image):
        logits = self.body(image)
        if self.ramp is None or len(self.ramp) != image.shape[-1]:
            self.ramp = torch.linspace(0, 1, image.shape[-1])
        return logits + (self.slope * self.ramp).sum()
"""
    )
    Path("keeping_net.py").write_text(code)
    monkeypatch.delitem(sys.modules, "keeping_net", raising=False)
    import keeping_net

    torch.save(keeping_net.Keeping(CLASSES).state_dict(), "keeping.pth")
    crops = "TRAIN.train_h=48", "TRAIN.train_w=96"  # the size of the frames
    train([*video, "TRAIN.arch=keeping_net:Keeping", "TRAIN.weight=keeping.pth", "TRAIN.epochs=1", *crops])


def test_the_best_is_that_of_the_highest_tc(video, monkeypatch):
    scores = iter([0.2, math.nan, 0.4, 0.3])
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: {"TC": next(scores)})
    assert train([*video, "TRAIN.epochs=4"])["best_TC"] == 0.4
    assert torch.load("run/best.pth", weights_only=True)["epoch"] == 3


def test_validation_can_be_switched_off(video, monkeypatch, caplog):
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: pytest.fail("validated"))
    with caplog.at_level("INFO"):
        assert train([*video, "TRAIN.val_freq=0", "DATA.clip_list=none"]) == {}
    assert "no validation; last.pth is the trained network" in caplog.text
    assert Path("run/last.pth").is_file() and not Path("run/best.pth").exists()
    assert torch.load("run/last.pth", weights_only=True)["epoch"] == 2


def test_a_validation_that_fails_says_how_to_go_on_and_going_on_works(video, monkeypatch):
    def fail(*_arguments, **_settings):
        raise UserError("no space left")

    with (
        monkeypatch.context() as patch,
        pytest.raises(
            UserError,
            match=r"after epoch 1: no space left; the training so far is in run/last\.pth: TRAIN\.resume auto",
        ),
    ):
        patch.setattr(trainer_module, "validate", fail)
        train(video)
    assert train([*video, "TRAIN.resume=auto", "TRAIN.val_freq=0"]) == {}
    assert torch.load("run/last.pth", weights_only=True)["epoch"] == 2


def labelled(value: int, *, shape=(48, 96)) -> str:
    label = np.zeros(shape, np.uint8)
    label[:8] = value
    write_png("video/label.png", label)
    Path("val.lst").write_text("a/a0.png label.png\n")
    return "DATA.val_list=val.lst"


def clips(*lines: str) -> str:
    Path("other.lst").write_text("\n".join(lines))
    return "DATA.clip_list=other.lst"


def frame_of_another_size(name: str) -> str:
    write_png(Path("video") / name, np.zeros((40, 96, 3), np.uint8))
    return "TRAIN.val_clips=2"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda: labelled(9), r"label\.png: label value 9 is outside the classes"),
        (lambda: labelled(1, shape=(24, 48)), r"label\.png: label is 48x24, its frame is 96x48"),
        (lambda: "DATA.val_list=missing.lst", r"missing\.lst"),
        (lambda: "DATA.clip_list=none", r"nothing to validate on.* TRAIN\.val_freq 0"),
        (lambda: clips("a/a0.png", "", "b/b0.png", "b/b1.png"), "has one frame"),
        (lambda: frame_of_another_size("b/b1.png"), r"b1\.png is 96x40, its clip's first frame b0\.png is 96x48"),
        (lambda: "FLOW.name=dataset", r"FLOW\.name dataset: no flow file beside"),
        (lambda: "FLOW.name=flownet2", r"flownet2 needs its weights in FLOW\.weights"),
    ],
)
def test_what_validation_needs_is_checked_before_the_first_step(video, break_it, message, monkeypatch):
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_: pytest.fail("trained"))
    # Without motion loss, training itself needs no flow.
    with pytest.raises(UserError, match=message):
        train([*video, "TRAIN.st_weight=0", break_it()])
    assert not Path("run/last.pth").exists()


def test_flow_is_not_asked_for_across_a_gap(video, monkeypatch):
    monkeypatch.setattr(Trainer, "_train_epoch", lambda *_: pytest.fail("trained"))
    asked, seen = clips("b/b0.png", "b/b1.png", "b/b9.png"), []
    Path("video/b/b2.png").rename("video/b/b9.png")
    monkeypatch.setattr("etc.flow.dataset.DatasetFlow.available", lambda _, t, k: seen.append((t.name, k.name)) or True)
    with pytest.raises(UserError, match="no flow file beside"):  # the first pair is read to try it out
        train([*video, "TRAIN.st_weight=0", "FLOW.name=dataset", "DATA.train_list=other.lst", asked])
    assert set(seen) == {("b0.png", "b1.png")}


def test_the_check_shifts_no_random_numbers(video):
    weights = []
    for index, change in enumerate(([], ["TRAIN.val_freq=0"])):
        train([*video, "TRAIN.epochs=1", f"TRAIN.save_path=run{index}", *change])
        weights.append(torch.load(f"run{index}/last.pth", weights_only=True)["student"])
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_all_void_labels_are_refused_before_training(video):
    with pytest.raises(UserError, match="have no pixel of a class"):
        write_png("video/label.png", np.full((48, 96), 255, np.uint8))
        Path("val.lst").write_text("a/a0.png label.png\n")
        train([*video, "DATA.val_list=val.lst"])
