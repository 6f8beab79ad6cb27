"""The scripts of ``tool/`` in process: that folder is no package, and nothing imports it by name."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from etc import cli
from etc.config import fields, schema, training
from etc.data.layouts import check_layout

TOOLS = Path(__file__).resolve().parents[1] / "tool"

# Settings that a script replaces before it reads them, so that its user has no say in them: compare.py takes them from
# each run's own result folder.
SET_BY_SCRIPT = {"compare": {"TEST.predictions", "TEST.save_folder", "TEST.ckpt_path"}}


def load_script(name: str) -> ModuleType:
    """A script as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *args: object) -> int:
    """Run a script as the command line does; gives its exit code.

    Every run also checks the script's ``--help``: each setting that the script read must be listed there.
    """
    script = load_script(name)
    with recorded_keys() as read:
        code = cli.run(lambda: script.main([str(arg) for arg in args]))
    if hasattr(script, "KEYS"):
        missing = read - set(cli.matching_keys(script.KEYS)) - SET_BY_SCRIPT.get(name, set())
        assert not missing, f"tool/{name}.py reads {', '.join(sorted(missing))}: its KEYS, for --help, lack them"
    return code


@contextmanager
def recorded_keys() -> Iterator[set[str]]:
    """Collects every ``SECTION.key`` whose value this process reads.

    Copies and dumps of whole sections do not count (they do not use attribute access), nor do the checks of the
    settings (in the schema, and of the names of layouts), which every script makes alike.
    """
    read: set[str] = set()
    section_of = {model: section for section, model in schema.SECTIONS.items()}

    def recording(self, name):
        value = object.__getattribute__(self, name)
        section = section_of.get(type(self))
        if section and name in type(self).model_fields:
            reader = sys._getframe(1).f_code
            check = reader.co_filename in (schema.__file__, training.__file__) and reader.co_name.startswith("_")
            if not check and reader is not check_layout.__code__:
                read.add(f"{section}.{name}")
        return value

    fields.Section.__getattribute__ = recording
    try:
        yield read
    finally:
        del fields.Section.__getattribute__
