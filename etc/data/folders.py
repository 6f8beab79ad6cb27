"""Folders of a data set: each is visited once, however many links lead to it; and names that can be written down."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from etc.errors import UserError

_LINKS = 2  # on one path, where all paths are asked for


def folders_below(
    root: str | Path, *, leave_out: Callable[[Path], bool] = lambda folder: False, all_paths: bool = False
) -> list[Path]:
    """``root`` and all folders below it but hidden ones, sorted. Links are followed, and no folder is given twice.

    A folder that several paths lead to is given by the path without links, if there is one. Folders that cannot be
    listed are left out.

    Args:
        root: where to start.
        leave_out: whether a folder is left out, with all that lies below it.
        all_paths: give a folder by every path that leads to it over at most two links, but for those through itself.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    links = deque([(Path(root), frozenset[tuple[int, int]](), 0)])
    while links:
        waiting = [links.popleft()]
        while waiting:
            folder, above, followed = waiting.pop()
            try:
                own = _identity(folder)
                if own in (above if all_paths else seen):
                    continue
                inside = _folders_in(folder)
            except OSError:
                continue
            seen.add(own)
            found.append(folder)
            for path in inside:
                count = followed + path.is_symlink()
                # Folders that link to each other have more paths than can be walked.
                if leave_out(path) or (all_paths and count > _LINKS):
                    continue
                # Links come last, so that a folder is found by its own path first.
                (links if path.is_symlink() else waiting).append((path, above | {own}, count))
    return sorted(found)


def files_below(root: str | Path, *suffixes: str, all_paths: bool = False) -> list[Path]:
    """The files in ``root`` and all folders below it whose names end with one of ``suffixes``, in any case; sorted.

    ``all_paths`` is that of :func:`folders_below`.
    """
    found = []
    for folder in folders_below(root, all_paths=all_paths):
        with os.scandir(folder) as entries:
            found += [folder / e.name for e in entries if e.name.lower().endswith(suffixes) and not e.is_dir()]
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` but hidden ones, sorted. Links are followed, and no folder is given twice."""
    inside = sorted(_folders_in(folder), key=Path.is_symlink) if folder.is_dir() else []
    by_identity = {_identity(path): path for path in reversed(inside)}  # of several paths, the first stays
    return sorted(by_identity.values())


def check_name(path: Path) -> None:
    """Refuse a path that is not UTF-8: lists, settings and results could not hold it.

    Raises:
        UserError: with the bytes of the path.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        shown = str(os.fsencode(path))[2:-1]
        raise UserError(f"the name of {shown} is not UTF-8: rename it, as results could not name it") from error


def _folders_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all paths that lead to a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino
