"""Whether a file is still the one that something kept on disk was made from."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from utils.files import sha256_of

# Two writes of a file within one tick of the file system's clock have the same times. So the times of a file that was
# written just before are not trusted.
_FRESH_NS = 100_000_000


class FileIdentity(NamedTuple):
    """A file as it was when something was made from it.

    Attributes:
        path: absolute path, links resolved.
        size: bytes.
        mtime_ns, ctime_ns: times of the last change of the content and of the inode. ``cp -p``, ``rsync`` and ``tar``
            restore the first, nobody can set the second. ``ctime_ns`` is 0 if the file was written just before its
            identity was taken: then the hash alone decides.
        sha256: of the content, 64 hex digits.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str

    @classmethod
    def of_record(cls, record: Any) -> FileIdentity:
        """The inverse of ``_asdict``.

        Raises:
            TypeError: anything else.
        """
        found = cls(**record)
        if not all(isinstance(value, kind) for value, kind in zip(found, (str, int, int, int, str), strict=True)):
            raise TypeError(f"not the identity of a file: {record}")
        return found


def identity_of(path: str | Path) -> FileIdentity:
    """The identity of a file.

    Take it before reading the file: if the file is replaced in between, what is made from the new content is found to
    belong to the old one, and is made again.

    Raises:
        OSError: the file cannot be read.
    """
    where = os.path.realpath(path)
    while True:
        before = _stamp(where)
        fresh = time.time_ns() - before[2] < _FRESH_NS
        digest = sha256_of(where) if fresh else _sha256(where, *before)
        if _stamp(where) == before:
            return FileIdentity(where, before[0], before[1], 0 if fresh else before[2], digest)
        # It was written while it was hashed: once more.


def is_unchanged(path: str | Path, kept: FileIdentity) -> bool:
    """Whether a file has the content that ``kept`` describes. It is hashed only if path, size or a time differs.

    So a copied or restored file is recognised, and one that was replaced is not, whatever its times are.

    Raises:
        OSError: the file cannot be read.
    """
    where = os.path.realpath(path)
    if (where, *_stamp(where)) == kept[:4]:
        return True
    return identity_of(where).sha256 == kept.sha256


def _stamp(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int, ctime_ns: int) -> str:
    """Of a file in a certain state: neighbouring pairs of frames ask for the same file again."""
    return sha256_of(path)
