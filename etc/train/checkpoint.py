"""Checkpoints: plain tensors and builtins, written so that a kill never destroys the last good one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from etc.config.published import translate
from etc.config.schema import SECTIONS, Settings
from etc.errors import UserError
from utils.files import write_bytes

VERSION = 1

# Settings that may differ between the two halves of a resumed run without changing its weights.
_FREE = {
    "TRAIN": {"resume", "save_path", "workers", "print_freq", "val_freq", "val_clips"},
    "DATA": {"val_list", "clip_list", "names_path", "colors_path"},
    "DISTILL": {"cache"},
    "FLOW": {"cache", "occlusion", "evaluate_with"},
}


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``{"student", "optimizer", "scheduler", "scaler", "rng", "step", "epoch", "config", "metrics"}``."""
    # Through memory: on a full disk torch.save raises a RuntimeError that does not say so, writing bytes does.
    buffer = io.BytesIO()
    torch.save(content | {"version": VERSION}, buffer)
    write_bytes(path, buffer.getvalue())


def read_checkpoint(path: Path, key: str) -> Any:
    """What a file of ``torch.save`` holds, whoever wrote it.

    Raises:
        UserError: a missing or damaged file; ``key`` says what it was given as.
    """
    if not path.is_file():
        raise UserError(f"{key} {path} does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch.load raises many kinds for files that are no checkpoint
        raise UserError(f"{key} {path} is truncated or not a checkpoint") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint to continue from.

    Raises:
        UserError: missing, damaged, of another version, or weights without the state of a training.
    """
    content = read_checkpoint(path, "TRAIN.resume")
    needed = {"student", "optimizer", "scheduler", "rng", "step", "epoch", "config", "version"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise UserError(f"TRAIN.resume {path} holds no training state; use TRAIN.weight to start from weights")
    if content["version"] != VERSION:
        raise UserError(f"TRAIN.resume {path} has format {content['version']}, this toolkit reads {VERSION}")
    return content


def check_same_run(content: dict[str, Any], settings: Settings, path: Path) -> None:
    """A resumed run must give what the uninterrupted one gives: refuse other settings.

    Raises:
        UserError: the first setting that differs.
    """
    now, then = settings.model_dump(), translate(content["config"], source=f"the settings in {path}")
    for section in ("DATA", "FLOW", "TRAIN", "DISTILL"):
        for key, value in now[section].items():
            # A run from before there was such a setting behaved as its default does.
            default = SECTIONS[section].model_fields[key].get_default(call_default_factory=True)
            before = then.get(section, {}).get(key, default)
            if key not in _FREE.get(section, ()) and before != value:
                raise UserError(
                    f"{path} was trained with {section}.{key} {before}, now it is {value}: "
                    "choose another TRAIN.save_path, or restore the setting"
                )
