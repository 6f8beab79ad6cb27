"""Training end to end on the tiny world: what is written, what resuming gives, what is refused."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from etc import distributed
from etc.config import load_settings
from etc.errors import UserError
from etc.evaluate.validation import validate
from etc.networks import trained_network
from etc.train import trainer as trainer_module
from etc.train.build import new_loader
from etc.train.trainer import NonFiniteLoss, Trainer

CPU = torch.device("cpu")
REPOSITORY = Path(__file__).resolve().parents[2]


def train(overrides: list[str]) -> Path:
    settings = load_settings(None, overrides)
    Trainer(settings, CPU).run()
    return Path(settings.TRAIN.save_path)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["student"]


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def test_a_training_writes_checkpoints_settings_and_tensorboard(tiny_training):
    folder = train(tiny_training)
    content = torch.load(folder / "last.pth", weights_only=True)
    assert {"student", "optimizer", "scheduler", "scaler", "rng", "step", "epoch", "config", "metrics"} <= set(content)
    assert content["epoch"] == 2 and content["step"] == 4
    assert not any(key.startswith(("flow", "teacher")) for key in content["student"])
    assert 0 < content["metrics"]["mIoU"] < 1 and 0 < content["metrics"]["TC"] <= 1
    assert load_settings(folder / "settings.yaml") == load_settings(None, tiny_training)
    log = EventAccumulator(str(folder / "tensorboard")).Reload()
    shown = {f"validation/{name}" for name in ("mIoU", "TC", "pixel_consistency", "frequency_weighted_tc")}
    assert {"loss/segmentation", "loss/motion", "learning_rate"} | shown <= set(log.Tags()["scalars"])
    assert 0 < content["metrics"]["pixel_consistency"] <= 1
    assert {"frame", "label", "prediction", "neighbour", "flow", "visibility", "warped"} <= set(log.Tags()["images"])


def test_the_learning_rate_is_poly_and_new_layers_learn_ten_times_faster(tiny_training):
    trainer = Trainer(load_settings(None, [*tiny_training, "TRAIN.base_lr=0.002"]), CPU)
    seen = []
    trainer.optimization.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append([g["lr"] for g in optimizer.param_groups])
    )
    trainer.run()
    expected = [0.002 * (1 - i / 4) ** 0.9 for i in range(4)]
    assert [lr for lr, _ in seen] == pytest.approx(expected)
    assert [lr for _, lr in seen] == pytest.approx([10 * lr for lr in expected])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tiny_training, tmp_path):
    one = train(tiny_training)
    two = train([*tiny_training, f"TRAIN.save_path={tmp_path}/two", "TRAIN.workers=1"])
    three = train([*tiny_training, f"TRAIN.save_path={tmp_path}/three", "TRAIN.manual_seed=1"])
    assert_same_weights(one / "last.pth", two / "last.pth")
    assert not torch.equal(weights(one / "last.pth")["cls.4.bias"], weights(three / "last.pth")["cls.4.bias"])


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights_bit_for_bit(tiny_training, tmp_path):
    overrides = [*tiny_training, "TRAIN.epochs=6", "TRAIN.val_freq=6"]
    whole = train([*overrides, f"TRAIN.save_path={tmp_path}/whole"])
    command = [sys.executable, str(REPOSITORY / "tool/train_with_flow.py"), *overrides]
    # The same number of threads: sums in another order would differ in the last bit.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, cwd=tmp_path)
    last = tmp_path / "run" / "last.pth"
    deadline = time.monotonic() + 120
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    interrupted = torch.load(last, weights_only=True)["epoch"]
    assert 1 <= interrupted < 6
    resumed = train([*overrides, "TRAIN.resume=auto"])
    assert_same_weights(whole / "last.pth", resumed / "last.pth")


def test_a_finished_run_is_not_overwritten_and_not_mixed_with_another(tiny_training):
    folder = train(tiny_training)
    before = (folder / "last.pth").read_bytes()
    with pytest.raises(UserError, match="holds a training run already"):
        train([*tiny_training, "TRAIN.resume=null"])
    with pytest.raises(UserError, match=r"TRAIN\.st_weight 0\.1, now it is 0"):
        train([*tiny_training, "TRAIN.resume=auto", "TRAIN.st_weight=0.0"])
    assert (folder / "last.pth").read_bytes() == before


def test_a_network_without_batch_norm_after_pooling_trains_on_single_images(tiny_training):
    single = ["TRAIN.batch_size=1", "TRAIN.st_weight=0.0", "TRAIN.epochs=1", "TRAIN.val_freq=0", "TRAIN.train_h=33"]
    folder = train([*tiny_training, "TRAIN.arch=lraspp", "TRAIN.loss=cross_entropy", *single])
    assert (folder / "last.pth").is_file()


def test_somebodys_batch_norm_after_pooling_is_one_line_with_its_cure(tiny_training, tmp_path, monkeypatch):
    (tmp_path / "pooling_net.py").write_text("""
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, classes, 3, 4, 1), nn.BatchNorm2d(classes)

    def forward(self, image):
        logits = self.conv(image)
        return logits + self.norm(logits.mean((2, 3), keepdim=True))
