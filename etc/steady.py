"""Makes a finished network steadier on video without labels: the settings of the training, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from etc.config import dump_settings, load_settings
from etc.config.schema import Settings
from etc.data.images import image_size, read_image
from etc.data.labels import class_names
from etc.data.lists import Clip, format_clips, format_frames
from etc.data.sources import clips_of_frames, clips_to_score
from etc.errors import UserError
from etc.evaluate.predictions import predictions_from
from etc.flow import build_flow
from etc.metrics import SegmentationIoU, iou_counts
from utils.files import write_text

STEPS = 90
# The network learns from itself as it was, from its classes and above all from its probabilities: with the classes
# alone it forgets the rare ones (tried in docs/results/steady.md). Crops are whole frames as they are: at another scale
# than it was trained with, a network gets worse.
RECIPE: dict[str, Any] = {
    "TRAIN.self_training": 0.0,
    "TRAIN.st_weight": 4.0,
    "DISTILL.kd_weight": 3.0,
    "DISTILL.consistent_teacher": "true",
    "TRAIN.base_lr": 0.002,
    "TRAIN.frame_gap": 2,
    "TRAIN.batch_size": 4,
    "TRAIN.scale_min": 1.0,
    "TRAIN.scale_max": 1.0,
    "TRAIN.rotate_min": 0.0,
    "TRAIN.rotate_max": 0.0,
    "TRAIN.blur": 0.0,
}
_STILL = 0.05  # pixels: nothing moves where 95% of the pixels move less
_LOOKED_AT = 20  # pairs of frames whose motion is looked at


def prepare(
    *, network: str, weights: str, video: str, classes: int, out: Path, steps: int, overrides: Sequence[str]
) -> list[str]:
    """Write the lists of the frames, and give the settings of all steps.

    Args:
        network: as ``TRAIN.arch``.
        weights: checkpoint of the finished network.
        video: video, folder of frames or videos, or list of videos, as ``TEST.frames``.
        classes: number of classes.
        out: folder of everything.
        steps: of the training.
        overrides: of the user, as :func:`etc.config.load_settings` takes them; they come last.

    Returns:
        The settings as overrides of the default ones.

    Raises:
        UserError: nothing to train on: no two consecutive frames, frames of several sizes, or a video in which nothing
            moves.
    """
    unpacking = load_settings(None, [f"TEST.save_folder={out}", f"FLOW.cache={out}/flow_cache"])
    clips = clips_of_frames(unpacking, video)
    frames = [frame for clip in clips for frame in clip]
    sizes = {image_size(Path(clip[0].image)) for clip in clips}
    if len(sizes) > 1:
        raise UserError(f"{video} holds clips of different sizes ({sorted(sizes)}): give clips of one size at a time")
    _check_motion(clips, video)
    width, height = sizes.pop()
    write_text(out / "train.lst", format_frames(frames))
    write_text(out / "clips.lst", format_clips(clips))
    write_text(out / "names.txt", "".join(f"class {k}\n" for k in range(classes)))
    write_text(out / "colors.txt", "".join(f"{r} {g} {b}\n" for r, g, b in palette(classes)))
    batch = RECIPE["TRAIN.batch_size"]
    teacher = load_settings(None, [f"TRAIN.arch={network}", *overrides]).TRAIN.network
    own = {
        "DATA.synthetic": "false",
        "DATA.data_root": str(out),
        "DATA.layout": "folder",
        "DATA.train_list": str(out / "train.lst"),
        "DATA.val_list": "none",
        "DATA.clip_list": str(out / "clips.lst"),
        "DATA.classes": classes,
        "DATA.label_map": "none",
        "DATA.names_path": str(out / "names.txt"),
        "DATA.colors_path": str(out / "colors.txt"),
        "DATA.allow_missing_neighbours": "true",
        "FLOW.name": "dis",
        "FLOW.cache": str(out / "flow_cache"),
        "TRAIN.arch": network,
        "TRAIN.pretrained": "false",
        "DISTILL.teacher_arch": teacher,
        "DISTILL.teacher_weight": weights,
        "TRAIN.train_h": height,
        "TRAIN.train_w": width,
        "TRAIN.epochs": max(1, math.ceil(steps * batch / len(frames))),
        "TRAIN.val_freq": 0,
        "TRAIN.resume": "auto",
    }
    return [*(f"{key}={value}" for key, value in (own | RECIPE).items()), *overrides, f"TRAIN.weight={weights}"]


def keep_settings(settings: Settings, out: Path) -> Path:
    """Write the settings of all steps, at once, into ``steady.yaml``; gives its path."""
    path = out / "steady.yaml"
    write_text(path, dump_settings(settings))
    return path


def _check_motion(clips: list[Clip], video: str) -> None:
    """Raise UserError where no pair of frames moves: there, any prediction agrees along the flow."""
    pairs = [pair for clip in clips for pair in pairwise(clip)]
    flow = build_flow("dis", preset="ultrafast")
    for pair in pairs[:: math.ceil(len(pairs) / _LOOKED_AT)]:
        t, k = (torch.from_numpy(read_image(Path(frame.image))).permute(2, 0, 1)[None].float() for frame in pair)
        if flow.estimate(t, k).abs().amax(1).quantile(0.95) > _STILL:
            return
    raise UserError(f"{video}: nothing moves in it, so the motion loss has nothing to teach: give a video with motion")


def palette(classes: int) -> list[tuple[int, int, int]]:
    """Distinct colours, those of PASCAL VOC: the bits of a class are the high bits of red, green and blue in turn."""
    colors = []
    for class_id in range(classes):
        bits = [(class_id >> i & 1) << (7 - i // 3) for i in range(8)]
        colors.append((sum(bits[0::3]), sum(bits[1::3]), sum(bits[2::3])))
    return colors


def agreement(before: Settings, after: Settings) -> tuple[float, dict[str, float]]:
    """How much of what the network predicted before it still predicts.

    Args:
        before: settings of the predictions before (``TEST.save_folder``).
        after: of those after, of the same clips.

    Returns:
        The share of all pixels that keep their class, and that of the pixels of each class that was predicted before.
    """
    counts = SegmentationIoU(before.DATA.classes)
    clips = clips_to_score(before)
    old, new = predictions_from(before, clips), predictions_from(after, clips)
    for old_files, new_files in zip(old.files, new.files, strict=True):
        for old_file, new_file in zip(old_files, new_files, strict=True):
            assert old_file is not None and new_file is not None, "gen_video predicts every frame"
            counts.update(new.read(new_file), old.read(old_file))
    kept, before_all, _ = iou_counts(counts.counts).numpy()
    names = class_names(before)
    shares = {name: k / n for name, k, n in zip(names, kept, before_all, strict=True) if n}
    return float(kept.sum() / before_all.sum()), shares
