"""Operators on a CPU against their plain form: FlowNet2's correlation, warping, labels from coarse logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from etc.benchmark.bench import Bench
from etc.benchmark.measure import Figure, in_new_process, interleaved, peak_memory, ratios, single_threaded
from etc.data.images import read_label
from etc.data.labels import label_table
from flownet import VARIANTS, correlation, resample2d
from utils.upsampled_argmax import upsampled_argmax

MAPS = (1, 256, 48, 96)  # what FlowNetC correlates for frames of 384x768
BALLAST = 1 << 28  # bytes
CLASSES = 19


def shifted_products(f1: Tensor, f2: Tensor) -> Tensor:
    """FlowNetC's correlation in its plain form: shift, multiply, reduce, once for each of the 441 displacements.

    Args:
        f1: float ``[N, C, H, W]``.
        f2: same shape.

    Returns:
        ``[N, 441, H, W]``, as :func:`flownet.correlation` with its defaults.
    """
    height, width = f1.shape[2:]
    padded = F.pad(f2, (20, 20, 20, 20))
    out = f1.new_empty(f1.shape[0], 441, height, width)
    for channel in range(441):
        y, x = channel // 21 * 2, channel % 21 * 2
        torch.mean(f1 * padded[:, :, y : y + height, x : x + width], 1, out=out[:, channel])
    return out


@torch.inference_mode()
def correlate(bench: Bench) -> list[Figure]:
    """FlowNetC's correlation at 48x96x256, relative to the forward pass of FlowNet2 that contains it (384x768 frames),
    and to a plain loop that shifts, multiplies and reduces once per displacement. Memory is what one call adds to the
    peak of a separate process, including the output.
    """
    shape = bench.size(MAPS, (1, 16, 8, 8))
    height, width = 8 * shape[2], 8 * shape[3]
    f1, f2 = torch.randn(shape), torch.randn(shape)
    img1, img2 = torch.rand(2, 1, 3, height, width) * 255
    torch.manual_seed(0)
    network = VARIANTS[bench.size("flownet2", "flownet2-c")]().eval()
    calls = [lambda: network(img1, img2), lambda: correlation(f1, f2), lambda: shifted_products(f1, f2)]
    whole, banded, loop = interleaved(calls, bench.rounds(5))
    memory = {f: [in_new_process(_extra_memory, f, shape)] for f in (correlation, shifted_products)}
    return [
        Figure("correlation, share of FlowNet2's forward", ratios(banded, whole, 100), "%", budget=10),
        Figure("correlation, extra memory relative to its output", memory[correlation], "x", budget=3),
        Figure("plain loop, share of FlowNet2's forward", ratios(loop, whole, 100), "%"),
        Figure("plain loop, extra memory relative to its output", memory[shifted_products], "x"),
        Figure("plain loop, time relative to the correlation", ratios(loop, banded), "x"),
    ]


@torch.inference_mode()
def _extra_memory(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> float:
    """What a call adds to the peak memory of this process, as a multiple of its output."""
    function(torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3))  # loads what is loaded once
    f1, f2 = torch.randn(shape), torch.randn(shape)
    ballast = torch.ones(BALLAST, dtype=torch.uint8)  # above what importing took for a moment
    before = peak_memory()
    out = function(f1, f2)
    after = peak_memory()
    del ballast
    return (after - before) / out.nbytes


@torch.inference_mode()
def labels(bench: Bench) -> list[Figure]:
    """The class of every pixel at 1024x2048 from logits of 19 classes at an eighth of that, relative to `F.interpolate`
    and `argmax`, on one thread. The logits are those of a network that is right but for noise: of the label map of a
    real frame, where `--data` gives one. Pixels whose class differs are counted.
    """
    size = bench.size((1024, 2048), (128, 256))
    clip = bench.clip(*size, 2)
    name = next(frame.label for frame in clip.frames if frame.label)
    ids = torch.from_numpy(label_table("cityscapes", CLASSES, 255)[read_label(clip.root / name)])
    torch.manual_seed(0)
    ids = torch.where(ids < CLASSES, ids, 0)  # a network knows no void
    known = F.one_hot(ids.long(), CLASSES)[None].permute(0, 3, 1, 2).float()
    coarse = [side // 8 + 1 for side in size]
    logits = F.interpolate(F.avg_pool2d(known, 9, 8, 4), coarse, mode="bilinear", align_corners=True) * 8
    logits += 0.2 * torch.randn_like(logits)

    def plain() -> Tensor:
        return F.interpolate(logits, size, mode="bilinear", align_corners=True).argmax(1)

    def fast() -> Tensor:
        return upsampled_argmax(logits, size, align_corners=True)

    differ = int((plain() != fast()).sum())
    with single_threaded():
        whole, own = interleaved([plain, fast], bench.rounds(15))
    return [
        Figure("labels, relative to interpolate and argmax", ratios(own, whole), "x", budget=0.2),
        Figure("pixels of another class", [differ], "px", budget=0),
    ]


def warp(bench: Bench) -> list[Figure]:
    """`resample2d` relative to `F.grid_sample` (border padding), on 3 and on 19 channels of 512x1024. The time of
    `F.grid_sample` includes the conversion of the flow to the normalised coordinates that it needs. The flow is smooth
    and leaves the frame in places.
    """
    height, width = bench.size((512, 1024), (32, 64))
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 2, 8, 16, generator=generator) * 8
    flow = F.interpolate(coarse, (height, width), mode="bilinear")
    figures = []
    for channels in (3, 19):
        image = torch.randn(1, channels, height, width, generator=generator, requires_grad=True)
        for name, step in (("forward", _forward), ("forward and backward", _forward_and_backward)):
            calls = [lambda f=f, s=step, i=image: s(f, i, flow) for f in (resample2d, _grid_sample)]
            own, torchs = interleaved(calls, bench.rounds(9))
            figures.append(Figure(f"{channels} channels, {name}, relative to grid_sample", ratios(own, torchs), "x"))
    return figures


def _forward(function: Callable[[Tensor, Tensor], Tensor], image: Tensor, flow: Tensor) -> None:
    with torch.no_grad():
        function(image, flow)


def _forward_and_backward(function: Callable[[Tensor, Tensor], Tensor], image: Tensor, flow: Tensor) -> None:
    function(image, flow).sum().backward()


def _grid_sample(image: Tensor, flow: Tensor) -> Tensor:
    height, width = image.shape[2:]
    x = (torch.arange(width) + flow[:, 0]) * (2 / (width - 1)) - 1
    y = (torch.arange(height)[:, None] + flow[:, 1]) * (2 / (height - 1)) - 1
    return F.grid_sample(image, torch.stack((x, y), -1), padding_mode="border", align_corners=True)