""")
    monkeypatch.syspath_prepend(tmp_path)
    single = ["TRAIN.batch_size=1", "TRAIN.st_weight=0.0", "TRAIN.epochs=1", "TRAIN.val_freq=0"]
    with pytest.raises(UserError, match=r"TRAIN\.arch pooling_net:Net, in training: .*raise the batch size"):
        train([*tiny_training, "TRAIN.arch=pooling_net:Net", "TRAIN.loss=cross_entropy", *single])


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tiny_training, tmp_path):
    train([*tiny_training, "TRAIN.epochs=1"])
    before = (tmp_path / "run/last.pth").read_bytes()
    settings = load_settings(None, [*tiny_training, f"TRAIN.save_path={tmp_path}/two", "TRAIN.base_lr=1e30"])
    with pytest.raises(NonFiniteLoss, match=r"the \w+ loss is (nan|inf) in step \d.*there is no checkpoint yet"):
        Trainer(settings, CPU).run()
    assert not (tmp_path / "two/last.pth").exists()
    assert (tmp_path / "run/last.pth").read_bytes() == before


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(tiny_training, tmp_path, monkeypatch):
    trainer = Trainer(load_settings(None, tiny_training), CPU)
    save = trainer._save

    def save_and_ruin() -> None:
        save()
        for group in trainer.optimization.optimizer.param_groups:
            group["lr"] = 1e30

    monkeypatch.setattr(trainer, "_save", save_and_ruin)
    with pytest.raises(NonFiniteLoss, match=r"step 4 .*; the last good checkpoint is .*run/last\.pth"):
        trainer.run()
    assert torch.load(tmp_path / "run/last.pth", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("TRAIN.batch_size=64", "do not fill one batch of 64"),
        ("TRAIN.batch_size=1 TRAIN.st_weight=0.0", "batch norm needs two images"),
        ("DATA.train_list=nowhere.lst", "nowhere.lst"),
        ("DATA.val_list=nowhere.lst", "nowhere.lst"),
        ("DATA.clip_list=nowhere.lst", "nowhere.lst"),
        ("TRAIN.batch_size=1 DATA.allow_missing_neighbours=true", "two images per process or more"),
        ("TRAIN.resume=nowhere.pth", "nowhere.pth does not exist"),
        ("TRAIN.weight=nowhere.pth", "nowhere.pth does not exist"),
        ("TRAIN.arch=psq18", "psq18"),
        ("TRAIN.frame_gap=7", "lack a neighbour"),
        ("TRAIN.frame_gap=3", "10 of 30 frame pairs have no flow file"),
        ("FLOW.source=online", "FLOW.source cached"),
        ("FLOW.source=online FLOW.name=dis TRAIN.train_h=15", "too small"),
    ],
)
def test_unusable_settings_are_refused_before_anything_is_written(tiny_training, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train([*tiny_training, *override.split()])
    assert not (tmp_path / "run").exists()


def test_labels_that_validation_needs_are_missed_before_training(tiny_training, tmp_path):
    lines = Path(load_settings(None, tiny_training).DATA.val_list).read_text().splitlines()
    (tmp_path / "val.lst").write_text("\n".join([*lines[:-1], lines[-1].split()[0]]))
    with pytest.raises(UserError, match=r"val\.lst: 1 of \d+ frames have no label"):
        train([*tiny_training, f"DATA.val_list={tmp_path}/val.lst"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_validation_that_fails_costs_no_training_and_is_made_up_for(tiny_training, tmp_path, monkeypatch):
    overrides = [*tiny_training, "TRAIN.val_freq=1"]
    whole = train([*overrides, f"TRAIN.save_path={tmp_path}/whole"])

    def fail(*_arguments, **_settings):
        raise UserError("no space left")

    # Resuming validates first, and fails again as long as its cause is there.
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left"):
            patch.setattr(trainer_module, "validate", fail)
            train([*overrides, "TRAIN.resume=auto"])
        content = torch.load(tmp_path / "run/last.pth", weights_only=True)
        assert content["epoch"] == 1 and content["validated"] is False
        assert not (tmp_path / "run/best.pth").exists()
    resumed = train([*overrides, "TRAIN.resume=auto"])
    assert_same_weights(whole / "last.pth", resumed / "last.pth")
    assert_same_weights(whole / "best.pth", resumed / "best.pth")
    contents = [torch.load(folder / "last.pth", weights_only=True) for folder in (whole, resumed)]
    assert contents[0]["metrics"] == contents[1]["metrics"] and contents[1]["validated"] is True


def test_a_validation_without_labelled_pixels_is_not_the_best_for_ever(tiny_training, tmp_path, monkeypatch):
    scores = iter([0.2, math.nan, 0.1, 0.3])
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: {"mIoU": next(scores), "TC": 0.5})
    overrides = [*tiny_training, "TRAIN.epochs=4", "TRAIN.val_freq=1"]
    trainer, best = Trainer(load_settings(None, overrides), CPU), []
    save = trainer._save
    monkeypatch.setattr(trainer, "_save", lambda *a: (best.append(trainer.metrics.get("best_mIoU")), save(*a)))
    trainer.run()
    # Saved before and after each of the four validations.
    assert best == [None, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.3]
    assert torch.load(tmp_path / "run/best.pth", weights_only=True)["epoch"] == 4


@pytest.mark.slow
def test_the_schedule_waits_where_the_scaler_skips_a_step(tiny_training):
    trainer = Trainer(load_settings(None, [*tiny_training, "TRAIN.epochs=3", "TRAIN.val_freq=3"]), CPU)
    # Gradients overflow until the scale has been lowered twice.
    trainer.optimization.scaler = torch.amp.GradScaler("cpu", init_scale=1.0, backoff_factor=0.5)
    used, overflows = [], iter([True, True, False, False, False, False])
    scale = trainer.optimization.scaler.scale
    trainer.optimization.scaler.scale = lambda loss: scale(loss) * (torch.inf if next(overflows) else 1.0)
    trainer.optimization.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    trainer.run()
    base = trainer.settings.TRAIN.base_lr
    assert trainer.step == 6 and used == pytest.approx([base * (1 - i / 6) ** 0.9 for i in range(4)])


def test_every_process_draws_numbers_of_its_own_and_again_after_resuming(tiny_training, monkeypatch):
    trainer = Trainer(load_settings(None, tiny_training), CPU)

    def drawn(rank: int, epoch: int) -> list[float]:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        torch.manual_seed(5)  # the state that the checkpoint holds
        trainer.epoch = epoch
        trainer._seed_other_ranks()
        return torch.rand(3).tolist()

    torch.manual_seed(5)
    unchanged = torch.rand(3).tolist()
    assert drawn(0, 0) == drawn(0, 1) == unchanged
    numbers = [drawn(rank, epoch) for rank, epoch in ((0, 0), (1, 0), (2, 0), (1, 1))]
    assert len({tuple(x) for x in numbers}) == 4
    assert drawn(1, 1) == numbers[3]
    seeded = []
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(trainer, "_seed_other_ranks", lambda: seeded.append(trainer.epoch))
    trainer.epoch = 0
    trainer.run()
    assert seeded == [0, 1]


@pytest.mark.parametrize("other", ["settings", "start", "inputs"])
def test_a_process_with_other_settings_state_or_data_is_refused_before_the_training(tiny_training, other, monkeypatch):
    """What the process beside this one has, stands in for what torchrun's other process sends."""
    changes = {
        "settings": (lambda mine: "TRAIN.base_lr" in mine, {"TRAIN.base_lr": 0.5}),
        "start": (lambda mine: isinstance(mine, str), "epoch 1, step 3 of last.pth"),
        "inputs": (lambda mine: "frames_sha256" in mine, {"frames_sha256": "0"}),
    }
    concerned, change = changes[other]

    def gathered(mine):
        if not concerned(mine):
            return [mine, mine]
        return [mine, change if isinstance(mine, str) else mine | change]

    monkeypatch.setattr(distributed, "gathered", gathered)
    with pytest.raises(UserError, match=r"process 0.* process 1"):
        Trainer(load_settings(None, tiny_training), CPU)


