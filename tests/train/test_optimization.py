"""Accumulated, clipped and averaged: against the same thing done by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from etc.benchmark.host_reads import host_reads
from etc.config import load_settings
from etc.config.schema import Train
from etc.errors import UserError
from etc.train import trainer as trainer_module
from etc.train.optimization import AveragedWeights, Optimization, new_optimizer, new_schedule, restore_schedule
from etc.train.trainer import Trainer
from model import build_model, load_student

CPU = torch.device("cpu")


class Net(nn.Module):
    new_layers = ("head",)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.norm(self.body(x)))


def batches(count: int) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return list(torch.randn(count, 6, 4))


def loss_of(net: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return net(batch).square().mean()


def trained(train: Train, data: list[torch.Tensor], net: nn.Module) -> Optimization:
    """One epoch."""
    own = Optimization(train, net, CPU, batches=len(data))
    for index, batch in enumerate(data):
        own.step(loss_of(net, batch), index)
    return own


def same(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> None:
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


def test_an_update_has_the_mean_of_the_gradients_of_its_batches_and_the_last_one_may_be_smaller():
    data, net = batches(5), Net()
    train = Train(accumulate=2, base_lr=0.1, epochs=1, power=0)
    by_hand, optimizer = copy.deepcopy(net), None
    optimizer = torch.optim.SGD(
        [
            {"params": [*by_hand.body.parameters(), *by_hand.norm.parameters()]},
            {"params": by_hand.head.parameters(), "lr": 1.0},
        ],
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
    )
    for group in ([0, 1], [2, 3], [4]):
        optimizer.zero_grad()
        sum(loss_of(by_hand, data[i]) for i in group).div(len(group)).backward()
        optimizer.step()
    own = trained(train, data, net)
    same(net, by_hand, 1e-6)
    assert own.schedule.last_epoch == 3  # updates, not batches


def test_a_network_without_anything_to_train_is_refused():
    with pytest.raises(UserError, match="all parameters are frozen"):
        new_optimizer(Train(), Net().requires_grad_(False))


def test_without_any_of_it_a_step_is_that_of_torch_bit_for_bit():
    data, net = batches(4), Net()
    by_hand = copy.deepcopy(net)
    train = Train(base_lr=0.05, epochs=1)
    optimizer = new_optimizer(train, by_hand)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=train.power)
    for batch in data:
        optimizer.zero_grad()
        loss_of(by_hand, batch).backward()
        optimizer.step()
        schedule.step()
    trained(train, data, net)
    same(net, by_hand)


def test_gradients_longer_than_the_limit_are_shortened_to_it():
    net, (batch,) = Net(), batches(1)
    by_hand = copy.deepcopy(net)
    loss_of(by_hand, batch).backward()
    length = torch.stack([p.grad.norm() for p in by_hand.parameters()]).norm().item()
    trained(Train(clip_grad=length / 4, base_lr=0.1, epochs=1), [batch], net)
    for own, other in zip(net.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad / 4, rtol=1e-4, atol=1e-7)


def test_averaged_weights_follow_the_student_with_the_decay():
    data, net = batches(3), Net()
    own = Optimization(Train(ema=0.75, base_lr=0.1, epochs=1), net, CPU, batches=3)
    assert own.evaluated is not net
    expected = None
    for index, batch in enumerate(data):
        own.step(loss_of(net, batch), index)
        now = {name: value.clone().float() for name, value in net.state_dict().items()}
        expected = now if expected is None else {n: 0.75 * expected[n] + 0.25 * now[n] for n in now}
    for name, value in own.evaluated.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_averaged_weights_are_those_of_torch():
    data, net = batches(3), Net()
    own = Optimization(Train(ema=0.75, base_lr=0.1, epochs=1), net, CPU, batches=3)
    reference = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    for index, batch in enumerate(data):
        own.step(loss_of(net, batch), index)
        reference.update_parameters(net)
    for name, value in own.evaluated.state_dict().items():
        # Torch averages integers too, and cuts the result; here they are copied.
        expected = (reference.module if value.is_floating_point() else net).state_dict()[name]
        assert torch.equal(value, expected), name
    assert own.averaged.updates == int(reference.n_averaged) == 3


def test_buffers_of_integers_are_copied_and_not_averaged():
    """The average of two equal integers, in torch's arithmetic, can be one less."""
    net = Net()
    net.register_buffer("index", torch.arange(169))
    averaged = AveragedWeights(net, decay=0.9999)
    for _ in range(3):
        averaged.update(net)
    assert torch.equal(averaged.module.index, torch.arange(169))


