"""model/own_source.py: the hash changes with each file that the code is made of, and with no other."""

import pytest

from model.own_source import source_hash


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that imports a module and a package beside it, the package another one."""
    (tmp_path / "hashed_net.py").write_text("import torch\nfrom hashed_helper import SCALE\ndef make(): return SCALE\n")
    (tmp_path / "hashed_helper.py").write_text("import hashed_pack.part\nSCALE = 3\n")
    (tmp_path / "hashed_pack").mkdir()
    (tmp_path / "hashed_pack/part.py").write_text("def late():\n    import hashed_late\n")
    (tmp_path / "hashed_late.py").write_text("x = 1\n")
    (tmp_path / "hashed_other.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", ["hashed_net.py", "hashed_helper.py", "hashed_pack/part.py", "hashed_late.py"])
def test_each_module_that_is_imported_counts(module, file):
    before = source_hash("hashed_net:make")
    assert source_hash("hashed_net:other") == before
    (module / file).write_text((module / file).read_text() + "\n# edited\n")
    assert source_hash("hashed_net:make") != before


def test_a_module_that_is_not_imported_does_not_count(module):
    before = source_hash("hashed_net:make")
    (module / "hashed_other.py").write_text("x = 2\n")
    assert source_hash("hashed_net:make") == before


def test_of_a_repository_every_python_file_counts_but_no_installed_library(tmp_path):
    for name in ("model/net.py", "utils/late.py", ".venv/lib/x.py", "env/site-packages/y.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    name = f"{tmp_path}:model.net:make"
    before = source_hash(name)
    for other in (".venv/lib/x.py", "env/site-packages/y.py", "notes.txt"):
        (tmp_path / other).write_text("a = 2\n")
    assert source_hash(name) == before
    (tmp_path / "utils/late.py").write_text("a = 2\n")
    assert source_hash(name) != before


def test_what_is_no_python_is_hashed_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "hashed_broken.py").write_text("def (\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_hash("hashed_broken:make")
    (tmp_path / "hashed_broken.py").write_text("def )\n")
    assert source_hash("hashed_broken:make") != before
