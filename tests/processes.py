"""Other processes for tests: they say when they are ready, wait, and can be killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from etc.config import load_settings
from etc.data import synthetic
from tests import scripts

REPOSITORY = Path(__file__).resolve().parents[1]

# Importing torch takes many times as long as the tiny runs of the tests: one process imports everything, and is copied.
_READY = multiprocessing.get_context("forkserver")
_READY.set_forkserver_preload(
    ["etc.train.trainer", "etc.report.html", "etc.report.runs", "etc.flow.precompute", "torch.utils.tensorboard"]
)


@contextmanager
def running(code: str, *args: object) -> Iterator[subprocess.Popen]:
    """A Python process that runs ``code`` and prints a line when it is ready; killed at the end, with its workers."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, args)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(true: Callable[[], bool], seconds: float = 30) -> bool:
    """Look every hundredth of a second; gives the last answer."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_of(pid: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children(pid: int) -> list[int]:
    """The processes that a process started; none of it if it has ended."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended since it was listed
                found += map(int, (task / "children").read_text().split())
    return found


def import_everything() -> None:
    """Do what the first :func:`started` would wait for."""
    process = _READY.Process(target=int)
    process.start()
    process.join()


def started(script: str, words: Sequence[object], log: Path) -> multiprocessing.Process:
    """A script of ``tool/`` in a process of its own, which the caller waits for or kills.

    Args:
        script: its name; ``render`` renders the synthetic world with snippets of six frames.
        words: its arguments.
        log: where it writes what it prints.
    """
    process = _READY.Process(target=_run, args=(script, [*map(str, words)], str(log)))
    process.start()
    return process


def _run(script: str, words: list[str], log: str) -> None:
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    if script == "render":
        # In this process, as workers would import everything again; tests/data/test_synthetic.py kills some.
        synthetic.os.cpu_count = lambda: 1
        synthetic.write_world = partial(synthetic.write_world, frames=6)
        synthetic.SYNTHETIC_LABELLED = (2, 3)
        synthetic.prepare(load_settings(None, words))
        return
    code = scripts.run(script, *words)
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)
