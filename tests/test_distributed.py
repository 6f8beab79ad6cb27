"""Processes that torchrun starts: together they are one writer of a folder."""

import os
import subprocess
import sys

from tests.conftest import REPOSITORY
from tests.processes import running
from tests.utils.test_locks import HOLDER

RANKS = """
import sys
import torch
from etc import cli, distributed

def main():
    with distributed.process_group(torch.device("cpu")):
        with distributed.exclusive_output(sys.argv[1]):
            sys.stdout.write(f"inside {distributed.rank()}\\n")  # in one piece: both write into one pipe
        with distributed.exclusive_output(sys.argv[2]):
            print("never")
    return 0

if __name__ == "__main__":
    raise SystemExit(cli.run(main))
"""


def test_processes_of_one_torchrun_share_the_lock_and_are_refused_together(tmp_path):
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(tmp_path / "ranks.py"), str(tmp_path / "free"), str(tmp_path / "taken")]
    with running(HOLDER, tmp_path / "taken") as other:
        other.stdout.readline()
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert sorted(done.stdout.split()) == ["0", "1", "inside", "inside"], done.stderr
    assert "taken is being written by another process" in done.stderr
    assert not (tmp_path / "free").exists()
