"""Continuing a training: which checkpoint, whether it belongs to this training, and whether it is sound.

A resumed training must end with the weights of the uninterrupted one. So a checkpoint says what it was made with
(:func:`made_with`), and each difference that would change the weights is refused.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import etc
from etc import distributed
from etc.config import find_file
from etc.config.schema import Settings
from etc.data.clip_dataset import ClipDataset
from etc.errors import UserError
from etc.train.checkpoint import check_same_run, load_checkpoint
from etc.train.optimization import positions
from model.own_source import is_own_code, source_hash
from utils.files import sha256_of

logger = logging.getLogger(__name__)

CURE = "choose another TRAIN.save_path, or restore"

# What each machine of a training may have by itself; all else must be the same in all processes.
_OF_A_MACHINE = ("DATA.data_root", "TRAIN.save_path", "TRAIN.workers", "FLOW.cache", "DISTILL.cache")


def checkpoint_to_resume(settings: Settings) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that ``TRAIN.resume`` names and its content; ``None``: a new training starts.

    Raises:
        UserError: a missing or damaged checkpoint, one of other settings or of another number of processes, or a
            ``TRAIN.save_path`` that holds another run.
    """
    train = settings.TRAIN
    last = Path(train.save_path) / "last.pth"
    if train.resume is None or (train.resume == "auto" and not last.is_file()):
        if last.is_file():
            raise UserError(
                f"{train.save_path} holds a training run already: continue it with TRAIN.resume auto, "
                "or choose another TRAIN.save_path"
            )
        return None
    path = last if train.resume == "auto" else Path(train.resume)
    content = _sound_content(path)
    check_same_run(content, settings, path)
    _check_processes(content, path)
    if path.resolve().parent != last.resolve().parent and last.is_file():
        # It would be replaced: a run of other settings must not be lost.
        check_same_run(_sound_content(last), settings, last)
    return path, content


def check_same_settings(settings: Settings) -> None:
    """Refuse to train where the processes were given different settings: each would train another network.

    Raises:
        UserError: in every process, where two of them differ; with the first setting that does.
    """
    own = {f"{section}.{key}": value for section, keys in settings.model_dump().items() for key, value in keys.items()}
    for rank, found in enumerate(everywhere := distributed.gathered(own)):
        for key, value in everywhere[0].items():
            if key not in _OF_A_MACHINE and found.get(key) != value:
                raise UserError(
                    f"{key} is {value} in process 0 and {found.get(key)} in process {rank}: give all of them the same "
                    "settings file and the same settings on the command line"
                )


def check_same_start(resumed: tuple[Path, dict[str, Any]] | None, settings: Settings) -> None:
    """Refuse to train where the processes would go on from different states: each reads the checkpoint by itself.

    Args:
        resumed: what :func:`checkpoint_to_resume` found in this process.
        settings: for the message.

    Raises:
        UserError: in every process, where two of them differ.
    """
    start = "the first weights"
    if resumed is not None:
        path, content = resumed
        start = f"epoch {content['epoch']}, step {content['step']} of {path} (sha256 {sha256_of(path)[:12]})"
    starts = distributed.gathered(start)
    other = next((rank for rank, found in enumerate(starts) if found != starts[0]), None)
    if other is not None:
        raise UserError(
            f"process 0 would train on from {starts[0]}, process {other} from {starts[other]}: TRAIN.save_path "
            f"{settings.TRAIN.save_path} must be one folder that all machines share, and so must FLOW.cache, "
            "DISTILL.cache and DATA.data_root of a rendered world (docs/scaling.md)"
        )


