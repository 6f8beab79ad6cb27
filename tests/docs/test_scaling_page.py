"""docs/scaling.md: its memory is what docs/make_scaling.py measures now, and that is what autograd keeps."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from torch import nn

from tests import trees
from tests.conftest import REPOSITORY
from tests.docs.test_cityscapes_page import SMALL
from utils.files import write_text

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


@pytest.fixture
def here(tmp_path):
    """A folder with a tree of the layout, its lists, and what the commands call; gives their environment."""
    trees.cityscapes(tmp_path / "data/cityscapes")
    for folder in ("tool", "configs", "data/palettes"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    lists = "python tool/make_lists.py cityscapes data/cityscapes"
    val = "find data/cityscapes/leftImg8bit/val -name '*.png' | sort | sed 's|data/cityscapes/||' > clips.lst"
    subprocess.run(["bash", "-ec", f"{lists}\n{val}"], cwd=tmp_path, env=environment, check=True)
    return tmp_path, environment


def block_below(heading: str, number: int = 1) -> str:
    """A block of commands, each in one line; processes of the CPU, which have no float16, stand in for GPUs."""
    block = PAGE.partition(heading)[2].split("```\n")[2 * number - 1]
    return block.replace("\\\n", "").replace("TRAIN.amp float16", "")


def processes_of(folder) -> int:
    (call,) = (folder / "exp/cityscapes/pspnet18_flow/calls.jsonl").read_text().splitlines()
    return json.loads(call)["processes"]


@pytest.mark.slow
def test_the_commands_of_one_machine_work_in_two_processes_on_a_tree_of_the_layout(here):
    folder, environment = here
    commands = block_below("## One machine").replace("node 8", "node 2").splitlines()
    script = "\n".join(f"{line} {SMALL} TRAIN.batch_size=4" for line in commands)
    done = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(commands) == 4 and re.search(r"^TC published +\d", done.stdout, re.MULTILINE)
    assert processes_of(folder) == 2


@pytest.mark.slow
def test_the_job_of_slurm_works_with_this_machine_as_both_of_its_machines(here):
    """``srun`` starts the command once a machine, here twice; ``scontrol`` names the first machine."""
    folder, environment = here
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, text in {"srun": '"$@" & "$@" & wait -n && wait -n', "scontrol": "echo 127.0.0.1"}.items():
        write_text(folder / "bin" / name, f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    job = block_below("## Several machines", 2)
    assert "--nproc_per_node 8" in job and ":29500" in job and "TRAIN.batch_size 32" in job
    job = job.replace("node 8", "node 1").replace("29500", str(port)).replace("TRAIN.batch_size 32", "").rstrip()
    environment |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}
    script = f"{job} {SMALL} TRAIN.batch_size=4"
    done = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert processes_of(folder) == 2


def test_the_command_without_slurm_is_that_of_the_job():
    by_hand, job = (" ".join(block_below("## Several machines", number).split()) for number in (1, 2))
    for variable, value in {'"$SLURM_NNODES"': "2", '"$SLURM_JOB_ID"': "etc1"}.items():
        job = job.replace(variable, value)
    assert by_hand == job.partition("srun ")[2].replace('"$head:29500"', "HOST_OF_THE_FIRST:29500")
