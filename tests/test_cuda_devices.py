"""Every tensor lies on the device of its computation, proven without a GPU.

Fake CUDA tensors have shapes and devices but no values: an operation on tensors of different devices fails, and so does
every reading of a value. Backward passes need a driver for CUDA; torch's device "lazy" stands in for it there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from etc.benchmark.host_reads import host_reads
from etc.config.schema import Distill, Train
from etc.flow.estimators import FlowNet2Flow, NormalizedInput, ScaledFlow, build_flow
from etc.metrics import FlickerRate, SegmentationIoU, TemporalConsistency, VideoConsistency
from etc.metrics.warping import agreeing_pixels, boundary_band, ignore_where, warp_labels
from etc.motion import MotionLoss
from etc.predict.predictor import Predictor
from etc.train.batch import ClipBatch
from etc.train.build import SEGMENTATION_LOSSES
from etc.train.distillation import Distillation
from etc.train.kept_losses import KeptLosses
from etc.train.optimization import Optimization
from etc.train.self_training import PseudoLabeler
from etc.train.step import MotionTask
from flownet import VARIANTS, channelnorm, correlation, resample2d
from model import build_model
from model.build import ARCHITECTURES
from utils import crit
from utils.upsampled_argmax import _cells, _interpolated_argmax, _neighbours

CLASSES = 19
CRITERIA = [name for name in dir(crit) if name.startswith("Criterion")]
HEIGHT, WIDTH = 65, 97


@pytest.fixture(params=["cuda", "lazy"])
def device(request, monkeypatch) -> Iterator[torch.device]:
    with fake(monkeypatch):
        yield torch.device(request.param, 0)


@pytest.fixture
def cuda(monkeypatch) -> Iterator[torch.device]:
    with fake(monkeypatch):
        yield torch.device("cuda", 0)


def fake(monkeypatch) -> FakeTensorMode:
    """A GPU whose tensors are fake; autocast switches itself off without one."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(nn.Module, "_apply", moved)
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply`` with new parameters: the data of fake ones cannot be exchanged."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = function(buffer)
    return module


def maps(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device)


def assert_on(device: torch.device, *tensors: Tensor) -> None:
    assert [x.device for x in tensors] == [device] * len(tensors)


def test_a_tensor_on_the_wrong_device_and_a_reading_fail(cuda):
    x = maps(cuda, 3)
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"):
        x + torch.ones(3)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        x.sum().item()
    with host_reads() as found:
        x.cpu(), torch.ones(3).to(cuda), torch.ones(3).to(cuda, non_blocking=True)
    assert found == ["cpu", "aten::_to_copy from cuda to cpu", "aten::_to_copy from cpu to cuda"]


class FlowOfOneConvolution(nn.Module):
    """An estimator of somebody's own."""

    key = "one-convolution"  # else a hash of its weights

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(6, 2, 3, padding=1)

    def estimate(self, rgb_t: Tensor, rgb_k: Tensor) -> Tensor:
        return self.layer(torch.cat([rgb_t, rgb_k], 1))


@pytest.mark.parametrize("home", ["cpu", "cuda"])  # of the images: the cache reads them on the CPU
def test_an_estimator_of_ones_own_runs_on_the_device_and_gives_flow_where_the_images_are(home, cuda):
    estimator = build_flow(f"{__name__}:FlowOfOneConvolution", device=cuda)
    frame = maps(torch.device(home), 1, 3, HEIGHT, WIDTH)
    flow = estimator.estimate(frame, frame)
    assert flow.device == frame.device and flow.shape == (1, 2, HEIGHT, WIDTH)
    assert estimator.estimator.layer.weight.device == cuda


