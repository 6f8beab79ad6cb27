"""Installed or started elsewhere: wheels are refused with the reason, a hidden package is named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def python(*args, folder, **environment) -> subprocess.CompletedProcess:
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    return subprocess.run([sys.executable, *map(str, args)], cwd=folder, env=own, capture_output=True, text=True)


def test_a_wheel_is_refused_with_the_documented_way(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    done = python("setup.py", "-q", "bdist_wheel", folder=tmp_path)
    assert done.returncode and not list(tmp_path.rglob("*.whl"))
    assert "is used from its clone" in done.stderr and "pip install -e ." in done.stderr


@pytest.mark.parametrize("name", ["utils", "model"])
def test_a_package_of_ones_own_that_hides_the_toolkits_is_named(tmp_path, name):
    hiding = tmp_path / f"{name}.py"
    hiding.write_text("answer = 42\n")
    (tmp_path / "mine.py").write_text("from etc.flow import build_flow\n")
    named = f"the ETC toolkit imports its own package {name!r} from {REPOSITORY}, but Python finds {hiding}: rename"
    # In one's own script, which gets a traceback that ends with the reason.
    own = python("mine.py", folder=tmp_path, PYTHONPATH=REPOSITORY.as_posix())
    assert own.returncode == 1 and own.stderr.strip().splitlines()[-1].startswith(f"ImportError: {named}")
    # A script of the toolkit says it in one line.
    tool = REPOSITORY / "tool/eval_tc.py"
    script = python(tool, "--help", folder=tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}")
    assert script.returncode == 2 and script.stderr.startswith(f"error: {named}") and script.stderr.count("\n") == 1


def test_a_module_that_was_imported_before_and_hides_ours_is_named(tmp_path):
    (tmp_path / "utils.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import utils; sys.path.pop(0); import etc"
    done = python("-c", code, folder=REPOSITORY)
    assert done.returncode == 1 and f"but Python finds {tmp_path}/utils.py" in done.stderr


def test_packages_in_the_folder_where_a_script_is_started_hide_nothing(tmp_path):
    for name in ("utils", "model", "flownet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    done = python(REPOSITORY / "tool/eval_tc.py", "--help", folder=tmp_path, PYTHONPATH=REPOSITORY.as_posix())
    assert done.returncode == 0, done.stderr


def test_a_script_of_another_clone_is_named(tmp_path):
    for name in ("tool/eval_tc.py", "etc/cli.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    done = python(tmp_path / "tool/eval_tc.py", "--help", folder=tmp_path, PYTHONPATH=REPOSITORY.as_posix())
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"this script is that of {tmp_path}, but Python imports the toolkit from {REPOSITORY}" in done.stderr
