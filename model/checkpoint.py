"""Loads the student from a checkpoint of this toolkit, of the published code, or a plain state dict."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIPPED_PREFIXES = ("module.", "student.", "_orig_mod.")  # left by data parallelism, the training task, torch.compile
SKIPPED_PREFIXES = ("flownet.", "teacher.", "criterion.")  # what published checkpoints carry beside the student
STATE_DICT_KEYS = ("student", "state_dict", "model")


class LoadReport(NamedTuple):
    """Keys that the checkpoint lacks, and keys that it holds and the network does not have; a tensor of
    another shape counts as both."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_student(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
) -> LoadReport:
    """Loads a checkpoint's network into ``model``, in place.

    Reads this toolkit's checkpoints, the published ones, and plain state dicts: weights are looked for
    under ``student``, ``state_dict`` and ``model``; the prefixes ``module.`` and ``student.`` are
    stripped; the flow network, the teacher and the criterion are left out.

    Args:
        model: the network, of the architecture and the number of classes that the checkpoint was made for.
        path: the file.
        allow_missing: leave parameters that the checkpoint lacks unchanged.
        allow_unexpected: leave out what the network does not have. With both allowed, tensors of another shape
            are left out too, for instance the classifier of another data set.

    Returns:
        What was missing and unexpected: two empty tuples after a complete load.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of plain weights, or it does not fit the network (and that is not allowed).
    """
    state = read_weights(path)
    own = model.state_dict()
    found = strip(state, own)
    fitting = {key: value for key, value in found.items() if key in own and value.shape == own[key].shape}
    unfit = [key for key in found if key in own and key not in fitting]
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in own]

    complaints = []
    if missing and not allow_missing:
        complaints.append(f"{len(missing)} missing ({first(missing)})")
    if unexpected and not allow_unexpected:
        complaints.append(f"{len(unexpected)} unexpected ({first(unexpected)})")
    if unfit and not (allow_missing and allow_unexpected):
        shapes = [f"{key} {shape(found[key])} for {shape(own[key])}" for key in unfit]
        complaints.append(f"{len(unfit)} of another shape ({first(shapes)})")
    if not fitting:
        complaints.append("no tensor fits")
    if complaints:
        raise ValueError(f"{path} does not fit the network of {len(own)} tensors: {'; '.join(complaints)}")
    model.load_state_dict(fitting, strict=False)
    return LoadReport(tuple(missing + unfit), tuple(unexpected + unfit))


def read_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, is no checkpoint, holds more than plain values, or no tensors.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise anything, KeyError or UnicodeError
        raise ValueError(
            f"{path} is not a file of plain weights: truncated, or no checkpoint ({type(error).__name__})"
        ) from error
    state = content
    if isinstance(content, dict):
        state = next((content[name] for name in STATE_DICT_KEYS if isinstance(content.get(name), dict)), content)
    tensors = {}
    if isinstance(state, dict):
        tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        kind = type(content).__name__
        held = f"{kind} of {first(list(map(str, content)))}" if isinstance(content, dict) else kind
        raise ValueError(f"{path} holds no weights, bare or under {', '.join(STATE_DICT_KEYS)}: it is a {held}")
    return tensors


def strip(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's part of ``state`` under the student's names; a key that the network itself uses stays."""
    stripped = {}
    for key, value in state.items():
        name = key
        while name not in own and name.startswith(STRIPPED_PREFIXES):
            name = name.partition(".")[2]
        if name in own or not name.startswith(SKIPPED_PREFIXES):
            stripped[name] = value
    return stripped


def first(items: list[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
