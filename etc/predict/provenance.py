"""What the predictions of a folder were made with."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from etc import distributed
from etc.config import dump_settings, find_file
from etc.config.own_code import network_code
from etc.config.schema import Settings
from etc.data.labels import CITYSCAPES, CITYSCAPES_COLORS, read_colors
from etc.distributed import device_of
from etc.errors import UserError
from etc.precision import chosen_dtype
from model.own_source import source_hash
from utils.files import regular_file, sha256_of, write_text


def provenance_of(settings: Settings, weights_sha256: str | None) -> dict[str, Any]:
    """What predictions depend on, beside their frames: checkpoint, source of a network of the user's own,
    palette and the settings of the predictor.

    Args:
        settings: the settings.
        weights_sha256: of the predictor: the file may have been replaced since its weights were read.
    """
    note = {
        "checkpoint_sha256": weights_sha256,
        "colors_sha256": _colors_sha256(settings),
        "network": settings.TRAIN.network,
        "classes": settings.DATA.classes,
    }
    return note | predictor_settings(settings)


def _colors_sha256(settings: Settings) -> str:
    """The hash of the file with the colours; without a file, of the colours."""
    path, classes = settings.DATA.colors_path, settings.DATA.classes
    if path is None and classes != CITYSCAPES:
        return hashlib.sha256(read_colors(path, classes).tobytes()).hexdigest()
    return sha256_of(find_file(path or CITYSCAPES_COLORS))


def predictor_settings(settings: Settings) -> dict[str, Any]:
    """The settings of the predictor that change what it predicts."""
    test = settings.TEST
    note: dict[str, Any] = {
        "mode": test.mode,
        "scales": test.scales,
        "flip": test.flip,
        "base_size": test.base_size,
    }
    # Rounding differs with each of these, and so may single pixels. Earlier notes lack them: they were all off.
    dtype = chosen_dtype(test.amp, device_of(test.device)) if test.amp != "off" else torch.float32
    if dtype != torch.float32:
        note["dtype"] = str(dtype).removeprefix("torch.")
    note |= {key: True for key in ("compile", "fold_bn") if getattr(test, key)}
    if network_code(settings):
        note["code"] = source_hash(settings.TRAIN.arch)
    if test.pad_to is not None:
        note["pad_to"] = test.pad_to
    if test.mode == "slide":
        note |= {"window": [test.test_h, test.test_w], "overlap": test.overlap}
    return note


def claim_output_folder(
    folder: Path, note: dict[str, Any], settings: Settings, *, parts: tuple[str, ...], overwrite: bool = False
) -> None:
    """Check that the predictions in a folder were made with the same inputs, and record these in the folder.

    Writes ``source.json``, the note, and ``settings.yaml``.

    Args:
        folder: the folder.
        note: what its predictions depend on.
        settings: the effective settings.
        parts: its sub-folders with predictions.
        overwrite: empty these, instead of raising an error where they hold other predictions.

    Raises:
        UserError: predictions of another or an unknown origin.
    """
    note_file, filled = folder / "source.json", [folder / part for part in parts]
    if not overwrite and any(part.is_dir() and any(part.iterdir()) for part in filled):
        old = _read_note(note_file)
        differing = [key for key in note | old if note.get(key) != old.get(key)]
        if differing:
            what = f"with another {', '.join(differing)}" if old else "by something that left no source.json"
            raise UserError(
                f"{folder} holds predictions made {what}: use --overwrite to replace them, or give another folder"
            )
    # All processes have checked before the first one changes anything, and none continues before that is done.
    distributed.barrier()
    if distributed.rank() == 0:
        if overwrite:
            for part in filled:
                _empty(part)
        write_text(folder / "settings.yaml", dump_settings(settings))
        write_text(note_file, json.dumps(note, indent=1) + "\n")
    distributed.barrier()


def _empty(folder: Path) -> None:
    """Remove a folder with all that it holds, if it is there; an OSError names the file that cannot be removed."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(regular_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
