"""Packages that only some networks need."""

from __future__ import annotations

import importlib
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
        if error.name != name:
            raise  # it is installed and misses something itself
        # Without its cause, which would be answered with the places where modules of one's own are looked for.
        raise ValueError(
            f"arch {arch} needs the package {name}, which is not installed: pip install {name.replace('_', '-')}, "
            f"or the toolkit with its extra: pip install -e '.[{extra}]'"
        ) from None
