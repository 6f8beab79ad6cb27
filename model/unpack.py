"""What a checkpoint file holds, read without running code that the file names."""

from __future__ import annotations

import argparse
import pathlib
import zipfile
from io import BytesIO
from typing import Any

import numpy as np
import torch

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef]


def _plain_dict(*_: Any) -> dict:
    """Stands in for a ``defaultdict``, which torch would not fill."""
    return {}


# What training scripts put beside the weights, by the names that files may give it. None of it can run anything.
HARMLESS: list[Any] = [
    argparse.Namespace,
    (_plain_dict, "collections.defaultdict"),
    *((kind, f"builtins.{kind.__name__}") for kind in (dict, list, int, float, set, slice)),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdgFDUSMm"),
    *[
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for core in ("core", "_core")
        for function in (multiarray.scalar, multiarray._reconstruct)
    ],
    # A path of another system cannot be made here, its pure form can.
    *[
        (pure, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name, pure in (
            ("PosixPath", pathlib.PurePosixPath),
            ("PurePosixPath", pathlib.PurePosixPath),
            ("WindowsPath", pathlib.PureWindowsPath),
            ("PureWindowsPath", pathlib.PureWindowsPath),
        )
    ],
]


def unpack(data: bytes, path: str) -> Any:
    """The content of a checkpoint: plain values and tensors, on the CPU; of a safetensors file, a dict of tensors.

    Args:
        data: the bytes of the file.
        path: its name, for messages.

    Raises:
        ValueError: the file is damaged, no checkpoint, or holds objects that only their own code can make.
    """
    if is_safetensors(data):
        return _unpack_safetensors(data, path)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise anything, KeyError or UnicodeError
        objects, kind = unknown_objects(data), other_kind(data)
        if kind is not None:
            raise ValueError(f"{path} is {kind}") from error
        if objects:
            raise ValueError(f"{path} {_how_to_convert(objects)}") from error
        raise ValueError(
            f"{path} is truncated, damaged or no checkpoint of plain values ({type(error).__name__})"
        ) from error


def unknown_objects(data: bytes) -> list[str]:
    """Full names of the classes and functions in a file that are not allowed; empty where it cannot be looked at."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(BytesIO(data)))
    except Exception:  # of damaged bytes, or the format before torch 1.6
        return []


def is_safetensors(data: bytes) -> bool:
    """Whether a file is in the format of the package safetensors: the length of a JSON header, then the header."""
    return data[8:9] == b"{" and 2 <= int.from_bytes(data[:8], "little") <= len(data) - 8


def _unpack_safetensors(data: bytes, path: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ValueError(f"{path} is a safetensors file, whose package is missing: pip install safetensors") from error
    try:
        return load(data)
    except Exception as error:  # SafetensorError, KeyError of an unknown dtype
        raise ValueError(f"{path} is truncated, damaged or no safetensors file: {error}") from error


def _how_to_convert(objects: list[str]) -> str:
    """What a file with objects of ``objects`` is, and the two lines that make a file of plain weights from it."""
    named = ", ".join(objects[:3]) + (", ..." if len(objects) > 3 else "")
    whole = any(name.startswith("torch.nn.modules.") for name in objects)
    what = "holds a whole pickled network" if whole else "holds more than plain values"
    state = "content.state_dict()" if whole else 'content["state_dict"]'
    other = 'content["model"].state_dict() if it is a dict' if whole else "under the key that holds the weights"
    return (
        f"{what} ({named}), which only its own code can load. If you trust the file, convert it where that code can be "
        f"imported: content = torch.load(FILE, map_location='cpu', weights_only=False); "
        f"torch.save({state}, 'weights.pth') ({other})"
    )


def other_kind(data: bytes) -> str | None:
    """What a file that is no checkpoint seems to be, and what to do; ``None``: it does not say."""
    head = data[:200].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself: run git lfs pull"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a checkpoint: download the file itself"
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
    except Exception:  # no zip archive, or a damaged one
        return None
    if any("/code/" in name for name in names):
        return (
            "a TorchScript archive: convert it with network = torch.jit.load(FILE, map_location='cpu'); "
            "torch.save(network.state_dict(), 'weights.pth')"
        )
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a NumPy archive: convert it with content = np.load(FILE); "
            "torch.save({k: torch.from_numpy(content[k]) for k in content}, 'weights.pth')"
        )
    return None
