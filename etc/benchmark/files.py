"""Work around the network that reads and writes files: samples and predictions; and scoring from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from etc.benchmark.bench import Bench, BenchClip
from etc.benchmark.measure import Figure, in_new_process, interleaved, peak_memory, ratios, single_threaded
from etc.config import load_settings
from etc.data.lists import format_frames
from etc.metrics import TemporalConsistency
from etc.predict.clips import generate
from etc.train.checkpoint import save_checkpoint
from model import build_model
from utils.files import write_text

CLASSES = 19
GIGABYTE = 1e9


def sample(bench: Bench) -> list[Figure]:
    """A training sample (two frames and a label of 2048x1024, PNG, to crops of 769) on one thread, relative to
    `cv2.imread` of the same three files.
    """
    data = bench.samples(bench.size(769, 65), None)
    clip = bench.clip(*bench.size((1024, 2048), (128, 256)), 2)
    paths = [str(clip.root / name) for frame in clip.frames for name in (frame.image, frame.label) if name]
    draws = iter(range(1000))
    with single_threaded():
        calls = [lambda: data[next(draws), 0], lambda: [cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in paths]]
        own, reading = interleaved(calls, bench.rounds(15))
    return [Figure("training sample, relative to three imread", ratios(own, reading), "x", budget=1.35)]


def prediction(bench: Bench) -> list[Figure]:
    """`gen_video` on a clip at 512x1024 (decode, network, argmax, PNG, mp4), relative to its network alone on the same
    number of frames. Reading and writing run while the network computes, and should add little time.
    """
    height, width = bench.size((512, 1024), (64, 128))
    count = bench.size(20, 3)
    clip = bench.clip(height, width, count)
    words = generation(bench.folder / "prediction", clip, count)
    network = build_model("psp18", classes=CLASSES).eval().to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, height, width).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(count):
            network(image)

    whole, bare = interleaved([lambda: generate(load_settings(None, words), overwrite=True), alone], bench.rounds(3))
    return [Figure("gen_video end to end, relative to the network alone", ratios(whole, bare), "x", budget=1.10)]


def memory(bench: Bench) -> list[Figure]:
    """Peak resident memory of `gen_video` at 1024x2048 with batch size 1, in a separate process; and that of a process
    that has loaded PyTorch, torchvision and the toolkit, and does nothing. A clip of three times the length should not
    need more.
    """
    short, long = bench.size((5, 15), (2, 6))
    clip = bench.clip(*bench.size((1024, 2048), (64, 128)), long)
    peaks = [
        in_new_process(_generate_and_weigh, generation(bench.folder / f"memory-{count}", clip, count))
        for count in (short, long)
    ]
    return [
        Figure("gen_video, peak memory", [peaks[1] / GIGABYTE], "GB", budget=1.2),
        Figure("of that, what is loaded before any frame", [in_new_process(_weigh_libraries) / GIGABYTE], "GB"),
        Figure(f"peak with {long} frames, relative to {short} frames", ratios(peaks[1:], peaks[:1]), "x"),
    ]


def generation(folder: Path, clip: BenchClip, count: int) -> list[str]:
    """Settings of a prediction of the first frames of a clip by PSPNet-18 with random weights."""
    torch.manual_seed(0)
    return predict_with(folder, clip, count, build_model("psp18", classes=CLASSES).state_dict())


def predict_with(folder: Path, clip: BenchClip, count: int, weights: dict[str, Any]) -> list[str]:
    """Settings of a prediction of the first frames of a clip by a network with these weights."""
    save_checkpoint(folder / "weights.pth", {"student": weights})
    write_text(folder / "clip.lst", format_frames(clip.frames[:count]))
    return [
        "DATA.synthetic=false",
        f"DATA.data_root={clip.root}",
        f"DATA.clip_list={folder / 'clip.lst'}",
        f"TEST.ckpt_path={folder / 'weights.pth'}",
        f"TEST.save_folder={folder / 'result'}",
        "TEST.device=cpu",
    ]


def _generate_and_weigh(words: list[str]) -> int:
    generate(load_settings(None, words))
    return peak_memory()


def _weigh_libraries() -> int:
    build_model("psp18", classes=CLASSES)  # loads torchvision
    return peak_memory()


def scoring(bench: Bench) -> list[Figure]:
    """Temporal consistency (TC) of one 1024x2048 pair, flow and predictions in memory, on one thread, relative to one
    nearest-neighbour `cv2.remap` of that size. `strict` and `published` are the two scoring protocols
    (docs/scoring.md). Label maps and flow are generated: regions of a few dozen pixels, motion of up to 20 pixels.
    With a backward flow, half of the time goes into sampling it at the end of every vector and comparing.
    """
    height, width = bench.size((1024, 2048), (64, 128))
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, CLASSES, (height // 32, width // 32), dtype=np.uint8)
    ids = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    coarse = rng.normal(0, 8, (2, 5, 9)).astype(np.float32)
    flow = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in coarse])
    following, backward = np.roll(ids, 3, 1), -flow
    x, y = np.arange(width, dtype=np.float32) + flow[0], np.arange(height, dtype=np.float32)[:, None] + flow[1]
    strict, published = TemporalConsistency(CLASSES), TemporalConsistency(CLASSES, "published")
    calls = [
        lambda: cv2.remap(following, x, y, cv2.INTER_NEAREST),
        lambda: strict.update(ids, following, flow, backward),
        lambda: strict.update(ids, following, flow),
        lambda: published.update(ids, following, flow),
    ]
    with single_threaded():
        remap, full, without, old = interleaved(calls, bench.rounds(15))
    return [
        Figure("strict, with occlusion check, relative to one remap", ratios(full, remap), "x", budget=12),
        Figure("strict, without backward flow, relative to one remap", ratios(without, remap), "x", budget=12),
        Figure("published, relative to one remap", ratios(old, remap), "x", budget=30),
    ]
