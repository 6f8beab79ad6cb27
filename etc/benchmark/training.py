"""The segmentation network and the training step on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from etc.benchmark.bench import Bench
from etc.benchmark.host_reads import host_reads
from etc.benchmark.measure import Figure, interleaved, ratios
from etc.config.schema import Train
from etc.flow.cache import CachedFlow
from etc.flow.estimators import FlowEstimator, build_flow
from etc.motion import MotionLoss
from etc.precision import autocast, cpu_bfloat16, no_cpu_bfloat16
from etc.train.batch import ClipBatch
from etc.train.build import segmentation_loss
from etc.train.step import MotionTask
from flownet import VARIANTS
from model import build_model, parameter_groups

CLASSES = 19
BATCH = 2


@torch.inference_mode()
def forward(bench: Bench) -> list[Figure]:
    """The arithmetic rate of PSPNet-18 on a 512x1024 frame (operations per second, counted by FlopCounterMode), as a
    share of the rate of a product of two 2048x2048 float32 matrices (sgemm) on the same threads.
    """
    height, width = bench.size((512, 1024), (64, 128))
    network = build_model("psp18", classes=CLASSES).eval().to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, height, width).contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        network(image)
    side = bench.size(2048, 256)
    matrix = torch.randn(side, side)
    own, sgemm = interleaved([lambda: network(image), lambda: matrix @ matrix], bench.rounds(9))
    share = ratios(sgemm, own, 100 * counter.get_total_flops() / (2 * side**3))
    return [Figure("PSPNet-18 forward, share of the sgemm rate", share, "%", budget=85, at_least=True)]


def steps(bench: Bench) -> list[Figure]:
    """A training step of PSPNet-18 (forward, backward, SGD; two clips, crops of 513) with the motion loss, for each
    source of the optical flow, relative to the same step on one frame with the segmentation loss alone. FlowNet2 has
    random weights. Cached flow (2048x1024, DIS) is read by the DataLoader workers while the step runs: the last line
    but one gives the time of this reading. The last line counts what the host would wait for on a GPU.
    """
    crop = bench.size(513, 97)
    store = CachedFlow(build_flow("dis"), bench.folder / "flow_cache")
    data, bare = bench.samples(crop, store), bench.samples(crop, None)
    batch = default_collate([data[0, 0]] * BATCH)
    online = {key: value for key, value in batch.items() if key != "flow"}
    plain = {key: value for key, value in batch.items() if key not in ("neighbour", "has_neighbour", "flow")}
    variant = bench.size("flownet2", "flownet2-s")
    flownet2 = build_flow(variant, weights=_random_flownet2(variant, bench.folder))
    train = Train()
    motion = MotionLoss(weight=train.st_weight, visibility=train.visibility, mask_padding=train.mask_padding)
    calls = [
        _step(None, None, plain),
        _step(motion, None, batch),
        _step(motion, build_flow("dis"), online),
        _step(motion, flownet2, online),
        lambda: [bare[0, 0] for _ in range(BATCH)],
        lambda: [data[0, 0] for _ in range(BATCH)],
    ]
    one, cached, dis, network, without, loading = interleaved(calls, bench.rounds(3))
    reading = [a - b for a, b in zip(loading, without, strict=True)]
    with host_reads(excepted=("etc/train/batch.py",)) as waited_for:  # reads the masks of the clips, on the host
        calls[1]()
    return [
        Figure("motion loss, cached flow, relative to one frame", ratios(cached, one), "x", budget=2.2),
        Figure("motion loss, online DIS, relative to one frame", ratios(dis, one), "x"),
        Figure("motion loss, online FlowNet2, relative to one frame", ratios(network, one), "x"),
        Figure("online DIS, relative to cached flow", ratios(dis, cached), "x"),
        Figure("online FlowNet2, relative to cached flow", ratios(network, cached), "x"),
        Figure("reading cached flow, share of the step", ratios(reading, cached, 100), "%"),
        Figure("operations of a step with cached flow that a GPU would be waited for", [len(waited_for)], "", budget=0),
    ]


def bfloat16_step(bench: Bench) -> list[Figure]:
    """A training step of PSPNet-18 (one frame a sample, segmentation loss, crops of 513) with `TRAIN.amp bfloat16`,
    relative to the same step in float32, on a CPU that computes bfloat16.
    """
    work = "PSPNet-18 training step, bfloat16 relative to float32"
    if cpu_bfloat16() is None:
        return [Figure(work, [], "x", budget=0.55, skipped=no_cpu_bfloat16())]
    batch = default_collate([bench.samples(bench.size(513, 97), None)[0, 0]] * BATCH)
    plain = {key: value for key, value in batch.items() if key not in ("neighbour", "has_neighbour")}
    half, full = interleaved(
        [_step(None, None, plain, dtype) for dtype in (torch.bfloat16, torch.float32)], bench.rounds(5)
    )
    return [Figure(work, ratios(half, full), "x", budget=0.55)]


def _step(
    motion: MotionLoss | None,
    flow: FlowEstimator | None,
    batch: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
) -> Callable[[], None]:
    """A training step on one batch, with a network of its own."""
    torch.manual_seed(0)
    student = build_model("psp18", classes=CLASSES).to(memory_format=torch.channels_last)
    task: nn.Module = MotionTask(
        student=student, segmentation_loss=segmentation_loss(Train(), CLASSES), motion_loss=motion, flow=flow
    )
    optimizer = torch.optim.SGD(parameter_groups(student, 0.01), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(dtype, torch.device("cpu")):
            loss = task(ClipBatch(batch))["loss"]
        loss.backward()
        optimizer.step()

    return step


def _random_flownet2(variant: str, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{variant}.pth.tar"
    torch.save({"state_dict": VARIANTS[variant]().state_dict()}, path)
    return path
