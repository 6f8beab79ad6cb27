"""Scoring of one long clip by several worker processes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from etc.benchmark.bench import Bench
from etc.benchmark.measure import Figure, interleaved, ratios
from etc.config import load_settings
from etc.data.images import read_image, write_png
from etc.data.lists import Frame, format_frames
from etc.evaluate.clips import score_clips
from etc.evaluate.results import TC_FILE
from utils.files import write_text

CLASSES = 5


def workers(bench: Bench) -> list[Figure]:
    """`eval_tc` with `--workers 2` on one clip of 120 labelled frames of 1024x2048, start of the workers included,
    relative to `--workers 1`, which does all in one process with the threads of PyTorch and OpenCV. DIS flow is in the
    cache. The frames are crops that move across a picture; classes are its gray levels, and some pixels of the
    predictions are wrong. The last line counts the figures in `tc.json` that differ.
    """
    words = _moving_crops(bench, bench.folder / "workers")
    settings = load_settings(None, words)
    results = bench.folder / "workers" / "results"

    def score(count: int) -> None:
        score_clips(settings, workers=count).save(results / str(count))

    one, two = interleaved([lambda: score(1), lambda: score(2)], bench.rounds(3))
    written = [json.loads((results / str(count) / TC_FILE).read_text(encoding="utf-8")) for count in (1, 2)]
    return [
        Figure("eval_tc with two workers, times as fast as with one", ratios(one, two), "x", budget=1.7, at_least=True),
        Figure("figures that differ", [sum(a != b for a, b in zip(*map(_leaves, written), strict=True))], "", budget=0),
    ]


def _moving_crops(bench: Bench, folder: Path) -> list[str]:
    """Write frames, labels and predictions; the settings that score them."""
    height, width = bench.size((1024, 2048), (64, 128))
    count, rng = bench.size(120, 33), np.random.default_rng(0)
    clip = bench.clip(height, width, 2)
    picture = read_image(clip.root / clip.frames[0].image)
    picture = cv2.resize(picture, (width + 2 * count, height + count), interpolation=cv2.INTER_LINEAR)
    classes = cv2.GaussianBlur(picture[..., 1], (0, 0), 3) // (256 // CLASSES + 1)
    frames = []
    for t in range(count):
        crop = slice(t, t + height), slice(2 * t, 2 * t + width)
        noise = cv2.resize((rng.random((height // 16, width // 16)) < 0.02).astype(np.uint8), (width, height)) > 0
        write_png(folder / f"frames/{t:06d}.png", picture[crop])
        write_png(folder / f"labels/{t:06d}.png", classes[crop])
        write_png(folder / f"predictions/{t:06d}.png", np.where(noise, (classes[crop] + 1) % CLASSES, classes[crop]))
        frames.append(Frame(f"frames/{t:06d}.png", f"labels/{t:06d}.png"))
    write_text(folder / "clip.lst", format_frames(frames))
    write_text(folder / "names.txt", "".join(f"level {k}\n" for k in range(CLASSES)))
    return [
        "DATA.synthetic=false",
        f"DATA.data_root={folder}",
        f"DATA.clip_list={folder / 'clip.lst'}",
        "DATA.layout=folder",
        f"DATA.classes={CLASSES}",
        "DATA.label_map=none",
        f"DATA.names_path={folder / 'names.txt'}",
        "FLOW.name=dis",
        f"FLOW.cache={folder / 'flow'}",
        f"TEST.predictions={folder / 'predictions'}",
        "TEST.prediction_ids=train",
        "TEST.device=cpu",
    ]


def _leaves(content: object) -> list[object]:
    """All figures and words of a JSON document, in order, with the keys before them."""
    if isinstance(content, dict):
        return [leaf for key, value in content.items() for leaf in (key, *_leaves(value))]
    if isinstance(content, list):
        return [leaf for value in content for leaf in _leaves(value)]
    return [content]
