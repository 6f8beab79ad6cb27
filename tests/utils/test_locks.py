"""One writer per folder: the second one is refused with a name, or waits; a killed one holds nobody up."""

import multiprocessing
import os
import re
import signal
import socket

import pytest

from tests.processes import running, runs
from utils import locks
from utils.locks import FolderInUse, exclusive

HOLDER = """
import sys
from utils.locks import exclusive
with exclusive(sys.argv[1], *sys.argv[2:]):
    print("ready", flush=True)
    sys.stdin.readline()
"""

FORKING = """
import multiprocessing, os, sys, time
from utils.locks import exclusive
def work():
    print(os.getpid(), flush=True)
    time.sleep(3600)
with exclusive(sys.argv[1]):
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
"""


def test_a_second_process_is_told_who_is_writing(tmp_path):
    with running(HOLDER, tmp_path / "out") as other:
        other.stdout.readline()
        with pytest.raises(FolderInUse) as caught, exclusive(tmp_path / "out"):
            pass
    expected = rf"{re.escape(str(tmp_path / 'out'))} is being written by another process \(pid {other.pid} on host "
    expected += rf"{re.escape(socket.gethostname())}, `-c`, since \d{{4}}-\d\d-\d\d [\d:]+ [+-]\d{{4}}\): wait for it"
    assert re.match(expected, str(caught.value))


def test_a_killed_process_holds_nobody_up(tmp_path):
    with running(HOLDER, tmp_path / "out") as other:
        other.stdout.readline()
        other.kill()
        other.wait()
        with exclusive(tmp_path / "out"):
            assert f'"pid": {os.getpid()}' in (tmp_path / "out/.lock.owner").read_text()


def test_a_forked_worker_that_ends_does_not_release_the_lock(tmp_path):
    with exclusive(tmp_path / "out"):
        worker = multiprocessing.get_context("fork").Process(target=int)  # as DataLoader starts its own on Linux
        worker.start()
        worker.join()
        with pytest.raises(FolderInUse), exclusive(tmp_path / "out"):
            pass


def test_a_run_that_was_killed_while_its_workers_live_on_is_over(tmp_path):
    with running(FORKING, tmp_path / "out") as other:
        worker = int(other.stdout.readline())
        other.kill()
        other.wait()
        with exclusive(tmp_path / "out"):
            assert runs(worker)
        os.kill(worker, signal.SIGKILL)


def test_results_of_other_names_are_no_conflict(tmp_path):
    with running(HOLDER, tmp_path, "tc") as other:
        other.stdout.readline()
        with exclusive(tmp_path, "miou"), pytest.raises(FolderInUse), exclusive(tmp_path, "tc"):
            pass


def test_one_that_waits_goes_on_when_the_other_has_ended(tmp_path, monkeypatch):
    with running(HOLDER, tmp_path, "world") as other:
        other.stdout.readline()
        told = []

        def end_the_other(*message):
            told.append(message[0] % message[1:])
            other.stdin.write("\n")
            other.stdin.flush()

        monkeypatch.setattr(locks.logger, "info", end_the_other)
        with exclusive(tmp_path, "world", wait=True):
            assert other.wait() == 0
    assert len(told) == 1 and f"pid {other.pid}" in told[0]


@pytest.mark.parametrize("error", [None, ValueError("bad settings"), KeyboardInterrupt()])
def test_a_block_that_wrote_nothing_leaves_nothing(tmp_path, error):
    try:
        with exclusive(tmp_path / "a" / "b"):
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt) as caught:
        assert caught is error
    assert list(tmp_path.iterdir()) == []


def test_what_the_block_wrote_stays_and_the_lock_goes(tmp_path):
    for content in ("one", "two"):
        with exclusive(tmp_path / "a"):
            (tmp_path / "a/x.txt").write_text(content)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.txt"]