@pytest.mark.parametrize("more", [{}, {"ema": 0.9}, {"optimizer": "adamw"}, {"clip_grad": 1.0}, {"warmup": 3}], ids=str)
def test_an_update_copies_nothing_between_the_host_and_the_device(more):
    device = torch.device("meta")  # holds no values, so that it shows every copy
    net = Net().to(device)
    own = Optimization(Train(epochs=1, **more), net, device, batches=9)
    for index in range(2):
        own.step(loss_of(net, torch.randn(6, 4, device=device)), index)
    with host_reads(excepted=("torch/optim/adam.py",)) as found:  # AdamW reads a count that it keeps on the host
        own.step(loss_of(net, torch.randn(6, 4, device=device)), 2)
    assert found == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_whose_updates_were_all_skipped_resumes(optimizer):
    train, net = Train(base_lr=0.1, epochs=2, optimizer=optimizer), Net()
    own = Optimization(train, net, CPU, batches=2)
    own.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    for index, batch in enumerate(batches(2)):
        own.step(loss_of(net, batch) * torch.inf, index)
    again = Optimization(train, Net(), CPU, batches=2)
    again.restore(own.state() | {"step": 2})
    assert again.schedule.last_epoch == 0
    assert all(torch.equal(own, new) for own, new in zip(net.parameters(), Net().parameters(), strict=True))


def test_a_training_whose_backbone_never_learns_resumes():
    class Head(Net):
        def forward(self, x):
            with torch.no_grad():
                y = self.norm(self.body(x))
            return self.head(y)

    own = trained(Train(epochs=1), batches(3), Head())
    again = Optimization(Train(epochs=1), Head(), CPU, batches=3)
    again.restore(own.state())
    assert again.optimizer.state_dict()["state"].keys() == own.optimizer.state_dict()["state"].keys()