def test_a_gpu_has_pinned_batches_and_its_own_random_state(tiny_training, monkeypatch):
    settings = load_settings(None, [*tiny_training, "TRAIN.workers=0"])
    gpu = torch.device("cuda", 1)
    data = range(8)
    assert new_loader(settings, data, gpu)[1].pin_memory and not new_loader(settings, data, CPU)[1].pin_memory
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.zeros(1))
    assert trainer_module._rng_state(gpu)["cuda"].shape == (1,) and asked == [gpu]
    assert trainer_module._rng_state(CPU)["cuda"] is None and asked == [gpu]


def test_a_damaged_checkpoint_is_named(tiny_training, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"last\.pth is truncated, damaged or no checkpoint"):
        train([*tiny_training, "TRAIN.resume=auto"])


@pytest.mark.slow
def test_flow_online_and_mixed_singles_train(tiny_training, tmp_path):
    data = load_settings(None, tiny_training).DATA
    lines = Path(data.train_list).read_text().splitlines()
    # Frame 0 of a folder of its own has no neighbour at all; a folder of links, as the world serves all tests.
    world, root = Path(data.data_root), tmp_path / "linked"
    single = root / "leftImg8bit/train/lonely/lonely_000000_000000_leftImg8bit.png"
    label = root / "gtFine/train/lonely/lonely_000000_000000_gtFine_labelIds.png"
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / "train").mkdir(parents=True)
        (root / folder / "val").symlink_to(world / folder / "val")
        for city in (world / folder / "train").iterdir():
            (root / folder / "train" / city.name).symlink_to(city)
    shutil.copy(world / "world.json", root)
    for target, source in zip((single, label), lines[0].split(), strict=True):
        target.parent.mkdir()
        target.write_bytes((root / source).read_bytes())
    entry = f"{single.relative_to(root)} {label.relative_to(root)}"
    (tmp_path / "mixed.lst").write_text("\n".join([lines[0], entry]))
    folder = train(
        [
            *tiny_training,
            f"DATA.data_root={root}",
            f"DATA.train_list={tmp_path}/mixed.lst",
            "DATA.allow_missing_neighbours=true",
            "FLOW.name=dis",
            "FLOW.source=online",
            "FLOW.preset=ultrafast",
        ]
    )
    assert torch.load(folder / "last.pth", weights_only=True)["step"] == 2


