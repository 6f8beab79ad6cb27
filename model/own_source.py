"""Which source stands behind ``package.module:factory``: what it computed is out of date when that changes."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from model.repository import OURS, split_name

LIBRARIES = ("timm", "transformers", "smp")  # whose networks build_model knows as library:name

_TOOLKIT = Path(__file__).resolve().parents[1]
_INSTALLED = ("site-packages", "dist-packages")


def is_own_code(name: str) -> bool:
    """Whether a name stands for code of the user's own, and not for a network of the toolkit or of a library."""
    return ":" in name and name.partition(":")[0] not in LIBRARIES


def source_hash(name: str) -> str:
    """12 hex digits that change with the source of code of the user's own.

    It covers every Python file of a repository (``path/to/repository:package.module:factory``), whenever it is
    imported. Of ``package.module:factory`` it covers the package, and the modules and packages beside it that it
    imports, and so on; not installed libraries, and no files of other kinds.

    Args:
        name: as :func:`model.repository.split_name` takes it.

    Raises:
        ValueError: as there.
    """
    home, module, _ = split_name(name)
    files = _files_below(home.root) if home else _with_neighbours(module.partition(".")[0])
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _with_neighbours(top: str) -> list[Path]:
    """The files of a top-level module or package, and of those in the same folder that it imports."""
    spec = importlib.util.find_spec(top)
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
    place = next((Path(place).resolve() for place in places if place and Path(place).exists()), None)
    if place is None:
        return []
    folder, names, files = place.parent, [top], []
    known: set[str] = {*OURS} if folder == _TOOLKIT else set()
    if any(part in _INSTALLED for part in place.parts):
        return _files_of(place)
    while names:
        name = names.pop()
        if name in known:
            continue
        known.add(name)
        own = [file for path in (folder / f"{name}.py", folder / name) for file in _files_of(path)]
        files += own
        names += [imported for file in own for imported in _imports(file)]
    return files


def _files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else _files_below(path)


def _files_below(folder: Path) -> list[Path]:
    """The Python files of a folder, without hidden folders and installed libraries."""
    found = []
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith(".") or part in _INSTALLED for part in parts):
            found.append(file)
    return found


def _imports(file: Path) -> Iterable[str]:
    """Top-level names that a file imports; none where it is no Python that can be parsed."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return [name.partition(".")[0] for name in names]
