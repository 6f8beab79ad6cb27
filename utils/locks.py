"""Locks of folders, so that two processes never write into one folder at the same time.

A lock is a hidden file that the operating system ties to the process that holds it: it is free again when that process
ends, however it ends. The file is removed with the lock; after a kill it stays, and means nothing.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
POLL_SECONDS = 0.2  # between two tries of a process that waits

# What file systems without locks answer, for example Lustre or NFS, depending on how they are mounted.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class FolderInUse(Exception):
    """Another process holds the lock of a folder; the message says which one."""


@contextmanager
def exclusive(folder: str | Path, name: str = "", *, wait: bool = False) -> Iterator[None]:
    """Hold a lock in a folder, which is made where it is missing.

    Args:
        folder: the folder; the lock file is in it.
        name: which result, where a folder holds several that are written separately.
        wait: wait while another process holds the lock. Then check again, under the lock, what is still to be done.

    Raises:
        FolderInUse: without ``wait``, another process holds it, or this one does already.
        OSError: no lock file can be written into the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f".{name}{LOCK_FILE}" if name else LOCK_FILE)
    lock = _new_lock(path)
    try:
        locked = _acquire(lock, timeout=0)
    except Timeout:
        if not wait:
            raise FolderInUse(
                f"{folder} is being written by {_holder(path)}: wait for it to end, or give another folder"
            ) from None
        logger.info("waiting: %s is being written by %s", folder / name, _holder(path))
        locked = _acquire(lock, timeout=-1)
    with _held(lock, path) if locked else nullcontext():
        yield


def _new_lock(path: Path) -> BaseFileLock:
    # Not the library's fallback for file systems without locks: such a lock would outlive a killed process.
    return FileLock(path, thread_local=False, fallback_to_soft=False, poll_interval=POLL_SECONDS)


def _acquire(lock: BaseFileLock, timeout: float) -> bool:
    """Whether the lock is held now; it is not where the file system has no locks.

    Raises:
        Timeout: another holds it for longer than ``timeout`` seconds; -1 waits for ever.
    """
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # a Timeout, too, is an OSError
            raise
        logger.warning("%s: this file system has no locks; start no second run with this folder", lock.lock_file)
        return False
    return True


@contextmanager
def _held(lock: BaseFileLock, path: Path) -> Iterator[None]:
    """Say in the lock file who holds it; at the end remove the file and release the lock."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    try:
        # In place: a file renamed over this one would not be the one that is locked.
        path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        # Removed while it is still locked: a process that has opened it meanwhile sees that, and makes a new one.
        path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return f"another process (pid {held['pid']} on host {held['host']}, since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # just acquired, or just released
        return "another process"
