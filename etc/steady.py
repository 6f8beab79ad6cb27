"""Makes a finished network steadier on video without labels: the settings of the training, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etc.config import dump_settings, load_settings
from etc.config.schema import Settings
from etc.data.breaks import breaks_in
from etc.data.images import image_size, read_image
from etc.data.labels import class_names
from etc.data.lists import Clip, Frame, format_clips, format_frames
from etc.data.sources import clips_of_frames, clips_to_score
from etc.errors import UserError
from etc.evaluate.predictions import predictions_from
from etc.flow import build_flow
from etc.metrics import SegmentationIoU, iou_counts
from etc.networks import FROZEN, PROBABILITIES, are_probabilities, learns, new_network, random_images, trained_network
from model import SegmentationNetwork
from model.external import UnclearOutput
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
# Gradients of transformers, and of other networks with layer norms, have other sizes than SGD's rate is made for. Not
# tried on such a network of this field.
TRANSFORMER: dict[str, Any] = {"TRAIN.optimizer": "adamw", "TRAIN.base_lr": 0.00006, "TRAIN.weight_decay": 0.01}
_FREE = {"TRAIN.workers", "TRAIN.print_freq", "DATA.names_path", "DATA.colors_path"}  # may change between two calls
_OPTIONS = {  # of the command, by the settings that they become
    **{"TRAIN.arch": "--network", "TRAIN.weight": "--weights", "DATA.classes": "--classes"},
    "TRAIN.epochs": "--steps, in epochs",
}
_STILL = 0.05  # pixels: nothing moves where 95% of the pixels move less
_LOOKED_AT = 20  # pairs of frames whose motion is looked at


def check_network(network: str, weights: str, classes: int, overrides: Sequence[str]) -> None:
    """Check, before a video is unpacked, that the weights are those of the network, that it can learn, that it returns
    logits, and that the classes have names.

    Raises:
        UserError: settings that cannot be used, weights that do not fit, no parameter that learns, or something else
            than logits is returned.
    """
    own = [f"DATA.classes={classes}", f"TRAIN.arch={network}", "TRAIN.pretrained=false"]
    settings = load_settings(None, [*own, *overrides, f"TEST.ckpt_path={weights}", "TEST.device=cpu"])
    class_names(settings)
    try:
        if not learns(new_network(settings)):
            raise UserError(FROZEN)
        _check_logits(trained_network(settings))
    except (UserError, UnclearOutput) as error:
        raise UserError(f"--network {network} --classes {classes} --weights {weights}: {error}") from error


@torch.no_grad()
def _check_logits(made: SegmentationNetwork) -> None:
    """Raise UserError or UnclearOutput for a network whose training would fail, or teach it the wrong thing."""
    images = random_images(made)
    for training in (True, False):
        try:
            logits = made.train(training).outputs(images)["logits"]
        except UnclearOutput:
            raise
        except Exception:  # its own code may refuse images of this size: the training has those of the video
            return
    if not logits.isfinite().all():
        raise UserError("its logits for random images are NaN or infinite: are these its weights?")
    if are_probabilities(logits):
        raise UserError(f"it {PROBABILITIES}")


def check_folders(videos: Sequence[str], out: Path) -> None:
    """Refuse an output folder that cannot be used.

    Raises:
        UserError: its name has spaces, which end a name in the lists; or it is or lies in a folder that is read, where
            its pictures would be frames the next time.
    """
    if any(character.isspace() for character in str(out)):
        raise UserError(f"--out {str(out)!r} has spaces, which lists of frames do not take: give a path without")
    for video in videos:
        if Path(video).is_dir() and Path(video).resolve() in (out.resolve(), *out.resolve().parents):
            raise UserError(f"--out {out} is or lies in --video {video}, which is read: give a folder elsewhere")


def prepare(
    *, network: str, weights: str, videos: Sequence[str], classes: int, out: Path, steps: int, overrides: Sequence[str]
) -> list[str]:
    """Write the lists of the frames, and give the settings of all steps.

    Args:
        network: as ``TRAIN.arch``.
        weights: checkpoint of the finished network.
        videos: videos, folders of frames or videos, or lists of videos, each as ``TEST.frames``.
        classes: number of classes.
        out: folder of everything.
        steps: of the training.
        overrides: of the user, as :func:`etc.config.load_settings` takes them; they come last.

    Returns:
        The settings as overrides of the default ones.

    Raises:
        UserError: nothing to train on: no two consecutive frames, fewer frames than a step has, frames of several
            sizes, or a video in which nothing moves; a folder that holds the training on another video.
    """
    unpacking = load_settings(None, [f"TEST.save_folder={out}", f"FLOW.cache={out}/flow_cache"])
    clips = [clip for video in videos for clip in clips_of_frames(unpacking, video, given_as="--video")]
    given = " ".join(videos)
    frames = _different_frames(clips, given)
    width, height = _one_size(frames, given)
    recipe = RECIPE | (TRANSFORMER if _has_layer_norms(network, classes, overrides) else {})
    wanted = [f"FLOW.cache={out}/flow_cache", *(f"{key}={value}" for key, value in recipe.items()), *overrides]
    chosen = load_settings(None, wanted)
    batch = chosen.TRAIN.batch_size
    if len(frames) < batch:
        raise UserError(f"{given} holds {len(frames)} frames: a training step needs {batch} (TRAIN.batch_size)")
    _check_motion(breaks_in(clips, chosen).split(clips), given)
    _write_lists(frames, clips, out)
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
        "DATA.allow_missing_neighbours": "true",
        "FLOW.name": "dis",
        "FLOW.cache": str(out / "flow_cache"),
        "TRAIN.arch": network,
        "TRAIN.pretrained": "false",
        "DISTILL.teacher_arch": teacher,
        "DISTILL.teacher_weight": weights,
        "TRAIN.train_h": height,
        "TRAIN.train_w": width,
        "TRAIN.epochs": math.ceil(steps / (len(frames) // batch)),  # a batch that is not full is left out
        "TRAIN.val_freq": 0,
        "TRAIN.resume": "auto",
    }
    return [*(f"{key}={value}" for key, value in (own | recipe).items()), *overrides, f"TRAIN.weight={weights}"]


def _has_layer_norms(network: str, classes: int, overrides: Sequence[str]) -> bool:
    made = new_network(
        load_settings(None, [f"DATA.classes={classes}", f"TRAIN.arch={network}", "TRAIN.pretrained=false", *overrides])
    )
    return any(isinstance(part, nn.LayerNorm) for part in made.modules())


def _different_frames(clips: list[Clip], video: str) -> list[Frame]:
    """The frames of all clips.

    Raises:
        UserError: some are given twice, and a list names a frame once.
    """
    frames = [frame for clip in clips for frame in clip]
    if len({frame.image for frame in frames}) < len(frames):
        raise UserError(f"--video {video} names some frames twice: name each video or folder once")
    return frames


def _one_size(frames: list[Frame], video: str) -> tuple[int, int]:
    """Width and height of all frames.

    Raises:
        UserError: one has another size.
    """
    sizes = {frame.image: image_size(Path(frame.image)) for frame in frames}
    width, height = sizes[frames[0].image]
    for image, size in sizes.items():
        if size != (width, height):
            raise UserError(
                f"{video} holds frames of different sizes, {frames[0].image} of {width}x{height} and {image} of "
                f"{size[0]}x{size[1]}: give frames of one size at a time"
            )
    return width, height


def _write_lists(frames: list[Frame], clips: list[Clip], out: Path) -> None:
    train = out / "train.lst"
    if train.is_file() and train.read_text(encoding="utf-8") != format_frames(frames):
        raise UserError(f"--out {out} holds the training on other frames: give another folder, or delete it")
    write_text(train, format_frames(frames))
    write_text(out / "clips.lst", format_clips(clips))


def keep_settings(settings: Settings, out: Path) -> Path:
    """Write the settings of all steps, at once, into ``steady.yaml``; gives its path.

    Raises:
        UserError: the folder holds a run of other settings, which would no longer be those of the network in it.
    """
    path = out / "steady.yaml"
    if path.is_file():
        before, now = load_settings(str(path), []).model_dump(), settings.model_dump()
        for section in ("DATA", "FLOW", "TRAIN", "DISTILL"):
            for key, value in now[section].items():
                name = f"{section}.{key}"
                if name not in _FREE and before[section][key] != value:
                    said = _OPTIONS.get(name, name)
                    raise UserError(
                        f"--out {out} holds a run with {said} {before[section][key]}, now it is {value}: give another "
                        "folder, or delete it"
                    )
    write_text(path, dump_settings(settings))
    return path


def _check_motion(clips: list[Clip], video: str) -> None:
    """Raise UserError where no pair of frames moves: there, any prediction agrees along the flow."""
    pairs = [pair for clip in clips for pair in pairwise(clip)]
    if not pairs:
        raise UserError(f"{video}: no two frames follow each other without a cut or a gap (DATA.cuts, DATA.gaps)")
    flow = build_flow("dis", preset="ultrafast")
    for pair in pairs[:: math.ceil(len(pairs) / _LOOKED_AT)]:
        t, k = (torch.from_numpy(read_image(Path(frame.image))).permute(2, 0, 1)[None].float() for frame in pair)
        try:
            motion = flow.estimate(t, k)
        except ValueError as error:
            raise UserError(f"{video}: {error}") from error
        if motion.abs().amax(1).quantile(0.95) > _STILL:
            return
    raise UserError(f"{video}: nothing moves in it, so the motion loss has nothing to teach: give a video with motion")


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
