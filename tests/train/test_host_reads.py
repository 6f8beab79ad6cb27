"""Between two log entries the host does not read from the device: it can prepare the next step meanwhile."""

from __future__ import annotations

import sys
from itertools import cycle, islice
from pathlib import Path

import pytest
import torch
from torchvision.models.optical_flow import raft_small
from tqdm import tqdm

from etc.benchmark.host_reads import host_reads
from etc.config import load_settings
from etc.metrics import warping
from etc.train import trainer as training
from etc.train.batch import ClipBatch
from etc.train.kept_losses import KeptLosses
from etc.train.trainer import NonFiniteLoss, Trainer
from model import build_model

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("expression", "noted"),
    [
        (lambda x: x.sum().item(), ["aten::_local_scalar_dense"]),
        (lambda x: bool((x > 0).all()), ["aten::_local_scalar_dense"]),
        (lambda x: x.tolist(), ["tolist"]),
        (lambda x: x.numpy(), ["numpy"]),
        (lambda x: x.cpu(), ["cpu"]),
        (lambda x: x.nonzero(), ["aten::nonzero"]),
        (lambda x: x[x > 0], ["aten::index by a mask"]),
        (lambda x: x.masked_select(x > 0), ["aten::masked_select"]),
        (lambda x: torch.equal(x, x), ["aten::equal"]),
        (lambda x: x.unique(), ["aten::_unique2"]),
        (lambda x: x[torch.tensor([0, 2])] * torch.where(x > 0, x, 0).sum(), []),
    ],
)
def test_what_would_be_waited_for_is_noted_and_nothing_else(expression, noted):
    x = torch.tensor([1.0, -1.0, 2.0])
    with host_reads() as found:
        expression(x)
    assert found == noted


def test_a_mask_that_is_assigned_to_is_noted_and_what_is_excepted_is_not():
    x = torch.zeros(3)
    with host_reads() as found:
        x[x == 0] = torch.ones(3)
    assert "aten::index_put_ by a mask" in found
    with host_reads(excepted=("test_host_reads.py",)) as found:
        x.sum().item()
    assert found == []


