"""Files of the flow cache: a head of facts that can be read alone, and content with a hash.

``.b2flow`` holds the flow of a pair of frames. ``.b2mask`` holds which pixels a check of flow found visible, and the
hashes of all the flow that was looked at: it is used for no other flow.

Layout: 8 bytes that name the format, length and CRC-32 of the head (little-endian, 4 bytes each), the head (JSON), and
the parts of the content one after the other.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from etc.data.images import MAX_PIXELS
from etc.errors import UserError
from etc.flow.codec import pack_mask, pack_steps, to_steps, unpack_flow, unpack_mask
from utils.files import regular_file, write_bytes

FLOW_SUFFIX, MASK_SUFFIX = ".b2flow", ".b2mask"
_FLOW, _MASK = b"\x89ETCFL1\n", b"\x89ETCMA1\n"
_HEAD = struct.Struct("<8sII")
_LONGEST_HEAD = 1 << 20  # bytes


class FlowFacts(NamedTuple):
    """What the head of a flow file says.

    Attributes:
        shape: height and width.
        sha256: of the content, 64 hex digits: equal ones mean equal flow.
        origin: text of what the flow was computed from, for :mod:`etc.data.origin`; empty: unknown.
    """

    shape: tuple[int, int]
    sha256: str
    origin: str


def write_flow_file(path: Path, flow: np.ndarray, valid: np.ndarray | None = None, *, origin: str = "") -> None:
    """Write float32 ``[2, H, W]``, atomically, in what KITTI's PNG would keep of it (:func:`etc.flow.codec.to_steps`).

    Args:
        path: the file.
        flow: the flow in pixels.
        valid: where it is valid, bool ``[H, W]``; ``None``: everywhere.
        origin: as in :class:`FlowFacts`.
    """
    steps, known = to_steps(flow, valid)
    parts = [pack_steps(steps)] if known.all() else [pack_steps(steps), pack_mask(known)]
    _write(path, _FLOW, known.shape, parts, {"origin": origin})


def read_flow_file(path: Path) -> tuple[np.ndarray, np.ndarray, FlowFacts]:
    """Flow, float32 ``[2, H, W]`` in pixels, where it is valid, bool ``[H, W]``, and the facts of the head.

    Raises:
        UserError: the file is missing, truncated, damaged or of another kind.
    """
    with _opened(path) as stream:
        head = _read_head(path, stream, _FLOW)
        parts = _read_parts(path, stream, head)
    facts = _flow_facts(path, head)
    try:
        flow = unpack_flow(parts[0], *facts.shape)
        valid = unpack_mask(parts[1], *facts.shape) if len(parts) > 1 else np.ones(facts.shape, bool)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    return flow, valid, facts


def read_flow_facts(path: Path) -> FlowFacts:
    """The facts of a flow file, without its content.

    Raises:
        UserError: the file is missing, its head is truncated or damaged, or it is of another kind.
    """
    with _opened(path) as stream:
        return _flow_facts(path, _read_head(path, stream, _FLOW))


def write_mask_file(path: Path, mask: np.ndarray, made_from: list[str]) -> None:
    """Write bool ``[H, W]``, atomically, for :func:`read_mask_file`."""
    _write(path, _MASK, mask.shape, [pack_mask(mask)], {"made_from": made_from})


def read_mask_file(path: Path, shape: tuple[int, int], made_from: list[str]) -> np.ndarray | None:
    """The mask of exactly this flow.

    Args:
        path: the file.
        shape: height and width.
        made_from: what the mask must have been made from, in order.

    Returns:
        bool ``[H, W]``; ``None`` where the file is missing or damaged, or belongs to another flow.
    """
    try:
        with _opened(path) as stream:
            head = _read_head(path, stream, _MASK)
            if head.get("made_from") != made_from or head["shape"] != list(shape):
                return None
            (part,) = _read_parts(path, stream, head)
        return unpack_mask(part, *shape)
    except (UserError, ValueError):
        return None


def _write(path: Path, kind: bytes, shape: tuple[int, ...], parts: list[bytes], facts: dict[str, Any]) -> None:
    content = b"".join(parts)
    facts = {"shape": shape, "parts": [len(part) for part in parts], "sha256": _hash(content), **facts}
    head = json.dumps(facts).encode("ascii")
    write_bytes(path, _HEAD.pack(kind, len(head), zlib.crc32(head)) + head + content)


def _opened(path: Path) -> BinaryIO:
    try:
        return open(regular_file(path), "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _read_head(path: Path, stream: BinaryIO, kind: bytes) -> dict[str, Any]:
    start = stream.read(_HEAD.size)
    if not start.startswith(kind):
        raise _damaged(path, "it does not begin as such a file does" if start else "it is empty")
    if len(start) < _HEAD.size:
        raise _damaged(path, "it is truncated")
    _, length, crc = _HEAD.unpack(start)
    head = stream.read(min(length, _LONGEST_HEAD))
    if len(head) != length or zlib.crc32(head) != crc:
        raise _damaged(path, "its head is truncated or has changed")
    facts: dict[str, Any] = json.loads(head)
    height, width = facts["shape"]
    if not 0 < height * width <= MAX_PIXELS:
        raise _damaged(path, f"it states {width}x{height} pixels")
    return facts


def _read_parts(path: Path, stream: BinaryIO, facts: dict[str, Any]) -> list[bytes]:
    expected = sum(facts["parts"])
    content = stream.read(expected + 1)
    if len(content) < expected:
        raise _damaged(path, f"it is truncated: {len(content)} bytes of content instead of {expected}")
    if len(content) > expected or _hash(content) != facts["sha256"]:
        raise _damaged(path, "its content is not what was written")
    view, parts = memoryview(content), []
    for size in facts["parts"]:
        parts.append(bytes(view[:size]))
        view = view[size:]
    return parts


def _flow_facts(path: Path, head: dict[str, Any]) -> FlowFacts:
    height, width = head["shape"]
    return FlowFacts((height, width), head["sha256"], head["origin"])


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}; delete it, and it is computed again when it is needed")