def test_adamw_decays_matrices_alone_and_new_layers_learn_faster():
    groups = new_optimizer(Train(optimizer="adamw", base_lr=0.01, weight_decay=0.05), Net()).param_groups
    found = {(tuple(p.shape), group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found == {
        ((5, 4), 0.01, 0.05),
        ((5,), 0.01, 0.0),
        ((2, 5), 0.1, 0.05),
        ((2,), 0.1, 0.0),
    }


@pytest.mark.parametrize(
    ("arch", "positions"),
    [
        ("transformers:segformer_b0", set()),
        ("timm:swin_tiny_patch4_window7_224@32", {"relative_position_bias_table"}),
        ("timm:vit_tiny_patch16_224@16", {"pos_embed", "cls_token"}),
        ("timm:mvitv2_tiny@segformer", {"rel_pos_h", "rel_pos_w"}),
        ("timm:edgenext_xx_small@segformer", {"temperature"}),
    ],
)
def test_norms_biases_positions_and_tokens_of_a_transformer_do_not_decay(arch, positions):
    network = build_model(arch, classes=3)
    groups = new_optimizer(Train(optimizer="adamw", weight_decay=0.05), network).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    weights = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    found = set()
    for name, parameter in network.named_parameters():
        assert decay.pop(id(parameter)) == (0.05 if id(parameter) in weights else 0.0), name
        found.add(name.rpartition(".")[2])
    assert positions <= found and not decay


def rates(schedule, optimizer, steps: int) -> list[float]:
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


def test_the_warm_up_grows_linearly_and_continues_where_it_stopped():
    train = Train(base_lr=0.1, warmup=4, power=1.0)

    def fresh():
        optimizer = new_optimizer(train, Net())
        return new_schedule(train, optimizer, 10), optimizer

    whole = rates(*fresh(), 10)
    expected = [0.1 * (1 - step / 10) * min(1, 1e-6 + (1 - 1e-6) * step / 4) for step in range(10)]
    assert whole == pytest.approx(expected, abs=1e-12)
    (first, before), (second, after) = fresh(), fresh()
    start = rates(first, before, 3)
    after.load_state_dict(before.state_dict())
    restore_schedule(second, first.state_dict())
    assert start + rates(second, after, 7) == pytest.approx(whole, abs=1e-15)
    with pytest.raises(ValueError, match="zip"):
        restore_schedule(new_schedule(Train(), before, 10), first.state_dict())


@pytest.fixture
def words(tiny_training):
    own = [
        "TRAIN.arch=tests.version1.network:make",
        "TRAIN.loss=cross_entropy",
        "TRAIN.st_weight=0",
        "TRAIN.val_freq=1",
    ]
    return [*tiny_training, "TRAIN.pretrained=false", "TRAIN.resume=auto", *own]


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def test_a_resumed_training_with_all_of_it_has_the_weights_of_the_uninterrupted_one(words, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: {"mIoU": 0.5, "TC": 0.5})
    own = ["TRAIN.optimizer=adamw", "TRAIN.warmup=3", "TRAIN.accumulate=2", "TRAIN.clip_grad=1", "TRAIN.ema=0.5"]
    whole, parts = ([*words, *own, f"TRAIN.save_path={tmp_path}/{name}"] for name in ("whole", "parts"))
    Trainer(load_settings(None, whole), CPU).run()
    stopped = Trainer(load_settings(None, parts), CPU)
    monkeypatch.setattr(stopped, "_is_over", lambda: stopped.epoch == 1)
    stopped.run()
    assert weights(tmp_path / "parts/last.pth")["epoch"] == 1
    Trainer(load_settings(None, parts), CPU).run()
    one, other = (weights(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert one["epoch"] == other["epoch"] == 2
    for key in ("student", "student_ema"):
        assert all(torch.equal(value, other[key][name]) for name, value in one[key].items())
    assert not all(torch.equal(value, one["student"][name]) for name, value in one["student_ema"].items())


def test_all_processes_validate_the_buffers_of_the_first(words, tmp_path, monkeypatch):
    shared = []
    monkeypatch.setattr(trainer_module.distributed, "share_buffers", shared.append)
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: {"mIoU": 0.5, "TC": 0.5})
    for ema in (0.5, 0.0):
        own = [f"TRAIN.ema={ema}", f"TRAIN.save_path={tmp_path / str(ema)}"]
        trainer = Trainer(load_settings(None, [*words, *own]), CPU)
        shared.clear()
        trainer._validate(None)
        assert shared == list(dict.fromkeys([trainer.student, trainer.optimization.evaluated]))
        assert len(shared) == (2 if ema else 1)


def test_the_averaged_weights_are_validated_and_used(words, tmp_path, monkeypatch):
    seen = []

    def validate(network, *_a, **_s):
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"mIoU": 0.5, "TC": 0.5}

    monkeypatch.setattr(trainer_module, "validate", validate)
    trainer = Trainer(load_settings(None, [*words, "TRAIN.ema=0.5"]), CPU)
    trainer.run()
    used = copy.deepcopy(trainer.student)
    load_student(used, tmp_path / "run/last.pth")
    assert all(torch.equal(value, seen[-1][name]) for name, value in used.state_dict().items())
    assert not all(torch.equal(value, seen[-1][name]) for name, value in trainer.student.state_dict().items())


def test_validations_without_gain_end_the_training_once_and_for_all(words, tmp_path, monkeypatch, caplog):
    scores = iter([0.3, 0.4, 0.4, 0.2, 0.9])
    monkeypatch.setattr(trainer_module, "validate", lambda *_a, **_s: {"mIoU": next(scores), "TC": 0.5})
    settings = load_settings(None, [*words, "TRAIN.epochs=9", "TRAIN.patience=2"])
    metrics = Trainer(settings, CPU).run()
    assert weights(tmp_path / "run/last.pth")["epoch"] == 4 and metrics["best_mIoU"] == 0.4
    assert weights(tmp_path / "run/best.pth")["epoch"] == 2
    caplog.set_level("INFO")
    Trainer(settings, CPU).run()  # started again
    assert "all 4 epochs are trained already" in caplog.text and next(scores) == 0.9
