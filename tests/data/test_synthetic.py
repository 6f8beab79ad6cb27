"""The rendered world: two first users, and what a killed rendering leaves."""

import json
import os

import pytest

from etc.config import load_settings
from etc.data import synthetic
from etc.data.world import write_world
from tests.conftest import tiny_overrides
from tests.processes import children, running, runs, wait_until
from utils import locks

OTHER = """
import sys, json
from pathlib import Path
from utils.files import new_folder
from utils.locks import exclusive
root = Path(sys.argv[1])
with exclusive(root.parent, root.name, wait=True), new_folder(root) as building:
    (building / "world.json").write_text(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
"""

RENDERING = """
import sys
from etc.data.world import write_world
if __name__ == "__main__":
    write_world(sys.argv[1], train_snippets=3, val_snippets=1, height=48, width=96, workers=2, labelled=(0,))
"""


def test_the_second_of_two_first_users_waits_and_uses_the_world_of_the_first(tmp_path, monkeypatch):
    root = tmp_path / "synthetic"
    settings = load_settings(None, tiny_overrides(root))
    world = {key: value for key, value in settings.DATA.model_dump().items() if key.startswith("synthetic_")}
    monkeypatch.setattr(synthetic, "_render", lambda *_: pytest.fail("rendered a second time"))
    with running(OTHER, root, json.dumps(world)) as other:
        other.stdout.readline()

        def end_the_other(*message):
            other.stdin.write("\n")
            other.stdin.flush()

        monkeypatch.setattr(locks.logger, "info", end_the_other)
        assert not root.exists()
        synthetic.prepare(settings)
    assert [path.name for path in root.iterdir()] == ["world.json"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")
@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_killed_rendering_leaves_no_worker_and_its_files_go_at_the_next_start(tmp_path, how):
    with running(RENDERING, tmp_path / "world") as renderer:
        assert wait_until(lambda: any(tmp_path.rglob("*_leftImg8bit.png")))
        workers = children(renderer.pid)
        assert len(workers) >= 2
        getattr(renderer, how)()
        renderer.wait()
        assert wait_until(lambda: not any(map(runs, workers)), seconds=4)
    assert len(list(tmp_path.iterdir())) == 1
    write_world(tmp_path / "world", train_snippets=1, val_snippets=0, height=48, width=96, frames=2, labelled=(0,))
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_a_rendering_leaves_the_world_and_nothing_beside_it(tiny_world):
    assert [path.name for path in tiny_world.parent.iterdir()] == ["synthetic"]
