"""Folders of a data set: each is visited once, however many links lead to it; and names that can be written down."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from etc.errors import UserError


def folders_below(root: str | Path, *, leave_out: Callable[[Path], bool] = lambda folder: False) -> list[Path]:
    """``root`` and all folders below it but hidden ones, sorted. Links are followed, and no folder is given twice.

    A folder that several paths lead to is given by the path without links, if there is one. Folders that cannot be
    listed are left out.

    Args:
        root: where to start.
        leave_out: whether a folder is left out, with all that lies below it.
    """
    seen: set[tuple[int, int]] = set()
    found, links = [], deque([Path(root)])
    while links:
        waiting = [links.popleft()]
        while waiting:
            folder = waiting.pop()
            try:
                inside = _folders_in(folder) if _first_visit(folder, seen) else None
            except OSError:
                continue
            if inside is None:
                continue
            found.append(folder)
            for path in inside:
                if not leave_out(path):
                    # Links come last, so that a folder is found by its own path first.
                    (links if path.is_symlink() else waiting).append(path)
    return sorted(found)


def files_below(root: str | Path, *suffixes: str) -> list[Path]:
    """The files in ``root`` and all folders below it whose names end with one of ``suffixes``, in any case; sorted."""
    found = []
    for folder in folders_below(root):
        with os.scandir(folder) as entries:
            found += [folder / e.name for e in entries if e.name.lower().endswith(suffixes) and not e.is_dir()]
    return sorted(found)


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` but hidden ones, sorted. Links are followed, and no folder is given twice."""
    seen: set[tuple[int, int]] = set()
    inside = sorted(_folders_in(folder), key=Path.is_symlink) if folder.is_dir() else []
    return sorted(path for path in inside if _first_visit(path, seen))


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


def _first_visit(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether this is the first path that leads to the folder; a loop of links would lead to it again and again."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return False
    seen.add(identity)
    return True
