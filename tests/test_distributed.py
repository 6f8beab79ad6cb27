"""Processes that torchrun starts: together they are one writer of a folder."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from etc import distributed
from etc.errors import UserError
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


FAILING = """
import sys, time
import torch
from etc import cli, distributed
from etc.errors import UserError

def main():
    with distributed.process_group(torch.device("cpu")):
        total = distributed.sum_counts(torch.tensor([1, 2]))
        sys.stdout.write(f"{total.tolist()}\\n")
        distributed.barrier()
        if distributed.rank() == 1:
            raise UserError("this rank cannot go on")
        distributed.barrier()  # never complete: the other one has failed
    return 0

if __name__ == "__main__":
    raise SystemExit(cli.run(main))
"""


def test_the_error_of_one_process_is_shown_and_ends_the_others(tmp_path):
    (tmp_path / "ranks.py").write_text(FAILING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command.append(str(tmp_path / "ranks.py"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stdout.split("\n")[:2] == ["[2, 4]", "[2, 4]"]
    assert "error: this rank cannot go on" in done.stderr


KILLED = """
import os, signal, sys
import torch
from etc import cli, distributed

def main():
    with distributed.process_group(torch.device("cpu")), distributed.exclusive_output(sys.argv[1]):
        distributed.barrier()
        if distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory ends
        distributed.barrier()
    return 0

if __name__ == "__main__":
    raise SystemExit(cli.run(main))
"""


def test_a_process_that_is_killed_ends_the_others_and_the_folder_is_free(tmp_path):
    (tmp_path / "ranks.py").write_text(KILLED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command += [str(tmp_path / "ranks.py"), str(tmp_path / "run")]
    # The patient group alone would wait for days.
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    with distributed.exclusive_output(tmp_path / "run"):  # no other process holds it any more
        pass


def test_a_rank_without_the_rest_of_torchruns_environment_is_one_line(monkeypatch):
    """As in jobs of schedulers that number their processes."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UserError, match="RANK is set, MASTER_ADDR, MASTER_PORT not: start with torchrun"),
        distributed.process_group(torch.device("cpu")),
    ):
        pass


def test_a_gpu_is_named_at_the_start_and_the_group_is_left_standing_after_an_error(monkeypatch):
    """Under NCCL its end would wait for processes that sit in a collective, and the error would not be shown."""
    calls = []
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(device))
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *a, **k: calls.append((*a, *k.items())))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: calls.append("destroyed"))
    gpu = torch.device("cuda", 1)
    with pytest.raises(KeyError), distributed.process_group(torch.device("cuda")) as device:
        assert device == gpu
        raise KeyError
    assert calls == [gpu, ("nccl", ("device_id", gpu))]
    with distributed.process_group(torch.device("cuda")):
        pass
    assert calls[2:] == [*calls[:2], "destroyed"]


def test_waiting_and_counting_do_not_give_up_after_minutes(monkeypatch):
    asked = []

    def new_group(**options):
        asked.append(options)
        return distributed.dist.ProcessGroup.__new__(distributed.dist.ProcessGroup)

    monkeypatch.setattr(distributed.dist, "new_group", new_group)
    monkeypatch.setattr(distributed, "_patient_groups", {})
    assert distributed._patient_group() is distributed._patient_group()
    (options,) = asked
    assert options["backend"] == "gloo" and options["timeout"] > timedelta(days=7)


@pytest.mark.parametrize(("local", "named"), [(None, "LOCAL_RANK is not set"), ("4", "LOCAL_RANK is 4")])
def test_a_process_without_a_gpu_of_its_own_is_one_line(monkeypatch, local, named):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(UserError, match=rf"{named}, this machine has 2 GPUs: .* torchrun --nproc_per_node 2"),
        distributed.process_group(torch.device("cuda")),
    ):
        pass


def test_each_process_predicts_on_its_own_gpu_whichever_the_settings_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert distributed.device_of("cuda:0") == torch.device("cuda:0")
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    for name in ("auto", "cuda", "cuda:0"):
        assert distributed.device_of(name) == torch.device("cuda:1")
    assert distributed.device_of("cpu") == torch.device("cpu")
