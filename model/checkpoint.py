"""Loads the student from a checkpoint of this toolkit, of the published code, or a plain state dict."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.base import SegmentationNetwork
from model.unpack import is_safetensors, unpack

logger = logging.getLogger(__name__)

ZIP_HEAD = b"PK\x03\x04"
LEGACY_HEAD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled
NO_CHECKSUMS = "no checksums"
FOLDER_BIT = 0x10  # of a zip member's attributes, as MS-DOS defined them

# Left by data parallelism, the training task, torch.compile, and by what others wrap their networks in.
STRIPPED_PREFIXES = ("module.", "student.", "_orig_mod.", "model.", "net.", "network.")
# What published checkpoints, and torch's AveragedModel, carry beside the network.
SKIPPED_PREFIXES = ("flownet.", "teacher.", "criterion.", "n_averaged")
# Where the weights are looked for, in this order. A training of this toolkit with TRAIN.ema is validated with its
# averaged weights; those of others are taken only where there are no others.
STATE_DICT_KEYS = (
    *(
        "student_ema",
        "student",
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "net_state_dict",
        "net",
        "network",
    ),
    *("weights", "module", "params"),
    *("state_dict_ema", "model_ema", "ema", "params_ema"),
)


class CheckedFile(NamedTuple):
    """A file written by ``torch.save``, read once and checked against its own checksums.

    Attributes:
        path: where it was read from, for messages.
        data: all its bytes.
        sha256: SHA-256 of these bytes, 64 hex digits. Record this one where a result names its weights: the file may be
            replaced after it was read.
    """

    path: str
    data: bytes
    sha256: str


class Weights(NamedTuple):
    """The tensors of a checkpoint by name, on the CPU.

    Attributes:
        path: the file that they were read from.
        tensors: by name.
        sha256: of the file.
        arch: the network that a checkpoint of this toolkit was trained as, as :func:`model.build_model` takes it;
            ``None``: the file does not say.
    """

    path: str
    tensors: dict[str, Tensor]
    sha256: str
    arch: str | None = None


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

    Reads this toolkit's checkpoints, the published ones, plain state dicts and safetensors: weights are looked for
    under ``STATE_DICT_KEYS``; ``STRIPPED_PREFIXES`` are stripped; the flow network, the teacher and the criterion are
    left out; keys of one module of the network are taken for that module's.

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
        ValueError: not a file of plain weights, a damaged one, weights that are not finite, or weights that do not fit
            the network (and that is not allowed).
    """
    return load_weights(model, read_weights(path), allow_missing=allow_missing, allow_unexpected=allow_unexpected)


def load_weights(
    model: nn.Module, weights: Weights, *, allow_missing: bool = False, allow_unexpected: bool = False
) -> LoadReport:
    """:func:`load_student` for a file that is already read; its hash is ``weights.sha256``."""
    path, own = weights.path, model.state_dict()
    tensors = weights.tensors
    if isinstance(model, SegmentationNetwork):
        tensors = {model.checkpoint_key(key): value for key, value in tensors.items()}
    found = in_its_module(strip(tensors, own), own)
    fitting = {key: value for key, value in found.items() if key in own and _fits(value, own[key])}
    unfit = [key for key in found if key in own and key not in fitting]
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in own]

    complaints = []
    if missing and not allow_missing:
        complaints.append(f"{len(missing)} missing ({first(missing)})")
    if unexpected and not allow_unexpected:
        complaints.append(f"{len(unexpected)} unexpected ({first(unexpected)})")
    if unfit and not (allow_missing and allow_unexpected):
        shapes = [f"{key} {_described(found[key])} for {_described(own[key])}" for key in unfit]
        complaints.append(f"{len(unfit)} of another shape ({first(shapes)})")
    if not fitting:
        complaints.append("no tensor fits")
    if complaints:
        raise ValueError(f"{path} does not fit the network of {len(own)} tensors: {'; '.join(complaints)}")
    check_finite(fitting, path)
    model.load_state_dict(fitting, strict=False)
    return LoadReport(tuple(missing + unfit), tuple(unexpected + unfit))


def read_weights(path: str | PathLike[str]) -> Weights:
    """The tensors of a checkpoint, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated or damaged, is no checkpoint, holds more than plain values, or no tensors.
    """
    file = read_checked(path)
    content = unpack(file.data, file.path)
    tensors = tensors_in(content)
    if not tensors:
        kind = type(content).__name__
        held = f"{kind} of {first(list(map(str, content)))}" if isinstance(content, dict) else kind
        raise ValueError(f"{path} holds no weights, bare or under {', '.join(STATE_DICT_KEYS)}: it is a {held}")
    return Weights(file.path, tensors, file.sha256, _arch_in(content))


def _arch_in(content: Any) -> str | None:
    settings = content.get("config") if isinstance(content, dict) else None
    train = settings.get("TRAIN") if isinstance(settings, dict) else None
    if not isinstance(train, dict) or not isinstance(train.get("arch"), str):
        return None
    return f"psp{train.get('layers')}" if train["arch"] == "psp" else train["arch"]


