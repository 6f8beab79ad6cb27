"""The commands of README.md and docs/scoring.md for somebody's own video, predictions and network, as they stand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc.data.images import write_png
from etc.display.mp4 import Mp4Writer
from tests.test_steady import NETWORK

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = 5
SHARES = {"masks": 0, "my_labels": 0, "my_masks": 0.02, "masks_a": 0.02, "masks_b": 0.1}  # of wrong pixels


def commands(page: str, heading: str) -> list[str]:
    """The commands of the first shell block below a heading."""
    text = (REPOSITORY / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    block = re.search(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    return [line for line in block.splitlines() if line.startswith("python tool/")]


@pytest.fixture
def here(tmp_path) -> Path:
    """What the commands name: a video and a folder of its frames, predictions of two methods, names, a network."""
    random = np.random.default_rng(0)
    texture = cv2.resize(random.integers(0, 256, (16, 40, 3), np.uint8), (160, 64), interpolation=cv2.INTER_CUBIC)
    classes = cv2.resize(random.integers(0, CLASSES, (4, 10), np.uint8), (160, 64), interpolation=cv2.INTER_NEAREST)
    with Mp4Writer(tmp_path / "my_video.mp4", 10) as video:
        for t in range(6):
            window = slice(None), slice(2 * t, 2 * t + 96)
            video.write(np.ascontiguousarray(texture[window]))
            write_png(tmp_path / f"frames/{t:06d}.png", np.ascontiguousarray(texture[window]))
            for folder, share in {
                "masks": 0,
                "my_labels": 0,
                "my_masks": 0.02,
                "masks_a": 0.02,
                "masks_b": 0.1,
            }.items():
                noise = random.random((64, 96)) < share
                ids = np.where(noise, (classes[window] + 1) % CLASSES, classes[window]).astype(np.uint8)
                write_png(tmp_path / folder / f"{'' if folder == 'masks' else 'my_video_'}{t:06d}.png", ids)
    (tmp_path / "names.txt").write_text("".join(f"thing {k}\n" for k in range(CLASSES)))
    (tmp_path / "mynet.py").write_text(NETWORK)
    inside: dict = {}
    exec(NETWORK, inside)
    torch.save(inside["make"](CLASSES).state_dict(), tmp_path / "mine.pth")
    return tmp_path


def call(command: str, here: Path) -> str:
    """What a command prints; it must succeed."""
    words = shlex.split(command)
    assert words[0] == "python"
    words = [sys.executable, str(REPOSITORY / words[1]), *words[2:]]
    done = subprocess.run(words, cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_for_ones_own_video(here):
    score, compare, steady = commands("README.md", "Use it on your video")
    assert "TC strict" in call(score, here)
    assert "minus a, 95%" in call(compare, here)
    assert "the steadier network: exp/steady/after/last.pth" in call(steady, here)


@pytest.mark.slow
def test_the_commands_for_predictions_of_any_method(here):
    _, folder, official = commands("docs/scoring.md", "Score your own predictions")
    assert "thing 4" in call(folder, here)
    assert "--cityscapes sampled" in official  # needs the data: tests/evaluate/test_predictions.py scores such folders
    runs, methods = commands("docs/scoring.md", "Compare runs")
    printed = call(f"{methods} DATA.classes {CLASSES} DATA.label_map none", here)
    assert "minus a, 95%" in printed and "mIoU, frames of the clips" in printed
    for run in "before", "after":
        (here / "exp" / run).mkdir(parents=True)
    (here / "exp/comparison/runs/a").rename(here / "exp/before/result")
    (here / "exp/comparison/runs/b").rename(here / "exp/after/result")
    assert "minus before, 95%" in call(runs, here)
    protocols, vspw = commands("docs/scoring.md", "Protocols of other publications")
    own = f"--frames frames --predictions masks DATA.classes {CLASSES}"
    assert "majority" in call(f"{protocols} {own}", here)
    (here / "FILE").write_text("DATA:\n  label_map: none\n")
    assert "VSPW" in call(f"{vspw} {own}", here).upper()
