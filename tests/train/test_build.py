"""The parts of a training: the schedule, the lists of losses, what DDP makes of gradients, the loader's workers."""

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from etc.config import load_settings, training
from etc.config.schema import Distill, Train
from etc.train.batch import ClipBatch
from etc.train.build import SEGMENTATION_LOSSES, new_loader, new_task
from etc.train.data import training_set
from etc.train.distillation import LOSSES
from etc.train.optimization import new_optimizer, new_schedule, restore_schedule
from model import build_model

CPU = torch.device("cpu")


def optimizer(rate: float = 0.01) -> torch.optim.Optimizer:
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    groups = [{"params": layers[0].parameters()}, {"params": layers[1].parameters(), "lr": 10 * rate}]
    return torch.optim.SGD(groups, lr=rate)


def rates(schedule, steps: int) -> list[list[float]]:
    """The rates that so many steps use."""
    used = []
    for _ in range(steps):
        used.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("steps", [1, 7, 2000])
@pytest.mark.parametrize("power", [0.9, 0.0, 2.0])
def test_every_step_has_the_polynomial_rate_and_the_last_one_still_learns(steps, power):
    used = rates(new_schedule(Train(power=power), optimizer(), steps), steps)
    expected = [0.01 * (1 - step / steps) ** power for step in range(steps)]
    np.testing.assert_allclose(used, [[rate, 10 * rate] for rate in expected], rtol=0, atol=1e-12)
    assert used[-1][0] > 0


def test_a_checkpoint_with_the_state_of_a_lambda_schedule_continues_at_its_next_rate():
    steps, done, train = 50, 17, Train()
    before = optimizer()
    earlier = torch.optim.lr_scheduler.LambdaLR(before, lambda step: (1 - min(step, steps - 1) / steps) ** train.power)
    rates(earlier, done)
    expected = [0.01 * (1 - step / steps) ** train.power for step in range(done, steps)]
    after = optimizer()
    schedule = new_schedule(train, after, steps)
    after.load_state_dict(before.state_dict())
    restore_schedule(schedule, earlier.state_dict())
    assert schedule.state_dict().keys() == new_schedule(train, optimizer(), steps).state_dict().keys()
    np.testing.assert_allclose(rates(schedule, steps - done), [[r, 10 * r] for r in expected], rtol=0, atol=1e-12)


def test_a_resumed_schedule_has_the_rates_of_the_uninterrupted_one_bit_for_bit():
    whole = rates(new_schedule(Train(), optimizer(), 40), 40)
    first, second = (new_schedule(Train(), optimizer(), 40) for _ in range(2))
    start = rates(first, 13)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    restore_schedule(second, first.state_dict())
    assert start + rates(second, 27) == whole


def test_the_lists_of_losses_are_those_of_the_settings():
    assert set(SEGMENTATION_LOSSES) == set(training.SEGMENTATION_LOSSES)
    keys = Distill.model_fields
    assert {key.removesuffix("_weight") for key in keys if key.endswith("_weight")} - {"teacher"} == set(LOSSES)
    assert {key.removesuffix("_on") for key in keys if key.endswith("_on")} == set(LOSSES)


# --------------------------------------------------------------------------------------------------- several processes


def samples(index: int) -> dict[str, torch.Tensor]:
    """The batch of one of two processes."""
    generator = torch.Generator().manual_seed(index)
    tensors = {name: torch.randn(2, 3, 33, 41, generator=generator) for name in ("image", "neighbour")}
    return tensors | {
        "label": torch.randint(0, 19, (2, 33, 41), generator=generator),
        "labelled": torch.ones(2, dtype=torch.bool),
        "flow": torch.randn(2, 2, 33, 41, generator=generator),
        "has_neighbour": torch.tensor([True, index == 0]),
    }


def gradients(loss: str, index: int) -> dict[str, torch.Tensor]:
    """Gradients of the second of two training steps of a process; dropout is off."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    student = build_model("psp18", classes=19)
    for module in student.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    task = new_task(load_settings(None, [f"TRAIN.loss={loss}", "FLOW.source=cached"]), student, CPU).train()
    for _ in range(2):
        student.zero_grad()
        task(ClipBatch(samples(index)))["loss"].backward()
    assert not any(name.startswith("module.") for name in student.state_dict())
    return {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}


def one_of_two(rank: int, loss: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    torch.save(gradients(loss, rank), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dsn", "cross_entropy"])
def test_two_processes_have_the_mean_of_the_gradients_of_their_batches(loss, tmp_path):
    torch.multiprocessing.spawn(one_of_two, (loss, str(tmp_path)), nprocs=2)
    threads = torch.get_num_threads()
    alone = [gradients(loss, index) for index in range(2)]
    torch.set_num_threads(threads)
    together = [torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    # The plain cross entropy does not read the auxiliary head.
    assert any(name.startswith("aux") for name in together[0]) == (loss == "dsn")
    assert together[0].keys() == together[1].keys() == alone[0].keys()
    for name, gradient in together[0].items():
        assert torch.equal(gradient, together[1][name])
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2, rtol=1e-5, atol=1e-8, msg=name)


def test_the_optimizer_learns_new_layers_ten_times_faster():
    groups = new_optimizer(Train(base_lr=0.02), build_model("psp18", classes=3)).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.02, 0.2])
    assert {(group["momentum"], group["weight_decay"]) for group in groups} == {(0.9, 1e-4)}


# -------------------------------------------------------------------------------------------------------------- loader


def dis_flow() -> None:
    """Work that starts OpenCV's thread pool."""
    image = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(image, image, None)


def test_loading_leaves_the_threads_of_this_process_alone_and_workers_do_not_wait_for_them(tiny_training):
    settings = load_settings(None, [*tiny_training, "TRAIN.workers=1", "FLOW.name=dis"])
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        dis_flow()
        _, loader = new_loader(settings, training_set(settings), torch.device("cpu"))
        # The worker computes flow and crops with OpenCV; the pool was forked with this process.
        loader.timeout = 60
        assert len(list(loader)) == 2
        dis_flow()
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)
