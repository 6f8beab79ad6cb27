"""The scripts of ``tool/`` in process: that folder is no package, and nothing imports it by name."""

import importlib.util
from pathlib import Path
from types import ModuleType

from etc import cli

TOOLS = Path(__file__).resolve().parents[1] / "tool"


def load_script(name: str) -> ModuleType:
    """A script as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *words: object) -> int:
    """Run a script as the command line does; gives its exit code."""
    return cli.run(lambda: load_script(name).main([str(word) for word in words]))
