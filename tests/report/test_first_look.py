"""The clip that stands first is the median one, not the best; what is lit is what changes."""

import math

import numpy as np
import pytest
from PIL import Image

from etc.config import load_settings
from etc.data.images import write_png
from etc.report.clip_views import _CHANGED, ClipViewer
from etc.report.first_look import median_clip, write_first_look
from etc.report.runs import read_run
from tests.scripts import run

NAN = math.nan
SIZE = 32
FRAMES = 5


@pytest.mark.parametrize(
    ("steadiness", "expected"),
    [
        ([[0.5, 0.5, 0.5], [0.9, 0.6, 0.7]], 2),
        ([[0.1, 0.9, 0.5], [0.2, 0.4, 0.5]], 2),  # it got worse on one clip
        ([[0.5, 0.5, NAN], [0.9, 0.6, 0.7]], 1),  # of two, the worse one
        ([[0.3, 0.1, 0.2]], 2),
        ([[0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.9, 0.6, 0.7]], 2),  # the first run against the last
        ([[NAN], [NAN]], 0),
    ],
)
def test_the_clip_of_median_difference_is_shown(steadiness, expected):
    assert median_clip(steadiness) == expected


@pytest.fixture
def look(tmp_path):
    """A still clip; the second run's label of one row alternates between two classes."""
    (tmp_path / "names.txt").write_text("low\nhigh\n")
    (tmp_path / "colors.txt").write_text("0 0 255\n0 255 0\n")
    words = [f"TEST.frames={tmp_path}/frames", "DATA.synthetic=false", "FLOW.name=dis", "FLOW.preset=ultrafast"]
    words += ["DATA.classes=2", f"DATA.names_path={tmp_path}/names.txt", f"DATA.colors_path={tmp_path}/colors.txt"]
    words += [f"FLOW.cache={tmp_path}/cache", "TEST.prediction_ids=train", "FLOW.occlusion=false", "DATA.cuts=keep"]
    picture = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    for t in range(FRAMES):
        write_png(tmp_path / "frames" / f"{t:03d}.png", picture)
        for name in ("still", "ragged"):
            ids = np.zeros((SIZE, SIZE), np.uint8)
            ids[SIZE // 2 :] = 1
            if name == "ragged":
                ids[7, 3:9] = t % 2
            write_png(tmp_path / name / "masks" / f"{t:03d}.png", ids)
    for name in ("still", "ragged"):
        own = [f"TEST.predictions={tmp_path}/{name}/masks", f"TEST.save_folder={tmp_path}/{name}"]
        assert run("eval_tc", *words, *own) == 0
    settings = load_settings(None, words)
    viewer = ClipViewer([read_run(name, tmp_path / name) for name in ("still", "ragged")], settings)
    return write_first_look(viewer, tmp_path / "out")


def test_what_changes_is_lit_and_counted(look):
    assert look.changing == pytest.approx([0, 6 / SIZE**2])
    assert look.row == 7 and look.clip == "000"
    with Image.open(look.loop) as loop:
        assert loop.n_frames == FRAMES and loop.info["loop"] == 0
        loop.seek(1)
        shown = np.asarray(loop.convert("RGB")).astype(int)
    lit = np.abs(shown - _CHANGED).sum(2) < 90  # WebP loses some of the colour
    half = shown.shape[1] // 2
    assert not lit[:, :half].any() and lit[:, half:].any()
    rows, columns = np.nonzero(lit[:, half:])
    scale = half / SIZE
    assert columns.max() - columns.min() == pytest.approx(6 * scale, abs=scale)
    assert rows.max() - rows.min() == pytest.approx(scale, abs=scale)


def test_the_profile_stacks_one_row_over_time(look):
    profile = np.asarray(Image.open(look.profile)).astype(int)
    half = profile.shape[1] // 2
    green = profile[:, :, 1] > profile[:, :, 2] + 40  # class 1
    assert not green[:, :half].any()
    runs = np.flatnonzero(np.diff(green[:, half:].any(1).astype(int)))
    # Frames 1 and 3 of 5 have class 1 in that row: two bands of one frame, one frame apart.
    assert len(runs) == 4 and np.ptp(np.diff(runs)) <= 1
