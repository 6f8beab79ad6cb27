"""Files of version 1.0 of this toolkit: its settings load, its checkpoints resume.

``settings.yaml`` and ``last.pth`` were written by version 1.0 after the first of two epochs; ``FINAL`` holds the
sums of the weights that its second epoch ended with.
"""

import logging
from pathlib import Path

import pytest
import torch

from etc.config import load_settings
from etc.train.checkpoint import read_checkpoint
from etc.train.trainer import Trainer

HERE = Path(__file__).parent
FINAL = {
    "0.weight": -1.573854,
    "0.bias": 0.001427,
    "1.weight": 7.990692,
    "1.bias": -0.00471,
    "1.running_mean": 0.148299,
    "1.running_var": 5.602076,
    "1.num_batches_tracked": 4.0,
    "3.weight": -0.327592,
    "3.bias": -1.144635,
}
OLD_NAMES = {
    "DATA.allow_single is now DATA.allow_missing_neighbours: False",
    "FLOW.name: stored is now called dataset",
    "FLOW.source: stored is now called cached",
    "FLOW.store is now FLOW.cache: flow",
    "FLOW.judges is now FLOW.evaluate_with: ['dataset']",
    "DISTILL.store is now DISTILL.cache: data/teacher_store",
}


def test_settings_load_and_each_old_name_is_logged_once(caplog):
    caplog.set_level(logging.INFO)
    settings = load_settings(HERE / "settings.yaml")
    assert (settings.FLOW.name, settings.FLOW.source, settings.FLOW.cache) == ("dataset", "cached", "flow")
    assert settings.FLOW.evaluate_with == ["dataset"] and not settings.DATA.allow_missing_neighbours
    assert settings.DISTILL.source == "online" and settings.DISTILL.cache == "data/teacher_store"
    said = [record.getMessage().partition("settings.yaml: ")[2] for record in caplog.records]
    assert sorted(said) == sorted(OLD_NAMES)


def test_the_settings_in_a_checkpoint_load(caplog):
    settings = load_settings(read_checkpoint(HERE / "last.pth", "checkpoint")["config"])
    assert settings.FLOW.name == "dataset" and settings.TRAIN.arch == "tests.version1.network:make"


def test_a_training_resumes_to_the_weights_that_version_1_ended_with(tiny_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("world").symlink_to(tiny_world)
    settings = load_settings(HERE / "settings.yaml", [f"TRAIN.resume={HERE / 'last.pth'}", "TRAIN.val_clips=1"])
    trainer = Trainer(settings, torch.device("cpu"))
    assert (trainer.epoch, trainer.step) == (1, 2)
    trainer.run()
    assert trainer.step == 4
    for name, tensor in trainer.student.state_dict().items():
        assert tensor.double().sum().item() == pytest.approx(FINAL[name], rel=1e-5, abs=1e-5), name