def made_with(settings: Settings, data: ClipDataset, student: nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    """What the weights of a training depend on, besides its settings; kept in its checkpoints.

    Returns:
        ``inputs``: what the settings name -> hash of its content (:func:`inputs_of`);
        ``frames``: their number; ``frames_sha256`` of the names of frames and labels in their order;
        ``neighbours_sha256`` of the neighbours that are drawn from; ``world_size``; ``structure_sha256`` of the
        names and shapes of the network's parameters; ``number_format``: what ``dtype``, that it is computed in, is
        called; ``toolkit`` and ``torch``: versions.
    """
    neighbours = (data.offsets if data.with_neighbour else [], data.opposite or [])
    return {
        "inputs": inputs_of(settings, data),
        "frames": len(data.frames),
        "frames_sha256": _sha256(f"{frame.image} {frame.label or ''}" for frame in data.frames),
        "neighbours_sha256": _sha256(map(str, neighbours)),
        "world_size": distributed.world_size(),
        "structure_sha256": _sha256(f"{name} {tuple(p.shape)}" for name, p in student.named_parameters()),
        "number_format": str(dtype).removeprefix("torch."),
        "toolkit": etc.__version__,
        "torch": str(torch.__version__),
    }


def check_same_inputs(now: dict[str, Any]) -> None:
    """Refuse to train where the machines of the processes have other data, networks or versions.

    Args:
        now: what :func:`made_with` gives in this process.

    Raises:
        UserError: in every process, where two of them differ.
    """
    everywhere = [made | made["inputs"] for made in distributed.gathered(now)]
    for rank, found in enumerate(everywhere):
        first = everywhere[0]
        other = next((key for key in first if key != "inputs" and first[key] != found.get(key)), None)
        if other is not None:
            was, is_ = (str(values.get(other))[:12] for values in (first, found))
            raise UserError(
                f"{other} is {was} in process 0 and {is_} in process {rank}: their machines must have the same frames, "
                "labels, weights, code and versions, and where TRAIN.amp is auto, compute the same type"
            )


def inputs_of(settings: Settings, data: ClipDataset) -> dict[str, str]:
    """The files and the code that settings name, with a hash of each; of frames and labels only of their sizes."""
    train, distill = settings.TRAIN, settings.DISTILL
    files = {
        "TRAIN.weight": train.weight,
        "TRAIN.class_weight": train.class_weight,
        "DATA.label_map": settings.DATA.label_map,
        "FLOW.weights": settings.FLOW.weights if settings.needs_flow else None,
    }
    for number, path in enumerate(distill.teacher_weights if distill.used else []):
        files[f"DISTILL.teacher_weight{f'[{number}]' if number else ''}"] = path
    code = {
        "TRAIN.arch": train.arch,
        "TRAIN.loss": train.loss,
        "DISTILL.teacher_arch": distill.teacher_arch if distill.used else "",
        "FLOW.name": settings.FLOW.name if settings.needs_flow else "",
    }
    named = {key: find_file(name) for key, name in files.items() if isinstance(name, str)}
    found = {key: sha256_of(file) for key, file in named.items() if file.is_file()}
    found |= {f"the source of {key}": source_hash(name) for key, name in code.items() if is_own_code(name)}
    names = [name for frame in data.frames for name in (frame.image, frame.label) if name]
    found["frames and labels"] = _sha256(str((data.data_root / name).stat().st_size) for name in names)
    return found


def check_same_training(content: dict[str, Any], path: Path, now: dict[str, Any], settings: Settings) -> None:
    """Refuse a checkpoint of other samples or of a network of another structure; other versions and another number
    format are logged.

    Args:
        content: the checkpoint. One of version 1.0 does not say what it was made with.
        path: its file.
        now: what :func:`made_with` gives now.
        settings: for messages.

    Raises:
        UserError: what differs, with both values.
    """
    before = content.get("made_with", {})
    changed = {key for key in now if key in before and before[key] != now[key]}
    source = f"DATA.train_list {settings.DATA.train_list}"
    if changed & {"frames", "frames_sha256"}:
        was, is_ = (
            f"{made.get('frames')} frames (sha256 {str(made.get('frames_sha256'))[:12]})" for made in (before, now)
        )
        raise UserError(f"{path} was trained on {was} of {source}, now it lists {is_}: {CURE} the list")
    kept, own = before.get("inputs", {}), now["inputs"]
    other = next((key for key in own if key in kept and kept[key] != own[key]), None)
    if other is not None:
        what = "sizes of the files of " + source if other == "frames and labels" else other
        raise UserError(
            f"{path}: {what} had another content when it was trained (sha256 {kept[other][:12]}, now "
            f"{own[other][:12]}): {CURE} the content"
        )
    if "neighbours_sha256" in changed:
        was, is_ = (str(made["neighbours_sha256"])[:12] for made in (before, now))
        raise UserError(
            f"{path}: the frames of {source} had other neighbours on disk (sha256 {was}) than now ({is_}): "
            f"{CURE} the frames"
        )
    if "structure_sha256" in changed:
        was, is_ = (str(made["structure_sha256"])[:12] for made in (before, now))
        raise UserError(
            f"{path} was trained with TRAIN.arch {settings.TRAIN.network} of another structure (sha256 of names and "
            f"shapes of its parameters {was}, now {is_}): {CURE} the network"
        )
    if "number_format" in changed:
        was, is_ = (made["number_format"] for made in (before, now))
        logger.warning("%s was trained in %s, and TRAIN.amp auto goes on in %s, as this machine does", path, was, is_)
    if changed & {"toolkit", "torch"}:
        was, is_ = (f"version {made.get('toolkit')} with torch {made.get('torch')}" for made in (before, now))
        logger.warning("%s was written by %s, now it is %s: the last bits may differ", path, was, is_)


def check_same_tensors(content: dict[str, Any], path: Path, student: nn.Module, settings: Settings) -> None:
    """Refuse weights of a network with other tensors than the student's.

    Raises:
        UserError: the first tensor that differs, with both shapes.
    """
    before = {name: _shape(tensor) for name, tensor in content["student"].items()}
    now = {name: _shape(tensor) for name, tensor in student.state_dict().items()}
    for name in [*before, *now]:
        was, is_ = before.get(name, "absent"), now.get(name, "absent")
        if was != is_:
            raise UserError(
                f"{path} was trained with another network than TRAIN.arch {settings.TRAIN.network} is now: {name} was "
                f"{was}, now it is {is_}: {CURE} the network"
            )


def check_progress(content: dict[str, Any], *, steps: int, epochs: int) -> None:
    """Refuse a position that no training of these settings reaches.

    Args:
        content: the checkpoint.
        steps: steps per epoch.
        epochs: epochs of the whole training.

    Raises:
        ValueError: the position.
    """
    epoch, step = content["epoch"], content["step"]
    if not 0 <= epoch <= epochs:
        raise ValueError(f"it holds epoch {epoch}, TRAIN.epochs is {epochs}")
    if step != epoch * steps:
        hint = "" if "made_with" in content else ", or DATA.train_list has changed"
        raise ValueError(f"it holds step {step} after epoch {epoch} of {steps} steps, expected {epoch * steps}{hint}")
    for state in positions(content["scheduler"]):
        position = state["last_epoch"]
        if not isinstance(position, int) or not 0 <= position <= step:
            raise ValueError(f"its learning rate schedule is at step {position}, the training at {step}")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Errors of reading a checkpoint become one line, which also says whether ``best.pth`` beside it can be used.

    Raises:
        UserError: the checkpoint and what is wrong with it.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        message = str(error)
        if not isinstance(error, UserError):
            reason = f"entry {error} is missing" if isinstance(error, KeyError) else message
            message = f"TRAIN.resume {path} is damaged: {reason}"
        raise UserError(f"{message}{_best_instead(path)}") from error


def _sound_content(path: Path) -> dict[str, Any]:
    with damage_named(path):
        return load_checkpoint(path)


def _best_instead(path: Path) -> str:
    best = path.with_name("best.pth")
    if best == path or not path.is_file() or not best.is_file():
        return ""
    try:
        epoch = load_checkpoint(best)["epoch"]
    except UserError:
        return f"; {best} cannot be used either"
    return (
        f"; {best}, of epoch {epoch}, can be read: continue from it with TRAIN.resume {best}, or start another run "
        f"from its weights with TRAIN.weight {best}"
    )


def _check_processes(content: dict[str, Any], path: Path) -> None:
    before, now = content.get("made_with", {}).get("world_size"), distributed.world_size()
    if before is not None and before != now:
        raise UserError(
            f"{path} was trained by {before} processes, now there are {now}: start {before} of them "
            f"(torchrun --nproc_per_node {before}), or choose another TRAIN.save_path"
        )


def _shape(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return "x".join(map(str, tensor.shape)) or "scalar"


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
