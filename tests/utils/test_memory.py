"""Freed blocks go back to the system, seen from outside in the resident memory of a process."""

import subprocess
import sys

import pytest

SCRIPT = """
import re, sys
import numpy as np
from utils.memory import return_large_blocks

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024

if sys.argv[1] == "True":
    return_large_blocks()
np.ones(30 << 20, np.uint8)  # freed at once: from here on glibc keeps blocks of up to this size
before = resident()
blocks = [np.ones(size, np.uint8) for _ in range(20) for size in (6 << 20, 100_000)]
del blocks[:-1:2]  # the large ones; the small ones between them keep the heap from shrinking
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc and /proc are Linux's")
@pytest.mark.parametrize("asked", [True, False])
def test_frames_that_were_freed_do_not_stay_in_the_process(asked):
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(asked)], capture_output=True, text=True, check=True)
    grown = int(run.stdout)  # MB, of 120 that were freed
    assert grown < 20 if asked else grown > 60
