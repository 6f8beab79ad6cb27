"""docs/your-data.md: its commands, as they stand, and what its tables name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from etc.data.layouts import LABEL_MAPS, LAYOUTS, NAMED_MAPS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/your-data.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_work_in_an_empty_folder(tmp_path):
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    for before, after in {
        "ETC=/path/to/the/toolkit": f"ETC={REPOSITORY}",
        "source $ETC/.venv/bin/activate": "",
    }.items():
        assert before in script
        script = script.replace(before, after)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tuesday_1/rgb/000.jpg tuesday_1/gt/000_ids.png" in done.stdout and "TC strict" in done.stdout
    lines = {name: (tmp_path / f"my_lists/{name}.lst").read_text().count("\n") for name in ("train", "val")}
    assert lines == {"train": 16, "val": 8}
    assert json.loads((tmp_path / "exp/mine/result/tc.json").read_text())["clips"]
    assert 0 < json.loads((tmp_path / "exp/mine/result/miou.json").read_text())["mIoU"] <= 1


def test_every_layout_and_label_map_stands_on_the_page():
    missing = [name for name in LAYOUTS if f"make_lists.py {name} " not in PAGE]
    missing += [name for name in (*LABEL_MAPS, *NAMED_MAPS) if f"| `{name}` |" not in PAGE]
    assert not missing


def test_every_file_that_the_page_names_exists():
    links = [REPOSITORY / "docs" / link for link in re.findall(r"\]\(([^)#:]+)\)", PAGE)]
    paths = [REPOSITORY / path for path in re.findall(r"`((?:tool|configs)/[\w./]*)`", PAGE)]
    assert len(links) > 2 and len(paths) > 4
    assert not [path for path in (*links, *paths) if not path.exists()]
