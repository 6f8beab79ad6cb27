"""Packages that only some networks need."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


def package(name: str, *, arch: str, extra: str) -> Any:
    """Import a package that the toolkit does not require.

    Args:
        name: the package.
        arch: what needs it, for the error.
        extra: the optional dependency of the toolkit that installs it.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]  # itself, or what its extra brings with it
        # Without its cause, which would be answered with the places where modules of one's own are looked for.
        raise ValueError(
            f"arch {arch} needs the package {missing}, which is not installed: "
            f"pip install {missing.replace('_', '-')}, or the toolkit with its extra: pip install -e '.[{extra}]'"
        ) from None


def near_names(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: ``"; near names: ..."``, or nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=4)
    return f"; near names: {', '.join(near)}" if near else ""
