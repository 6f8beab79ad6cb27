"""Workers end with the process that started them."""

import pytest

from tests.processes import children, running, runs, wait_until

pytestmark = pytest.mark.skipif("not __import__('os').path.isdir('/proc/self/task')", reason="reads /proc")

LOADER = """
import time
from torch.utils.data import DataLoader
from etc.train.build import _start_worker

class Slow:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if index > 1:
            time.sleep(3600)
        return index

loader = iter(DataLoader(Slow(), num_workers=2, worker_init_fn=_start_worker, prefetch_factor=1))
next(loader), next(loader)
print("ready", flush=True)
next(loader)
"""

POOL = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from utils.workers import end_with_parent

pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent)
list(pool.map(time.sleep, [0.05] * 4))
print("ready", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("code", "how"), [(LOADER, "kill"), (POOL, "kill"), (POOL, "terminate")], ids=["loading", "idle", "idle, SIGTERM"]
)
def test_workers_end_when_their_parent_is_killed(code, how):
    with running(code) as parent:
        assert parent.stdout.readline() == "ready\n"
        workers = children(parent.pid)
        assert len(workers) >= 2
        getattr(parent, how)()
        parent.wait()
        assert wait_until(lambda: not any(map(runs, workers)), seconds=4)  # PyTorch's own workers look every 5 s
