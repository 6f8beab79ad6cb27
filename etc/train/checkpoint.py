"""Checkpoints: plain tensors and builtins, written so that a kill never destroys the last good one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from etc.config.published import translate
from etc.config.schema import SECTIONS, Settings
from etc.errors import UserError
from model.checkpoint import check_finite, read_checked
from model.unpack import unpack
from utils.files import write_bytes

VERSION = 1

# The learning rate of a training falls to 0 at its end: more epochs are another training.
HOW_TO_GO_ON = "to train on, start from its weights with TRAIN.weight {path} and another TRAIN.save_path"

# Settings that may differ when a run is resumed, because its weights do not depend on them.
_FREE = {
    "TRAIN": {"resume", "save_path", "workers", "print_freq", "val_freq", "val_clips"},
    "DATA": {"val_list", "clip_list", "names_path", "colors_path"},
    "DISTILL": {"cache"},
    "FLOW": {"cache", "occlusion", "evaluate_with"},
    "TEST": set(SECTIONS["TEST"].model_fields) - {"pad_to"},  # this one shapes the network that is trained
}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a training's state atomically: an old file is replaced only when the new one is complete.

    Args:
        path: the file.
        content: ``{"student", "optimizer", "scheduler", "scaler", "rng", "step", "epoch", "config", "metrics",
            "validated", "made_with"}``, plain tensors and builtins; ``"version"`` is added.
    """
    # Through memory: on a full disk torch.save raises a RuntimeError that does not say so, writing bytes does.
    buffer = io.BytesIO()
    torch.save(content | {"version": VERSION}, buffer)
    write_bytes(path, buffer.getvalue())


def read_checkpoint(path: Path, key: str) -> Any:
    """Content of a file that ``torch.save`` wrote, with any toolkit.

    Args:
        path: the file.
        key: the setting that names it, for errors.

    Raises:
        UserError: a missing or damaged file, or one that holds more than tensors and builtins.
    """
    if not path.is_file():
        raise UserError(f"{key} {path} does not exist")
    try:
        file = read_checked(path)
        return unpack(file.data, file.path)
    except OSError as error:
        raise UserError(f"{key}: cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to resume a training from.

    Raises:
        UserError: a missing or damaged file, one of another version, weights without the state of a training, or
            weights that are not finite.
    """
    content = read_checkpoint(path, "TRAIN.resume")
    needed = {"student", "optimizer", "scheduler", "rng", "step", "epoch", "config", "version"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise UserError(f"TRAIN.resume {path} holds no training state; use TRAIN.weight to start from weights")
    _check_types(content, path)
    if content["version"] != VERSION:
        raise UserError(f"TRAIN.resume {path} has format {content['version']}, this toolkit reads {VERSION}")
    try:
        check_finite(content["student"], path)
    except ValueError as error:
        raise UserError(f"TRAIN.resume: {error}") from error
    return content


def _check_types(content: dict[str, Any], path: Path) -> None:
    """Raise UserError for an entry of another type than :func:`save_checkpoint` wrote."""
    for key in ("version", "step", "epoch"):
        value = content[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            found = value if isinstance(value, int) else type(value).__name__
            raise UserError(f"TRAIN.resume {path} is damaged: {key} is {found}, expected an integer of 0 or more")
    # Checkpoints of version 1.0 lack "validated" or "made_with".
    for key in ("student", "optimizer", "scheduler", "scaler", "rng", "config", "metrics", "made_with"):
        value = content.get(key, {} if key == "made_with" else None)
        if not isinstance(value, dict):
            raise UserError(f"TRAIN.resume {path} is damaged: {key} is {type(value).__name__}, expected a dict")
    if not isinstance(content.get("validated", True), bool):
        raise UserError(f"TRAIN.resume {path} is damaged: validated is neither true nor false")
    odd = [key for key, value in content["student"].items() if not isinstance(value, torch.Tensor)]
    odd += [key for key, value in content["metrics"].items() if not isinstance(value, int | float)]
    if odd:
        raise UserError(f"TRAIN.resume {path} is damaged: {odd[0]} is no tensor or number")


def check_same_run(content: dict[str, Any], settings: Settings, path: Path) -> None:
    """Refuse other settings than those of the checkpoint: a resumed run must give what the uninterrupted one gives.

    Raises:
        UserError: the first setting that differs.
    """
    # A checkpoint of an earlier version names some settings differently.
    trained, now = translate(content["config"], str(path)), settings.model_dump()
    for section in ("DATA", "FLOW", "TRAIN", "DISTILL", "DISTRIBUTED", "TEST"):
        for key, value in now[section].items():
            # A checkpoint older than the setting was trained as the setting's default says.
            default = SECTIONS[section].model_fields[key].get_default(call_default_factory=True)
            before = trained.get(section, {}).get(key, default)
            if key not in _FREE.get(section, ()) and before != value:
                cure = "choose another TRAIN.save_path, or restore the setting"
                if (section, key) == ("TRAIN", "epochs"):
                    cure = f"{HOW_TO_GO_ON.format(path=path)}, or restore the setting"
                raise UserError(f"{path} was trained with {section}.{key} {before}, now it is {value}: {cure}")
