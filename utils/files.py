"""Writes files atomically: a kill or a full disk never leaves a partial file under the final name.

Until it is complete, a result has a hidden temporary name beside its final one. The temporary name tells which process
is writing. What a killed process left is removed by the next process that writes into the same folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# .<machine>-<pid>-<start of the process>-<random>.tmp<suffix>; version 1.1 had the random part alone.
_TEMPORARY = re.compile(r"\.(?:([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}|[0-9a-f]{16})\.tmp(\..*)?")
_KEPT = 24 * 3600  # seconds; temporaries of other machines are removed when they have not changed for so long

_swept: set[Path] = set()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed over ``path``.

    Missing folders are made. The temporary file keeps the suffix, because many writers choose the format by it. On any
    error (full disk, Ctrl-C) it is removed and ``path`` is unchanged.
    """
    path = Path(path)
    temporary = _temporary_beside(path, path.suffix)
    try:
        # Not mkstemp, which makes files private: the permissions of results follow the user's umask.
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        # A full disk is reported without a file name or with the temporary one, which tells the user nothing.
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it is renamed to ``path``.

    On any error it is removed.

    Raises:
        FileExistsError: ``path`` exists, before or after the work: a finished folder is never replaced.
    """
    path = Path(path)
    _refuse_existing(path)
    temporary = _temporary_beside(path, "")
    try:
        temporary.mkdir()
        yield temporary
        _refuse_existing(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """``Path.write_bytes``, atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """``Path.write_text`` in UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sweep(folder: str | Path) -> None:
    """Remove the temporary files and folders in ``folder`` that were left by processes that have ended.

    Only names that this module gives are considered. Those of a process that runs on this machine stay. Whether a
    process of another machine runs cannot be known: its temporaries are removed a day after their last change, as are
    those of version 1.1, which do not name their process.
    """
    with os.scandir(folder) as entries:
        ours = [(entry.name, match) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    for name, match in ours:
        path, (machine, pid, start, _) = Path(folder, name), match.groups()
        if not (_ended(int(pid), int(start)) if machine == _machine() else _unchanged_for_a_day(path)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # removed by another process, or owned by another user
                path.unlink()


def _temporary_beside(path: Path, suffix: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent)
    pid = os.getpid()
    return path.with_name(f".{_machine()}-{pid}-{_start_of(pid) or 0}-{secrets.token_hex(4)}.tmp{suffix}")


def _refuse_existing(path: Path) -> None:
    # The system would rename a folder over an empty one without a word.
    if path.exists():
        raise FileExistsError(f"{path} exists already: it was made by another process, or remove it to make it anew")


def _sweep_once(folder: Path) -> None:
    """:func:`sweep`, for the first file that this process writes into a folder."""
    folder = folder.absolute()
    if folder not in _swept:
        _swept.add(folder)
        with suppress(OSError):  # a folder that cannot be listed can be written to nevertheless
            sweep(folder)


@cache
def _machine() -> str:
    """8 hex digits that two processes share only where each can see whether the other one runs.

    Containers may have their host's name, but not its process ids.
    """
    parts = [socket.gethostname()]
    for read in (Path("/proc/sys/kernel/random/boot_id").read_text, lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read().strip())
        except OSError:  # not Linux
            parts.append("")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; ``None`` where that cannot be read.

    A process that was killed, but whose parent has not noticed yet, gives -1.
    """
    try:
        # The second field, the name of the program in brackets, may itself hold brackets and spaces.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _ended(pid: int, start: int) -> bool:
    """Whether a process of this machine has ended; another one with its number is told by the time it started."""
    with suppress(PermissionError):  # it runs, but belongs to another user
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    return _start_of(pid) not in (None, start)


def _unchanged_for_a_day(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _KEPT
    except OSError:  # gone already
        return False
