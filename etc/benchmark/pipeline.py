"""What gen_video does besides the network: its stages alone, and all of them at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from etc.benchmark.bench import Bench
from etc.benchmark.files import CLASSES, predict_with
from etc.benchmark.free_network import ARCH, weights_for
from etc.benchmark.measure import Figure, interleaved, ratios
from etc.config import load_settings
from etc.data.id_png import encode_ids, write_ids
from etc.data.images import read_image, read_label
from etc.data.labels import label_table, read_colors, to_train_ids
from etc.display.mp4 import Mp4Writer, encode_overlay
from etc.predict.clips import generate
from etc.predict.predictor import Predictor, predictor_from
from utils.threads import cores


def pipeline(bench: Bench) -> list[Figure]:
    """`gen_video` at 1024x2048 with a network that costs nothing, relative to the slowest of its stages alone, one
    frame after the other: decoding, ids from logits at an eighth of the size, both PNGs, mp4. The logits are those of
    a label map. The last line says how busy the cores are: near 100% nothing can be won by running more at once.
    """
    count = bench.size(16, 3)
    clip = bench.clip(*bench.size((1024, 2048), (64, 128)), count)
    label = next(frame.label for frame in clip.frames if frame.label)
    ids, _ = to_train_ids(read_label(clip.root / label), label_table("cityscapes", CLASSES, 255))
    words = predict_with(bench.folder / "pipeline", clip, count, weights_for(ids, CLASSES))
    settings = load_settings(None, [*words, f"TRAIN.arch={ARCH}"])
    wholes, busy = [], []

    def whole() -> None:
        start = time.process_time()
        # Without loading the network and checking the list, which long clips do not notice.
        seconds = generate(settings, overwrite=True).seconds
        wholes.append(seconds)
        busy.append(100 * (time.process_time() - start) / (seconds * cores()))

    paths = [clip.root / frame.image for frame in clip.frames[:count]]
    stages = _stages(paths, predictor_from(settings), read_colors(settings.DATA.colors_path, CLASSES), bench.folder)
    _, *alone = interleaved([whole, *stages.values()], bench.rounds(5))
    wholes, busy = wholes[1:], busy[1:]  # the first round does not count
    slowest = [max(seconds) for seconds in zip(*alone, strict=True)]
    work = "gen_video with a network that costs nothing, relative to its slowest stage"
    return [
        Figure(work, ratios(wholes, slowest), "x", budget=1.2),
        *[
            Figure(f"{name} alone, relative to the slowest stage", ratios(seconds, slowest), "x")
            for name, seconds in zip(stages, alone, strict=True)
        ],
        Figure("processor time of gen_video, share of all cores", busy, "%"),
    ]


def _stages(
    paths: list[Path], predictor: Predictor, palette: np.ndarray, folder: Path
) -> dict[str, Callable[[], object]]:
    """Each stage of a prediction of these frames, by name."""
    frames = [read_image(path) for path in paths]
    ids = [predictor([frame])[0] for frame in frames]

    def pictures() -> None:
        for value in ids:
            encoded = encode_ids(value)
            write_ids(folder / "gray.png", encoded)
            write_ids(folder / "color.png", encoded, palette=palette)

    def video() -> None:
        with Mp4Writer(folder / "stage.mp4", 17.0) as writer:
            for frame, value in zip(frames, ids, strict=True):
                encode_overlay(writer, frame, value, palette)

    return {
        "decoding": lambda: [read_image(path) for path in paths],
        "ids": lambda: [predictor([frame]) for frame in frames],
        "PNG": pictures,
        "mp4": video,
    }
