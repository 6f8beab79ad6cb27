"""Several processes: which parameters get no gradient, DDP against one process, batch norm over all of them."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from etc.errors import UserError
from etc.motion import MotionLoss
from etc.train import parallel
from etc.train.batch import ClipBatch
from etc.train.parallel import data_parallel, parameters_without_gradient, share_batch_norm
from etc.train.step import MotionTask
from model import build_model
from model.external import ExternalNetwork
from utils.crit import CriterionCrossEntropy, CriterionDSN

CPU = torch.device("cpu")
CROP = (33, 41)


class TwoHeads(nn.Module):
    """What much code returns: a dict with the logits and those of an auxiliary head, under a name of its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4), nn.Dropout2d(0.5))
        self.head, self.second = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x):
        x = self.body(x)
        return {"out": self.head(x), "aux": self.second(x)}


def two_heads() -> ExternalNetwork:
    torch.manual_seed(0)
    return ExternalNetwork(TwoHeads(), classes=5)


def test_heads_that_the_loss_does_not_read_are_found():
    psp = build_model("psp18", classes=5)
    heads = {name for name, _ in psp.named_parameters() if name.startswith("aux.")}
    assert set(parameters_without_gradient(psp, CriterionCrossEntropy(), CPU, CROP)) == heads
    assert parameters_without_gradient(psp, CriterionDSN(), CPU, CROP) == []
    own = two_heads()
    own.network.body.requires_grad_(False)  # frozen parameters are none that DDP waits for
    assert parameters_without_gradient(own, CriterionDSN(), CPU, CROP) == [
        "network.second.weight",
        "network.second.bias",
    ]


@pytest.mark.slow
def test_branches_that_a_network_throws_away_are_found():
    network = build_model("timm:hrnet_w18_small", classes=5, pretrained=False)
    found = parameters_without_gradient(network, CriterionDSN(), CPU, (64, 64))
    assert len(found) == 42 and all(name.startswith("encoder.") for name in found)


def test_several_processes_look_for_idle_parameters_only_where_there_are_some(monkeypatch):
    made = []
    monkeypatch.setattr(parallel.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda student, **options: made.append(options))
    for loss in (CriterionDSN(), CriterionCrossEntropy()):
        data_parallel(build_model("psp18", classes=5), loss, CPU, CROP)
    assert [options["find_unused_parameters"] for options in made] == [False, True]


def test_looking_changes_nothing():
    network = two_heads().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    parameters_without_gradient(network, CriterionDSN(), CPU, CROP)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training and all(p.grad is None for p in network.parameters())


def test_a_network_without_logits_is_one_line():
    with pytest.raises(UserError, match=r"TRAIN\.arch, in training: Conv2d returned a tensor \(2, 4"):
        parameters_without_gradient(ExternalNetwork(nn.Conv2d(3, 4, 1), classes=5), CriterionDSN(), CPU, CROP)


def gradients(index: int) -> dict[str, torch.Tensor]:
    """Gradients of the second of two training steps of a process; dropout is off."""
    torch.set_num_threads(1)
    student = two_heads().train()
    student.network.body[2].p = 0.0
    network, loss = data_parallel(student, CriterionDSN(), CPU, CROP), CriterionDSN()
    generator = torch.Generator().manual_seed(index)
    for _ in range(2):
        student.zero_grad()
        images = torch.randn(2, 3, *CROP, generator=generator)
        loss(network(images), torch.randint(0, 5, (2, *CROP), generator=generator)).backward()
    return {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(gradients(rank), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_a_network_with_a_head_that_nothing_reads(tmp_path):
    """With the default loss; DDP would refuse the second step."""
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    threads = torch.get_num_threads()
    alone = [gradients(index) for index in range(2)]
    torch.set_num_threads(threads)
    together = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    assert together[0].keys() == together[1].keys() == alone[0].keys()
    assert not any("second" in name for name in alone[0])
    for name, gradient in together[0].items():
        assert torch.equal(gradient, together[1][name])
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-8, msg=name)


def clips() -> dict[str, torch.Tensor]:
    """Four clips of two frames, all of whose pixels have a label."""
    generator = torch.Generator().manual_seed(3)
    frames = {name: torch.randn(4, 3, *CROP, generator=generator) for name in ("image", "neighbour")}
    everywhere = torch.ones(4, dtype=torch.bool)
    return frames | {
        "label": torch.randint(0, 5, (4, *CROP), generator=generator),
        "flow": 3 * torch.randn(4, 2, *CROP, generator=generator),
        "labelled": everywhere,
        "has_neighbour": everywhere,
    }


def step_gradients(samples: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a training step with the motion loss; batch norm is frozen, dropout off."""
    torch.set_num_threads(1)
    student = two_heads()
    student.network.body[2].p = 0.0
    loss = CriterionDSN()
    task = MotionTask(
        student=data_parallel(student, loss, CPU, CROP), segmentation_loss=loss, motion_loss=MotionLoss(weight=0.5)
    )
    task.train()
    student.network.body[1].eval()
    task(ClipBatch(samples))["loss"].backward()
    return {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}


def half_of_the_clips(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(
        step_gradients({name: values[2 * rank :][:2] for name, values in clips().items()}), f"{folder}/{rank}.pth"
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_half_of_the_clips_each_have_the_gradients_of_one_with_all(tmp_path):
    torch.multiprocessing.spawn(half_of_the_clips, (str(tmp_path),), nprocs=2)
    threads = torch.get_num_threads()
    alone = step_gradients(clips())
    torch.set_num_threads(threads)
    for rank in range(2):
        half = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        assert half.keys() == alone.keys()
        for name, gradient in half.items():
            scale = alone[name].abs().max().item()
            torch.testing.assert_close(gradient, alone[name], rtol=1e-5, atol=1e-5 * scale, msg=name)


@torch.inference_mode()
@pytest.mark.parametrize("arch", ["psp18", "lraspp", "timm:mobilenetv3_small_100", "smp:Unet/mobilenet_v2"])
def test_batch_norm_over_all_processes_leaves_all_else_as_it_was(arch):
    """timm's batch norm contains the activation, which torch's own conversion drops without a word."""
    pytest.importorskip({"timm": "timm", "smp:": "segmentation_models_pytorch"}.get(arch[:4], "torch"))
    torch.manual_seed(0)
    network = build_model(arch, classes=5).eval()
    image = torch.randn(1, 3, 65, 65)
    before, norms = network(image), sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    share_batch_norm(network)
    assert norms == sum(isinstance(m, nn.SyncBatchNorm) for m in network.modules()) > 0
    assert torch.equal(network(image), before)


def test_batch_norm_that_a_network_keeps_in_evaluation_mode_stays():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.head = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))

        def train(self, mode: bool = True):
            super().train(mode)
            for module in self.body:
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return self

    network = Frozen()
    share_batch_norm(network)
    network.train()
    assert type(network.body[1]) is nn.BatchNorm2d and not network.body[1].training
    assert type(network.head[1]) is nn.SyncBatchNorm and network.head[1].training


def test_a_batch_norm_that_would_lose_what_else_it_does_is_refused():
    class Leaky(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(UserError, match=r"Leaky does more than batch norm.*set DISTRIBUTED\.sync_bn to false"):
        share_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1), Leaky(3)))
