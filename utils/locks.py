"""One writer per output folder, by a lock file that the system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

# The answers of file systems that are mounted without locks, as NFS and Lustre can be.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}


class FolderInUse(RuntimeError):
    """Another process is writing into the folder; the message says which."""


@contextmanager
def exclusive(folder: str | Path, name: str = "", *, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes a result into a folder, for the length of a ``with`` block.

    The lock file ``.lock`` (``.<name>.lock``) is removed at the end; after a kill it stays, without effect. Missing
    folders are made, and removed again where the block wrote nothing into them.

    Args:
        folder: the folder.
        name: which result, where a folder holds several that are written by different scripts.
        wait: wait for the other process, for results that both would make alike.

    Raises:
        FolderInUse: another process, or another block of this one, holds the lock; not with ``wait``.
        OSError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / (f".{name}.lock" if name else ".lock")
    owner = path.with_name(f"{path.name}.owner")  # the lock file's own content belongs to filelock
    lock = FileLock(path, thread_local=False)
    try:
        _acquire(lock, path, timeout=0)
    except Timeout as error:
        if not wait:
            raise FolderInUse(
                f"{folder} is being written by {_described(owner)}: wait for it to end, or give another folder"
            ) from error
        logger.info("waiting for %s, which is writing %s", _described(owner), folder / name)
        _acquire(lock, path, timeout=-1)
    try:
        _write_owner(owner)
        yield
    finally:
        # Removed while it is locked: filelock takes no lock on a file that is gone, a process that waits makes another.
        with suppress(OSError):
            owner.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            for empty in made:
                empty.rmdir()
        lock.release()


def writer_of(folder: str | Path) -> str | None:
    """Who holds the lock of :func:`exclusive` on a folder, in words; ``None``: nobody, as far as can be seen.

    Nothing is written into the folder.
    """
    path = Path(folder) / ".lock"
    if not path.is_file():
        return None
    try:
        with FileLock(path, thread_local=False).acquire(timeout=0):
            return None
    except Timeout:
        return _described(path.with_name(f"{path.name}.owner"))
    except OSError:  # a folder that is read-only, or a file system without locks
        return None


def _acquire(lock: FileLock, path: Path, timeout: float) -> None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=timeout)
            return
        except FileNotFoundError:
            if path.parent.is_dir():
                raise
            # A run that wrote nothing has just removed the folder again.
        except OSError as error:  # a Timeout is one, too
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s: this file system has no locks; start no second run with this folder", path.parent)
            return


def _write_owner(path: Path) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    facts = {"pid": os.getpid(), "host": socket.gethostname(), "script": Path(sys.argv[0]).name, "since": since}
    with suppress(OSError):  # it is only for the message to others; the lock itself holds without it
        path.write_text(json.dumps(facts), encoding="utf-8")


def _described(owner: Path) -> str:
    try:
        facts = json.loads(owner.read_text(encoding="utf-8"))
        who = "pid {pid} on host {host}, `{script}`, since {since}".format(**facts)
    except (OSError, ValueError, KeyError, TypeError):  # the other process has not written it yet
        return "another process"
    return f"another process ({who})"