@pytest.mark.slow
def test_two_processes_train_together(tiny_training, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(REPOSITORY / "tool/train_with_flow.py"), *tiny_training, "TRAIN.batch_size=4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "run/last.pth", weights_only=True)
    assert content["step"] == 2 and not any(key.startswith("module.") for key in content["student"])
    # The clips to validate are shared between the processes: one process counts the same.
    settings = load_settings(None, tiny_training)
    alone = validate(trained_network(settings, tmp_path / "run/last.pth"), settings, CPU)
    assert alone == {key: content["metrics"][key] for key in alone} and len(alone) == 4


def test_bfloat16_trains_and_keeps_its_weights_in_float32(tiny_training):
    folder = train([*tiny_training, "TRAIN.amp=bfloat16", "TRAIN.epochs=1"])
    assert {w.dtype for w in weights(folder / "last.pth").values()} == {torch.float32, torch.int64}


def test_weights_that_the_last_step_of_an_epoch_ruined_do_not_replace_the_good_ones(tiny_training, tmp_path):
    # One step an epoch: its loss is computed before the step that ruins the weights.
    ruin = ["TRAIN.batch_size=4", "TRAIN.epochs=1", "TRAIN.base_lr=1e30"]
    with pytest.raises(NonFiniteLoss, match="output is not finite after step 1"):
        train([*tiny_training, *ruin])
    assert not (tmp_path / "run/last.pth").exists()


@pytest.mark.slow
def test_another_start_is_another_run(tiny_training, tmp_path):
    folder = train([*tiny_training, "TRAIN.epochs=1"])
    start = f"TRAIN.weight={folder}/last.pth"
    with pytest.raises(UserError, match=r"TRAIN\.weight None, now it is"):
        train([*tiny_training, "TRAIN.epochs=1", "TRAIN.resume=auto", start])
