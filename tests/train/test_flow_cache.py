"""Flow of networks is in the cache before a training starts, and leaves the device's memory to the training."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.models import optical_flow

from etc import distributed
from etc.config import load_settings
from etc.flow.build import flow_source
from etc.flow.estimators import build_flow
from etc.train import flow_cache
from etc.train.flow_cache import fill_flow_cache, needed_pairs
from etc.train.trainer import Trainer
from tests.scripts import run

CPU = torch.device("cpu")


class Still:
    """An estimator of somebody's own; it counts its work, and draws a random number as new networks do."""

    estimated = 0

    def __init__(self):
        torch.rand(1)

    def estimate(self, rgb_t, rgb_k):
        Still.estimated += 1
        return torch.zeros(len(rgb_t), 2, *rgb_t.shape[-2:])


class Large(Still):
    def estimate(self, rgb_t, rgb_k):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.70 GiB.\nGPU 0 has a total capacity of")


@pytest.fixture
def words(tiny_training, monkeypatch) -> list[str]:
    monkeypatch.setattr(Still, "estimated", 0)
    own = ["TRAIN.arch=tests.version1.network:make", "TRAIN.pretrained=false", "TRAIN.loss=cross_entropy"]
    own += ["TRAIN.epochs=1", "TRAIN.val_freq=1", "TRAIN.val_clips=2", "TRAIN.frame_gap=1"]
    own += ["TRAIN.visibility=forward_backward"]
    return [*tiny_training, *own, "FLOW.name=tests.train.test_flow_cache:Still", "FLOW.source=cached"]


def numbers(pairs) -> set[tuple[str, int, int]]:
    return {(t.stem.rsplit("_", 3)[0], *(int(path.stem.split("_")[-2]) for path in (t, k))) for t, k in pairs}


def test_all_that_training_and_validation_read_is_computed_before_the_first_step(words, tmp_path, monkeypatch):
    trainer = Trainer(load_settings(None, words), CPU)
    train_epoch, before = trainer._train_epoch, []
    monkeypatch.setattr(trainer, "_train_epoch", lambda *a: before.append(Still.estimated) or train_epoch(*a))
    trainer.run()
    found = numbers(needed_pairs(trainer.settings, trainer.data))
    training = {(t, t + side) for t in (4, 9, 14, 19, 24) for side in (-1, 1)}
    training |= {(k, t) for t, k in training}  # the visible pixels need the way back
    validation = {(t, t + 1) for t in range(29)}
    drawn = sorted((t, k) for _, t, k in found)
    assert drawn == sorted([*training, *validation, *validation])  # of one training and two validation snippets
    assert before == [Still.estimated] == [len(training) + 2 * len(validation)]
    assert len(list((tmp_path / "flow_store").rglob("*.b2flow"))) == Still.estimated


@pytest.mark.slow
def test_a_second_training_finds_it_and_random_numbers_are_left_alone(words):
    settings = load_settings(None, words)
    trainer = Trainer(settings, CPU)
    state = torch.get_rng_state()
    fill_flow_cache(settings, trainer.data, CPU)
    done = Still.estimated
    fill_flow_cache(settings, trainer.data, CPU)
    assert Still.estimated == done > 50
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_the_pairs_and_say_where_the_cache_is_not_shared(words, monkeypatch, caplog):
    settings = load_settings(None, words)
    trainer = Trainer(settings, CPU)
    pairs, flow = needed_pairs(settings, trainer.data), flow_source(settings)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "sum_counts", lambda counts: counts)
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        caplog.clear()
        fill_flow_cache(settings, trainer.data, CPU)
        lacking = sum(not flow.has(*pair, (64, 128)) for pair in pairs)
        assert (lacking > 0) == (rank == 0) == (f"lacks the flow of {lacking} pairs" in caplog.text)
        caplog.clear()
        fill_flow_cache(settings, trainer.data, CPU)  # nothing is left to do for this process
        assert (rank == 0) == (f"lacks the flow of {lacking} pairs" in caplog.text)


def test_the_flow_of_a_data_set_is_only_read(words, monkeypatch):
    monkeypatch.setattr(flow_cache, "needed_pairs", None)  # would fail
    fill_flow_cache(load_settings(None, [*words, "FLOW.name=dataset"]), None, CPU)


def test_too_little_memory_for_flow_is_one_line_that_names_the_scale(words, capsys):
    assert run("train_with_flow", *words, "FLOW.name=tests.train.test_flow_cache:Large") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "for frames of 128x64: set FLOW.scale (0.5 needs a quarter)" in line and "Tried to allocate 5.70" in line


def test_a_network_goes_to_its_device_with_its_first_flow(tmp_path):
    torch.save(optical_flow.raft_small().state_dict(), tmp_path / "raft.pth")
    estimator = build_flow("raft_small", weights=tmp_path / "raft.pth", device="meta")
    assert next(estimator.network.parameters()).device == CPU
    with pytest.raises(RuntimeError, match="unsupported scalarType"):  # autocast does not know that device
        estimator.estimate(*torch.full((2, 1, 3, 16, 16), 200.0))
    assert next(estimator.network.parameters()).device.type == "meta"


@pytest.mark.slow
def test_validation_takes_the_network_of_a_training_that_estimates_in_every_step(words, tmp_path):
    trainer = Trainer(load_settings(None, [*words, "FLOW.source=online"]), CPU)
    assert trainer.validation_flow.estimator is trainer.task.flow
    assert trainer.validation_flow.key == flow_source(trainer.settings).key
    assert Path(trainer.validation_flow.folder) == tmp_path / "flow_store"


def test_of_the_dis_flow_that_the_workers_compute_a_line_says_how_much(words, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(flow_cache, "fill", None)  # would fail
    settings = load_settings(None, [*words, "FLOW.name=dis", f"FLOW.cache={tmp_path}/dis"])
    with caplog.at_level("INFO", logger="etc"):
        fill_flow_cache(settings, Trainer(settings, CPU).data, CPU)
    assert re.search(r"\d+ of \d+ frame pairs are not in FLOW\.cache .*dis: about \d.*B of disk and", caplog.text)