RAFT = "FLOW.name=raft_small FLOW.source=online FLOW.weights={folder}/raft.pth"
TAUGHT = (
    "DISTILL.kd_weight=0.1 DISTILL.pf_weight=0.1 DISTILL.mf_weight=0.1 DISTILL.mf_pool=2 DISTILL.teacher_arch=psp18 "
    "DISTILL.teacher_weight={folder}/start.pth TRAIN.frame_gap=1"
)
OWN = "TRAIN.weight={folder}/start.pth TRAIN.self_training=0.0 DATA.train_list={folder}"
SMALL = "TRAIN.arch=network_of_two_layers:make TRAIN.pretrained=false"
TRAININGS = {
    "baseline": "TRAIN.st_weight=0",
    "motion": "",
    "motion, flow online": RAFT,
    "motion, flow online both ways": f"{RAFT} TRAIN.visibility=forward_backward",
    "distillation": TAUGHT,
    "distillation, averaged along the flow": f"{TAUGHT} DISTILL.consistent_teacher=true",
    "self-training": f"{OWN}/none.lst",
    "self-training, some labelled": f"{OWN}/some.lst",
    "accumulated and clipped": f"{SMALL} TRAIN.accumulate=2 TRAIN.clip_grad=1 TRAIN.motion_ramp=0.5",
    "averaged weights, AdamW, warm-up": f"{SMALL} TRAIN.ema=0.9 TRAIN.optimizer=adamw TRAIN.warmup=2",
    "bfloat16": f"{SMALL} TRAIN.amp=bfloat16",
    "float16": f"{SMALL} TRAIN.amp=float16",
}
SOURCE = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 1))
"""


@pytest.fixture
def folder(tiny_training, tmp_path, monkeypatch) -> Path:
    """The files that the trainings name."""
    torch.manual_seed(3)
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, tmp_path / "start.pth")
    torch.save(raft_small().state_dict(), tmp_path / "raft.pth")
    lines = Path(load_settings(None, tiny_training).DATA.train_list).read_text().splitlines()
    for name, labelled in (("some", lines[:3]), ("none", [])):
        bare = [line.split()[0] for line in lines[len(labelled) :]]
        (tmp_path / f"{name}.lst").write_text("\n".join([*labelled, *bare]) + "\n")
    (tmp_path / "network_of_two_layers.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "network_of_two_layers", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", TRAININGS)
def test_no_step_between_two_log_entries_waits_for_the_device(name, folder, tiny_training, monkeypatch):
    words = [*tiny_training, *TRAININGS[name].format(folder=folder).split(), "TRAIN.print_freq=1000"]
    trainer = Trainer(load_settings(None, words), CPU)
    # OpenCV samples flow on the CPU alone; here the tensors stand for those of a device.
    monkeypatch.setattr(warping, "_remap_is_exact", lambda: False)
    # Batches lie on the device already: what the host does to make them is not counted.
    batches = [ClipBatch(samples, CPU) for samples in trainer.loader]
    monkeypatch.setattr(trainer, "_check_outputs", lambda image: trainer._finite_losses())

    def epoch(steps: int) -> None:
        monkeypatch.setattr(training, "on_device", lambda *_: islice(cycle(batches), steps))
        trainer._train_epoch(tqdm(disable=True), None)

    # The scaler of float16 itself must know whether gradients overflowed; nobody else asks.
    monkeypatch.setattr(trainer.optimization.scaler, "get_scale", lambda: pytest.fail("the scale is on the device"))
    # At first self-training looks at its labels, in ten steps, and the motion loss at the frames.
    epoch(10 if "self" in name else 1)
    counted: list[list[str]] = []

    def look(read=trainer._finite_losses) -> dict[str, float]:
        counted.append(list(found))
        return read()

    monkeypatch.setattr(trainer, "_finite_losses", look)
    # AdamW reads a count that it keeps on the host.
    with host_reads(excepted=("torch/amp/grad_scaler.py", "torch/optim/adam.py")) as found:
        epoch(3)
    assert counted[0] == []
    assert found == ["tolist"], "one reading for the losses of all steps"


def test_kept_losses_are_those_of_each_step_and_are_read_once():
    losses = KeptLosses()
    for step in (3, 4):
        losses.keep(step, {"loss": torch.tensor(step / 2), "motion": torch.tensor(0.1), "logits": torch.zeros(2, 3)})
    tenth = torch.tensor(0.1).item()
    assert losses.read() == {3: {"loss": 1.5, "motion": tenth}, 4: {"loss": 2.0, "motion": tenth}}
    assert losses.read() == {}


@pytest.mark.parametrize("amp", ["off", "float16"])
@pytest.mark.parametrize(("bad", "print_freq", "looked_at"), [(2, 1, "2 to 2"), (2, 3, "1 to 3"), (4, 1000, "1 to 4")])
def test_a_step_that_is_not_finite_is_named_at_the_next_look_and_never_saved(
    bad, print_freq, looked_at, amp, folder, tiny_training, monkeypatch
):
    more = [*SMALL.split(), "TRAIN.epochs=1", f"TRAIN.print_freq={print_freq}", f"TRAIN.amp={amp}"]
    trainer = Trainer(load_settings(None, [*tiny_training, *more, "TRAIN.accumulate=2", "TRAIN.ema=0.9"]), CPU)
    batches = [ClipBatch(samples, CPU) for samples in trainer.loader]
    monkeypatch.setattr(training, "on_device", lambda *_: islice(cycle(batches), 4))
    trainer.total_steps = 4
    compute = trainer.task.motion_loss.forward

    def ruined(*inputs):
        return compute(*inputs) * (torch.nan if trainer.step + 1 == bad else 1)

    monkeypatch.setattr(trainer.task.motion_loss, "forward", ruined)
    said = rf"the motion loss is nan in step {bad} \(epoch 1; looked at after steps {looked_at}\): try a smaller TRAIN"
    with pytest.raises(NonFiniteLoss, match=said):
        trainer.run()
    assert not list((folder / "run").glob("*.pth"))


def test_a_checkpoint_is_refused_while_a_step_that_is_not_finite_was_not_looked_at(tiny_training, tmp_path):
    trainer = Trainer(load_settings(None, tiny_training), CPU)
    trainer.losses.keep(1, {"loss": torch.tensor(torch.inf)})
    with pytest.raises(NonFiniteLoss, match="the loss loss is inf in step 1"):
        trainer._save()
    assert not (tmp_path / "run/last.pth").exists()
