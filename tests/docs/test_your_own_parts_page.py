"""docs/your-own-parts.md: its files and commands, on the tiny world."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.images import read_label, write_png
from etc.data.lists import prediction_names
from etc.data.sources import clips_to_score
from etc.flow import build_flow
from tests.conftest import REPOSITORY
from tests.scripts import run

PAGE = (REPOSITORY / "docs/your-own-parts.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n# (my_\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^python .*$", PAGE, re.MULTILINE)]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The files of the page in the current folder."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture
def predictions(tiny_training, tmp_path):
    """Random predictions of the clips; the overrides that score them."""
    overrides, random = [*tiny_training, f"TEST.save_folder={tmp_path}/result"], np.random.default_rng(0)
    for stem in prediction_names([frame for clip in clips_to_score(load_settings(None, overrides)) for frame in clip]):
        ids = np.where(random.random((64, 128)) < 0.1, 11, np.arange(128) // 16).astype(np.uint8)
        write_png(tmp_path / "result/video/gray" / f"{stem}.png", ids)
    return overrides


def words(script):
    """The arguments of the page's command for a script, without the folders of the quickstart."""
    (found,) = [command for command in COMMANDS if command[1].endswith(script)]
    pairs = zip(found[2::2], found[3::2], strict=True)
    return [word for pair in pairs if not pair[1].startswith("exp/") for word in pair]


def test_every_code_is_short_and_every_command_is_run_here():
    assert sorted(FILES) == ["my_flow.py", "my_loss.py", "my_scores.py"]
    assert all(len([line for line in text.splitlines() if line.strip()]) <= 20 for text in FILES.values())
    scripts = ["tool/train_with_flow.py", "tool/eval_tc.py", "tool/eval_flow.py", "my_scores.py"]
    assert [command[1] for command in COMMANDS] == scripts


@pytest.mark.slow
def test_the_loss_is_the_focal_loss_and_trains(tiny_training, tmp_path):
    import my_loss

    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5, generator=generator), torch.randint(0, 3, (2, 4, 5), generator=generator)
    labels[0, 0] = 255
    terms = []
    for n, y, x in (labels != 255).nonzero().tolist():
        p = logits[n, :, y, x].softmax(0)[labels[n, y, x]].item()
        terms.append(-((1 - p) ** 2) * np.log(p))
    assert my_loss.focal()(logits, labels).item() == pytest.approx(np.mean(terms), rel=1e-5)
    assert my_loss.focal()(logits, torch.full_like(labels, 255)).item() == 0
    assert run("train_with_flow", *tiny_training, *words("train_with_flow.py")) == 0
    assert (tmp_path / "run/last.pth").is_file()


def test_the_flow_estimator_finds_a_shift_and_scores(predictions, tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    texture = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 40, generator=generator) * 255, scale_factor=4)
    flow = build_flow("my_flow:farneback").estimate(texture[..., 3:], texture[..., :-3])
    assert flow[..., 20:-20, 20:-20].mean((0, 2, 3)).tolist() == pytest.approx([3, 0], abs=0.15)
    assert run("eval_tc", *predictions, *words("eval_tc.py")) == 0
    assert json.loads((tmp_path / "result/tc.json").read_text())["flow"].startswith("my_flow.farneback-")
    assert run("eval_flow", *predictions, *words("eval_flow.py")) == 0
    assert "my_flow" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_with_a_metric_shows_it_counted_by_all_workers(predictions):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "my_scores.py", *predictions]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = load_settings(None, predictions)
    same, pixels = 0, 0
    for clip in clips_to_score(settings):
        names = [f"{settings.TEST.save_folder}/video/gray/{stem}.png" for stem in prediction_names(clip)]
        for one, two in pairwise([read_label(name) for name in names]):
            same, pixels = same + (one == two).sum(), pixels + one.size
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("same class, same place")]
    assert f"{100 * same / pixels:.2f}" in line
