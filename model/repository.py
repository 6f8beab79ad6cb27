"""Somebody's repository, used without installing it: its modules are imported apart from all others.

Research code often has packages called ``model``, ``utils``, ``data`` or ``tool``, as this toolkit has. Python knows
one module per name; so the modules of a repository take their names only while its code runs.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

OURS = ("etc", "flownet", "model", "tool", "utils")  # top-level names of this toolkit

_lock = threading.RLock()
_known: dict[Path, Repository] = {}


class Repository:
    """A folder with Python code; use :func:`repository` to get the one of a folder.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, ModuleType] = {}
        self._depth = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return repository, (str(self.root),)  # copies are this object itself, in another process its own

    @contextmanager
    def active(self) -> Iterator[None]:
        """Imports find the repository first, and its modules have their names, for the length of a ``with`` block.

        One thread at a time. The modules of others that have names of the repository's are put back afterwards.
        """
        with _lock:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            names = self._names()
            aside = _take_out(names)
            sys.modules.update(self._modules or self._folders_without_init(names))
            sys.path.insert(0, str(self.root))
            importlib.invalidate_caches()
            self._depth = 1
            try:
                yield
            finally:
                self._depth = 0
                if str(self.root) in sys.path:
                    sys.path.remove(str(self.root))
                self._modules = _take_out(names)
                sys.modules.update(aside)

    def _folders_without_init(self, names: set[str]) -> dict[str, ModuleType]:
        """Packages for its folders without ``__init__.py``: Python would prefer an installed package of that name."""
        packages = {}
        for name in names:
            folder = self.root / name
            if folder.is_dir() and not (folder / "__init__.py").exists() and next(folder.rglob("*.py"), None):
                packages[name] = ModuleType(name)
                packages[name].__path__ = [str(folder)]
        return packages

    def _names(self) -> set[str]:
        """Top-level names of its modules and packages; the names of the standard library stay with it."""
        entries = [path for path in self.root.iterdir() if path.suffix == ".py" or path.is_dir()]
        return {path.stem for path in entries if path.stem.isidentifier()} - set(sys.stdlib_module_names)


def _take_out(names: set[str]) -> dict[str, ModuleType]:
    """Take the modules whose top-level name is one of these out of ``sys.modules``."""
    found = [name for name in sys.modules if name.partition(".")[0] in names]
    return {name: sys.modules.pop(name) for name in found}


def repository(root: str | os.PathLike[str]) -> Repository:
    """The repository in a folder, always the same object for the same folder.

    Raises:
        ValueError: no such folder.
    """
    path = Path(root).resolve()
    if not path.is_dir():
        raise ValueError(f"there is no folder {root}")
    with _lock:
        return _known.setdefault(path, Repository(path))


def split_name(name: str) -> tuple[Repository | None, str, str]:
    """Split the name of code of the user's own.

    Args:
        name: ``package.module:factory``, or ``path/to/repository:package.module:factory``. A module whose first name is
            one of this toolkit's packages, and that only the current folder has, is taken from there as from a
            repository.

    Returns:
        The repository, ``None``: modules are found as usual; the module; the name in it.

    Raises:
        ValueError: a name of another form, or a folder that does not exist.
    """
    root, colon, rest = name.rpartition(":")[0].rpartition(":")
    module, factory = rest, name.rpartition(":")[2]
    if not all(part.isidentifier() for part in (*module.split("."), factory)):
        raise ValueError("no name of a function, expected package.module:factory or folder:package.module:factory")
    if colon:
        return repository(root), module, factory
    if module.partition(".")[0] in OURS and not _is_ours(module) and _in_current_folder(module):
        return repository(os.getcwd()), module, factory
    return None, module, factory


def _is_ours(module: str) -> bool:
    toolkit = Path(__file__).resolve().parents[1]
    return _file_of(toolkit, module)


def _in_current_folder(module: str) -> bool:
    return _file_of(Path.cwd(), module)


def _file_of(folder: Path, module: str) -> bool:
    path = folder.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def find(name: str) -> tuple[Repository | None, Callable[..., Any]]:
    """Import the function that a name as of :func:`split_name` stands for.

    Returns:
        The repository that its code must run in (:meth:`Repository.active`), if any, and the function.

    Raises:
        ValueError: a name of another form, nothing to import there, or no function. The error of an import is its
            cause.
    """
    home, module_name, factory = split_name(name)
    try:
        if home is None:
            module = importlib.import_module(module_name)
        else:
            with home.active():
                module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot be imported: {error}") from error
    if not hasattr(module, factory):
        # Naming its file shows when another module of that name was found first.
        raise ValueError(f"there is no {factory} in {getattr(module, '__file__', None) or module_name}")
    found = getattr(module, factory)
    if not callable(found):
        raise ValueError(f"{factory} is no function but of type {type(found).__name__}")
    return home, found


def needed_arguments(factory: Any) -> list[str]:
    """The names of the arguments without which ``factory`` cannot be called."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in C, without a signature
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]


class PluggedInError(RuntimeError):
    """Raised from the error of a user's own code, which is its cause and keeps its traceback."""


@contextmanager
def running(home: Repository | None, name: str) -> Iterator[None]:
    """Run code of the user's own.

    A ``ValueError`` or an ``OSError`` of the toolkit is about what the user gave, and becomes one line without
    traceback. Those of the user's code say nothing about that.

    Args:
        home: the repository that it comes from; ``None``: none.
        name: what the user calls it, for the message.

    Raises:
        PluggedInError: from a ``ValueError`` or an ``OSError`` of the code; others pass.
    """
    with home.active() if home else nullcontext():
        try:
            yield
        except (ValueError, OSError) as error:
            raise PluggedInError(f"{name} raised {type(error).__name__}: {error}") from error


def made(name: str) -> tuple[Repository | None, Any]:
    """What a function without arguments makes, by its name as of :func:`split_name`; and the repository of its code.

    Raises:
        ValueError: as :func:`find`, or a function that needs arguments.
        PluggedInError: as :func:`running`.
    """
    home, factory = find(name)
    needed = needed_arguments(factory)
    if needed:
        raise ValueError(
            f"called without arguments, but it needs {', '.join(needed)}: name a function without arguments that "
            "calls it"
        )
    with running(home, name):
        return home, factory()
