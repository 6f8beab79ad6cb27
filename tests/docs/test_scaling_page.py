"""docs/scaling.md: its memory is what docs/make_scaling.py measures now, and that is what autograd keeps."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from torch import nn

from tests import trees
from tests.conftest import REPOSITORY
from tests.docs.test_cityscapes_page import SMALL

PAGE = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_scaling", REPOSITORY / "docs/make_scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_memory_kept_for_the_backward_pass_is_counted_once(script, monkeypatch):
    def network(_name, *, classes, pretrained):
        return nn.Sequential(nn.Conv2d(3, classes, 1), nn.ReLU(inplace=True), nn.Identity())

    monkeypatch.setattr(script, "build_model", network)
    # A pixel: the image, the result of ReLU (kept once, for both), log softmax, the label and its weight.
    floats = 3 + 19 + 19 + 1
    assert script.kept_for_backward("own", 20, 30, False) == (4 * floats + 8) * 20 * 30
    # In float16 the image is kept as such, and softmax in float32.
    assert script.kept_for_backward("own", 20, 30, True) == (2 * (3 + 19) + 4 * (19 + 1) + 8) * 20 * 30
    assert script.state_bytes("own") == 3 * 4 * (3 * 19 + 19)
    assert script.operations("own", 20, 30, training=True) == 2 * 3 * 19 * 20 * 30


def test_the_table_is_what_the_script_prints_now(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_scaling.py", "psp18"])
    script.main()
    (row,) = re.findall(r"^\| `psp18` .*$", PAGE, re.MULTILINE)
    assert capsys.readouterr().out == f"{script.HEAD}\n{row}\n" and script.HEAD in PAGE


def test_the_figures_that_follow_from_the_table_do(script):
    rows = re.findall(r"^\| `(\w+)` \| (\d+) MiB \| (\d+) MiB \| (\d+) MiB \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    table = {name: tuple(map(int, figures)) for name, *figures in rows}
    images = 2975 // 8 * 200 * 8 * 2
    for name, exa, hours in (("psp18", "0.99", "2.9 h"), ("psp101", "4.4", "13 h")):
        operations = images * 3 * table[name][3] * 1e9
        assert f"{operations / 1e18:.2g}" == exa and f"{exa} EFLOP / (0.3 x 312 TFLOP/s) | {hours}" in PAGE
        assert f"{operations / 0.3 / 312e12 / 3600:.2g} h" == hours


@pytest.mark.slow
def test_the_commands_of_one_machine_work_in_two_processes_on_a_tree_of_the_layout(tmp_path):
    """Eight GPUs stand in for two processes of the CPU, which have no float16."""
    trees.cityscapes(tmp_path / "data/cityscapes")
    for folder in ("tool", "configs", "data/palettes"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    environment = os.environ | {
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    lists = "python tool/make_lists.py cityscapes data/cityscapes"
    val = "find data/cityscapes/leftImg8bit/val -name '*.png' | sort | sed 's|data/cityscapes/||' > clips.lst"
    block = PAGE.partition("## One machine")[2].partition("```\n")[2].partition("```")[0]
    commands = block.replace("\\\n", "").replace("TRAIN.amp float16", "").replace("node 8", "node 2").splitlines()
    script = [lists, val, *(f"{line} {SMALL} TRAIN.batch_size=4" for line in commands)]
    done = subprocess.run(
        ["bash", "-ec", "\n".join(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(commands) == 4 and re.search(r"^TC published +\d", done.stdout, re.MULTILINE)
    (call,) = (tmp_path / "exp/cityscapes/pspnet18_flow/calls.jsonl").read_text().splitlines()
    assert json.loads(call)["processes"] == 2
