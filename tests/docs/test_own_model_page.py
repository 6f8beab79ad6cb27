"""The commands of the documentation, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shell_of(page: str) -> str:
    """All shell blocks of a page as one script."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.mark.slow
def test_the_page_about_your_own_model_works_in_an_empty_folder(tmp_path):
    script = shell_of("your-own-model.md")
    # The page's own sizes take minutes; the commands and files are the same.
    smaller = {
        "epochs: 30": "epochs: 1",
        "TRAIN.epochs 4": "TRAIN.epochs 1",
        "synthetic_train: 8": "synthetic_train: 1",
        "synthetic_val: 4": "synthetic_val: 2",
        "ETC=/path/to/the/toolkit": f"ETC={REPOSITORY}",
        "source $ETC/.venv/bin/activate": "",
    }
    for before, after in smaller.items():
        assert before in script
        script = script.replace(before, after)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PATH": path}
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "TC strict" in done.stdout
    for file in ("exp/finished/last.pth", "exp/steady/last.pth", "exp/comparison/report.html"):
        assert (tmp_path / file).is_file()
