"""Scripts that are killed at any moment, and started again: the same results, bit for bit, and nothing left behind."""

import random
import shutil
import time

import pytest

from etc.train.checkpoint import load_checkpoint
from tests.faults.conftest import SECONDS, Undisturbed, check_equal, contents_of, finish, is_hidden
from tests.processes import started

pytestmark = pytest.mark.faults

SIGKILL = -9
SCRIPTS = ["render", "train_with_flow", "gen_video", "eval_tc", "precompute_flow", "gen_pseudo_labels"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_killed_run_that_is_started_again_gives_the_same_bits(script, undisturbed, tmp_path, request):
    whole, log = undisturbed(script), tmp_path / "log.txt"
    generator, kills = random.Random(script), 0
    wanted = 20 if request.config.getoption("--long") else 1
    for _ in range(3 * wanted):
        shutil.rmtree(whole.out)
        process = started(script, whole.words, log)
        time.sleep(generator.uniform(0, 0.9 * whole.seconds))
        process.kill()
        process.join(SECONDS)
        kills += process.exitcode == SIGKILL
        whole.out.mkdir(exist_ok=True)
        check_what_a_kill_left(whole)
        finish(started(script, whole.words, log), log)
        check_equal(contents_of(whole.out), whole.files)
        if kills == wanted:
            break
    print(f"{script}: {kills} kills, {kills} runs with equal bits ({whole.seconds:.1f} s undisturbed)")
    assert kills == wanted


def check_what_a_kill_left(whole: Undisturbed) -> None:
    """Files under their final names are whole; those of a training, which are replaced epoch by epoch, can be read."""
    for name, found in contents_of(whole.out).items():
        if is_hidden(name):
            continue
        if name.endswith(".pth"):
            load_checkpoint(whole.out / name)
        elif name.endswith("log.csv"):
            assert whole.files[name].startswith(found.rpartition(b"\n")[0])
        else:
            assert found == whole.files[name], f"{name} is not what the undisturbed run writes"
