"""Compiled training: the same numbers, the same names, validation eager, and machines that cannot compile."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from etc.config import load_settings
from etc.errors import UserError
from etc.networks import compile_in_place, new_network
from etc.train.trainer import Trainer
from model.pspnet import BLOCKS

CPU = torch.device("cpu")
SOURCE = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 1))
"""


@pytest.fixture
def compiler() -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")


@pytest.fixture
def small(tiny_training, tmp_path, monkeypatch) -> list[str]:
    """A training of one epoch of a network that compiles in seconds."""
    (tmp_path / "network_to_compile.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network_to_compile", raising=False)
    return [*tiny_training, "TRAIN.arch=network_to_compile:make", "TRAIN.pretrained=false", "TRAIN.epochs=1"]


def trained(words: list[str]) -> dict[str, torch.Tensor]:
    settings = load_settings(None, words)
    Trainer(settings, CPU).run()
    return torch.load(Path(settings.TRAIN.save_path) / "last.pth", weights_only=True)["student"]


@pytest.mark.slow
def test_a_compiled_training_ends_with_the_weights_of_the_eager_one(compiler, small, tmp_path, monkeypatch):
    compiled_ones = []
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled_ones.append(module) or original(module))
    eager = trained([*small, "TRAIN.loss=cross_entropy"])
    assert not compiled_ones
    compiled = trained([*small, "TRAIN.loss=cross_entropy", "TRAIN.compile=true", f"TRAIN.save_path={tmp_path}/two"])
    assert len(compiled_ones) == 1
    assert compiled.keys() == eager.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
    for key, weight in eager.items():
        torch.testing.assert_close(compiled[key], weight, rtol=1e-4, atol=1e-6)


def without_dropout(settings: list[str]) -> nn.Module:
    """A network of the settings whose training outputs do not depend on random numbers."""
    torch.manual_seed(0)
    network = new_network(load_settings(None, ["TRAIN.pretrained=false", *settings])).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network


@pytest.mark.slow
@torch.no_grad()  # gradients are compiled in the training above; here they would take minutes
def test_a_compiled_pspnet_has_the_loss_and_the_weight_names_of_the_eager_one(compiler, monkeypatch):
    monkeypatch.setitem(BLOCKS, 18, (1, 1, 1, 1))  # a block of each kind
    eager, compiled = without_dropout([]), without_dropout([])
    compile_in_place(compiled, CPU, "TRAIN.compile")
    image, label = torch.randn(2, 3, 41, 49), torch.randint(19, (2, 6, 7))
    losses = []
    for network in (eager, compiled):
        outputs = network(image)
        losses.append(sum(nn.functional.cross_entropy(outputs[head], label) for head in ("logits", "dsn")).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    # Batch norm learned in both: the compiled forward was a training step too.
    assert torch.allclose(compiled.cls[1].running_mean, eager.cls[1].running_mean, atol=1e-4)
    assert compiled.cls[1].num_batches_tracked == 1


def test_a_machine_that_cannot_compile_is_told_so_before_the_training(monkeypatch):
    def refuse(*_arguments, **_settings):
        raise RuntimeError("\nno working C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(
        UserError, match=r"^TRAIN\.compile: torch\.compile does not work here: no working C\+\+ compiler$"
    ):
        compile_in_place(nn.Conv2d(3, 2, 1), CPU, "TRAIN.compile")