class Halving(nn.Module):
    """Takes sides of even length alone, and is made where it is to run."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 3, padding=1, device="cuda")

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image) + F.interpolate(self.layer(image)[..., ::2, ::2], scale_factor=2)


def test_a_network_that_is_made_on_the_gpu_is_padded_as_one_of_the_cpu(cuda):
    network = build_model(f"{__name__}:Halving", classes=CLASSES)
    assert network.pad_to == 2
    assert_on(cuda, network.eval()(maps(cuda, 1, 3, HEIGHT, WIDTH)))


class OneConvolution(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)


LIBRARY_NETWORKS = ("timm:resnet18", "timm:resnet18@segformer", "transformers:segformer_b0", "smp:Unet/resnet18")
OWN_NETWORKS = tuple(arch for arch in ARCHITECTURES if ":" not in arch)


@pytest.mark.parametrize("arch", [*OWN_NETWORKS, *LIBRARY_NETWORKS, f"{__name__}:OneConvolution"])
def test_every_network_runs_on_its_device(arch, cuda):
    network = build_model(arch, classes=CLASSES).to(cuda).to(memory_format=torch.channels_last)
    image = maps(cuda, 2, 3, HEIGHT, WIDTH)
    assert_on(cuda, *network.train()(image).values(), network.eval()(image))


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_computes_on_the_device_of_the_maps(name, cuda):
    segments = name in {"CriterionCrossEntropy", "CriterionDSN", "CriterionOhemDSN", "CriterionOhemDSN_single"}
    weight = {"class_weight": crit.CITYSCAPES_CLASS_WEIGHT.tolist()} if segments else {}
    criterion = getattr(crit, name)(**{k: torch.tensor(v) for k, v in weight.items()}).to(cuda)
    student, teacher = ({key: maps(cuda, 2, CLASSES, 33, 41) for key in ("logits", "dsn", "fea")} for _ in range(2))
    if segments:
        label = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.int64, device=cuda)
        assert_on(cuda, criterion(student, label))
        return
    count = {"CriterionKD": 2, "CriterionSDcos_sig": 2}.get(name, 3)
    loss = criterion(*[student, teacher] * count)
    assert_on(cuda, *(loss if isinstance(loss, tuple) else (loss,)))


@pytest.mark.parametrize(
    ("visibility", "distance", "more"),
    [
        *itertools.product(("published", "l1", "forward_backward"), ("mse", "kl", "js"), ({},)),
        ("l1", "mse", {"mask_once": True, "confidence": 0.5, "gradient": "frame"}),
        ("l1", "js", {"confidence": 0.5}),
    ],
)
def test_the_motion_loss_computes_on_the_device_of_the_frames(visibility, distance, more, device):
    loss = MotionLoss(weight=0.1, visibility=visibility, distance=distance, **more).to(device)
    loss._seen_normalised = True  # the first call reads the range of the frames
    logits = [maps(device, 2, CLASSES, 9, 13).requires_grad_() for _ in range(2)]
    frames, flow = (maps(device, 2, 3, HEIGHT, WIDTH) for _ in range(2)), maps(device, 2, 2, HEIGHT, WIDTH)
    value = loss(*frames, *logits, flow, flow[:, :1] > 0)
    assert_on(device, value)
    if device.type != "cuda":
        value.backward()
        assert_on(device, logits[0].grad)


def samples(*, alike: bool) -> dict[str, Tensor]:
    """Collated clips, real tensors of the CPU; ``alike``: each has all its frames and no label."""
    count = 3
    tensors = {name: torch.zeros(count, 3, HEIGHT, WIDTH) for name in ("image", "neighbour", "third")}
    masks = {"has_neighbour": [True, False, True], "has_third": [False, False, True], "labelled": [True, False, True]}
    if alike:
        masks = {"has_neighbour": [True] * 3, "has_third": [True] * 3, "labelled": [False] * 3}
    label = torch.zeros(count, HEIGHT, WIDTH, dtype=torch.int64)
    return tensors | {"label": label} | {name: torch.tensor(mask) for name, mask in masks.items()}


STORED = {
    "flow": torch.zeros(3, 2, HEIGHT, WIDTH),
    "visible": torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool),
    "teacher_logits": torch.zeros(3, CLASSES, 9, 13),
    "teacher_logits_neighbour": torch.zeros(3, CLASSES, 9, 13),
    "teacher_logits_third": torch.zeros(3, CLASSES, 9, 13),
}
ALIKE, MIXED = samples(alike=True), samples(alike=False)


def flownet2_flow(name: str, device: torch.device) -> FlowNet2Flow:
    """The estimator with weights that are not read from a file."""
    estimator = FlowNet2Flow.__new__(FlowNet2Flow)
    estimator.network = VARIANTS[name](resize_mode="scaled").requires_grad_(False).to(device)
    estimator.name = estimator.key = name
    estimator.check, estimator.device = False, device
    return estimator


def task_on(device: torch.device, *, stored: bool) -> MotionTask:
    student, teacher = (build_model("psp18", classes=CLASSES) for _ in range(2))
    labeler = PseudoLabeler(build_model("psp18", classes=CLASSES).to(device), 0.5)
    labeler._calls = 10  # the first ones read the share of labelled pixels
    kinds = {"kd_weight": 1.0} if stored else {"kd_weight": 1.0, "pf_weight": 1.0, "mf_weight": 1.0}
    motion = MotionLoss(weight=0.1, visibility="forward_backward")
    motion._seen_normalised = True
    return MotionTask(
        student=student,
        segmentation_loss=SEGMENTATION_LOSSES["ohem_dsn"](Train(), torch.tensor([1.0] * CLASSES)),
        motion_loss=motion,
        flow=None if stored else ScaledFlow(flownet2_flow("flownet2-c", device), scale=0.99, check=False),
        distillation=Distillation(Distill(consistent_teacher=True, mf_pool=2, **kinds), teacher, device=device, seed=0),
        pseudo_labeler=labeler,
    ).to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("clips", [ALIKE, MIXED])
def test_a_step_computes_on_the_device_and_neither_reads_nor_waits(clips, stored, dtype, cuda, monkeypatch):
    # Memory is pinned by the driver.
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: x)
    task = task_on(cuda, stored=stored).train()
    with host_reads() as found:
        batch = ClipBatch(clips | STORED if stored else clips, cuda)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            result = task(batch)
        KeptLosses().keep(1, result)
    assert_on(cuda, *result.values(), *batch.tensors())
    assert {value.dtype for value in result.values() if value.ndim == 0} == {torch.float32}
    assert result["logits"].dtype == dtype
    # The host reads its own masks, with which it chooses the frames.
    assert found == ["tolist"] * 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clips", [ALIKE, MIXED])
def test_backward_pass_and_update_compute_on_the_device(clips, optimizer, monkeypatch):
    with fake(monkeypatch):
        device = torch.device("lazy", 0)
        task = task_on(device, stored=True).train()
        optimization = Optimization(Train(optimizer=optimizer, clip_grad=1.0), task.student, device, batches=2)
        optimization.step(task(ClipBatch(clips | STORED, device))["loss"], 0)
        assert_on(device, *(parameter.grad for parameter in task.student.parameters()))


@pytest.mark.parametrize("size", [(64, 128), (70, 130)])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_flownet2_family_runs_on_its_device(name, size, cuda):
    frame = maps(cuda, 2, 3, *size)
    assert_on(cuda, NormalizedInput(flownet2_flow(name, cuda), cuda).estimate(frame, frame))


def test_the_operators_and_their_gradients_stay_on_the_device(device):
    image, flow = maps(device, 2, 4, 9, 11).requires_grad_(), maps(device, 2, 2, 9, 11).requires_grad_()
    out = [resample2d(image, flow), correlation(image, image), channelnorm(image)]
    assert_on(device, *out)
    with pytest.raises(ValueError, match=f"image is on {device} but flow on cpu"):
        resample2d(image, torch.zeros(2, 2, 9, 11))
    if device.type == "cuda":
        ops, grad = torch.ops.flownet, image.detach()
        warp = (grad, image.detach(), flow.detach(), 1, True, "auto")
        gradients = [ops.resample2d_grad_image(*warp), ops.resample2d_grad_flow(*warp)]
        gradients += ops.correlation_grad(out[1].detach(), grad, grad, 20, 1, 20, 1, 2, "auto")
        gradients.append(ops.channelnorm_grad(out[2].detach(), grad, "auto"))
    else:
        sum(x.sum() for x in out).backward()
        gradients = [image.grad, flow.grad]
    assert_on(device, *gradients)


@pytest.mark.parametrize(
    "more",
    [{}, {"flip": True, "scales": (0.5, 1.0)}, {"mode": "slide", "window": (49, 49)}, {"base_size": 64}],
)
def test_the_predictor_computes_on_the_device_of_its_network(more, cuda):
    network = build_model("psp18", classes=CLASSES).to(cuda)
    predictor = Predictor(network, classes=CLASSES, device=cuda, **more)
    predictor._is_checked = True  # the first prediction reads whether it is finite
    frames = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 2
    assert_on(cuda, predictor.probabilities(frames))


def test_the_parts_of_the_argmax_compute_on_the_device_of_the_logits(cuda):
    """Not the whole: it asks which pixels are mixed."""
    pixels = maps(cuda, 2, 9, 13, CLASSES)
    rows, columns = (_neighbours(length, 8 * length, True, pixels) for length in (9, 13))
    y, x = torch.zeros(5, dtype=torch.int64, device=cuda), torch.ones(5, dtype=torch.int64, device=cuda)
    met = _interpolated_argmax(pixels[0], rows.part(slice(0, 64)), columns, y, x)
    assert_on(cuda, *rows, *columns, _cells(pixels), met)


def test_the_parts_of_the_metrics_compute_on_the_device_of_the_labels(cuda):
    ids = torch.zeros(9, 11, dtype=torch.uint8, device=cuda)
    flow = maps(cuda, 2, 9, 11)
    met = warp_labels([ids, ids], [flow, flow], [flow, None], ignore=CLASSES)
    band = boundary_band(ids, 2, CLASSES)
    assert_on(cuda, met, band, agreeing_pixels(flow, flow), ignore_where(ids, band, CLASSES))


def test_the_metrics_count_the_same_whatever_the_default_device_is():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (12, 9, 11)).astype(np.uint8)
    flow = rng.normal(size=(2, 9, 11)).astype(np.float32)

    def counts() -> list[list]:
        metrics = [SegmentationIoU(3), FlickerRate(), VideoConsistency(3, 2), VideoConsistency(3, 2, "correct")]
        metrics += [TemporalConsistency(3, protocol) for protocol in ("strict", "published")]
        metrics[0].update(ids[0], ids[1])
        metrics[1].update(*ids[:3], flow, flow, flow, flow)
        for video in metrics[2:4]:
            video.update(ids, ids[::-1].copy())
        for consistency in metrics[4:]:
            consistency.update(ids[0], ids[1], flow, -flow)
        return [metric.counts.tolist() for metric in metrics]

    # Tensors of "meta" have no values: one that is made there by mistake cannot be counted.
    with torch.device("meta"):
        found = counts()
    assert found == counts() and all(sum(np.ravel(x)) for x in found)