def tensors_in(content: Any, depth: int = 3) -> dict[str, Tensor]:
    """The tensors of what a file holds: bare, or under ``STATE_DICT_KEYS``, ``depth`` of them; empty: none."""
    if not isinstance(content, dict) or depth < 0:
        return {}
    for name in STATE_DICT_KEYS:
        found = tensors_in(content.get(name), depth - 1)
        if found:
            others = [key for key in STATE_DICT_KEYS if key != name and isinstance(content.get(key), dict)]
            if others:
                logger.info("the weights are those under %s; the file also has %s", name, ", ".join(others))
            return found
    numbers = {
        key: torch.from_numpy(x) for key, x in content.items() if isinstance(x, np.ndarray) and x.dtype.kind in "fiub"
    }
    return {str(key): value for key, value in (content | numbers).items() if isinstance(value, Tensor)}


def read_checked(path: str | PathLike[str]) -> CheckedFile:
    """The bytes of a file written by ``torch.save``, read once and checked for damage.

    The file holds a CRC-32 of each tensor, which ``torch.load`` does not check: a flipped bit would load as another
    weight. Three kinds of file have no checksums and are accepted with a warning: those in the format before torch 1.6,
    those written under ``torch.serialization.set_crc32_options(False)``, where every checksum is 0, and safetensors.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    data = Path(path).read_bytes()
    if data.startswith(ZIP_HEAD):
        damaged = damaged_part(data)
        if damaged == NO_CHECKSUMS:
            logger.warning("%s was saved without checksums, so damage to it cannot be detected", path)
        elif damaged is not None:
            raise ValueError(f"{path} is truncated, damaged or no checkpoint ({damaged})")
    elif is_safetensors(data):
        logger.warning("%s is a safetensors file, which has no checksums, so damage to it cannot be detected", path)
    elif data.startswith(LEGACY_HEAD):
        logger.warning(
            "%s is in the format before torch 1.6, which has no checksums, so damage to it cannot be detected", path
        )
    return CheckedFile(str(path), data, hashlib.sha256(data).hexdigest())


def damaged_part(data: bytes) -> str | None:
    """What is wrong with a zip archive; ``NO_CHECKSUMS``: it cannot be checked; ``None``: nothing is wrong."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            # One flipped bit cannot turn every checksum to 0.
            if all(member.CRC == 0 for member in archive.infolist()):
                return NO_CHECKSUMS
            # torch reads nothing of a part that is marked as a folder, and returns uninitialised memory.
            folders = [m.filename for m in archive.infolist() if m.external_attr & FOLDER_BIT and m.file_size]
            if folders:
                return f"its part {folders[0]} is marked as a folder"
            member = archive.testzip()
    except Exception as error:  # zipfile raises anything for damaged headers: NotImplementedError, RuntimeError, ...
        return f"its zip structure cannot be read: {error}"
    return None if member is None else f"the checksum of its part {member} is wrong"


def check_finite(tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """Refuse weights with NaN or infinite values: the network would predict class 0 everywhere.

    Raises:
        ValueError: one line that names the first such tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # torch has no isfinite for 8-bit floats.
        wide = tensor.float() if tensor.element_size() == 1 else tensor
        bad = int(wide.numel() - torch.isfinite(wide).sum())
        if bad:
            raise ValueError(
                f"{path}: {bad} of {tensor.numel()} values of {name} are NaN or infinite, so the training had diverged "
                "or the file is damaged: give another checkpoint"
            )


def strip(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The student's part of ``state`` under the student's names; a key that the network itself uses stays.

    Raises:
        ValueError: two keys stand for one name.
    """
    stripped = {}
    for key, value in state.items():
        name = key
        while name not in own and name.startswith(STRIPPED_PREFIXES):
            name = name.partition(".")[2]
        if name in own or not name.startswith(SKIPPED_PREFIXES):
            if name in stripped:
                raise ValueError(f"the checkpoint has several tensors for {name}, among them {key}")
            stripped[name] = value
    return stripped


def in_its_module(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names of the one module of the network that has all its keys, where the network has none.

    So a network that somebody wraps in a module of their own takes the file that the network alone was saved as.
    """
    if not state or any(key in own for key in state):
        return state
    some = next(iter(state))
    prefixes = [name.removesuffix(some) for name in own if name.endswith(f".{some}")]
    holding = [prefix for prefix in prefixes if all(prefix + key in own for key in state)]
    return {holding[0] + key: value for key, value in state.items()} if len(holding) == 1 else state


def _fits(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor can be one of the network's: quantised weights are no weights of a network of floats.

    A counter, as batch norm has one, may have become a float: with all else, by ``half()``.
    """
    same_kind = value.is_floating_point() == own.is_floating_point()
    return value.shape == own.shape and (same_kind or (own.dim() == 0 and value.is_floating_point()))


def _described(tensor: Tensor) -> str:
    return shape(tensor) + ("" if tensor.is_floating_point() else f" {tensor.dtype}".replace(" torch.", " "))


def first(items: list[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
