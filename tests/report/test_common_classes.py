"""Runs that do not predict the same classes: no figure of a comparison gains by painting a class over."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.images import read_label, write_png
from etc.errors import UserError
from etc.evaluate.clips import score_clips
from etc.evaluate.metric_list import METRICS
from etc.report.clip_views import ClipViewer
from etc.report.common_classes import common_classes, on_common_classes
from etc.report.comparison import compare, comparison_table
from etc.report.runs import read_run
from tests.scripts import run as run_script

CLASSES, POOR, ROAD, FRAMES = 5, 4, 0, 8
SHAPE = (48, 64)
# Whether more of it is steadier (1), or less (-1); mIoU asks for right labels and is left out.
STEADIER = {metric.key: -1 if metric.key == "flicker" else 1 for metric in METRICS if metric.of_predictions_alone}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Two clips of a moving texture, with labels that move with it; class 4 is a small square, class 3 is absent."""
    root = tmp_path_factory.mktemp("common")
    random = np.random.default_rng(0)
    lines = []
    for clip in ("a", "b"):
        texture = cv2.GaussianBlur(random.integers(0, 256, (48, 96, 3)).astype(np.uint8), (0, 0), 2)
        texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
        classes = np.zeros((48, 96), np.uint8)
        classes[:16], classes[30:40, 20:50], classes[20:26, 40:48] = 1, 2, POOR
        for t in range(FRAMES):
            window = slice(None), slice(2 * t, 2 * t + 64)
            write_png(root / f"frames/{clip}_{t:03d}.png", texture[window])
            write_png(root / f"labels/{clip}_{t:03d}.png", classes[window])
            lines.append(f"frames/{clip}_{t:03d}.png labels/{clip}_{t:03d}.png")
        lines.append("")
    (root / "clips.lst").write_text("\n".join(lines))
    (root / "images.lst").write_text("\n".join(line.split(" ")[0] for line in lines))
    (root / "colors.txt").write_text("\n".join(f"{50 * k} {200 - 40 * k} 100" for k in range(CLASSES)))
    (root / "names.txt").write_text("road\nsky\nwall\nbus\nlight\n")
    return root


@pytest.fixture
def scored(world, tmp_path):
    """Predict ``change(label, number of the frame)`` for every frame, score that, and give the run."""

    def score(name: str, change, lists: str = "clips.lst", *overrides: str):
        settings = settings_of(world, tmp_path / name, lists, *overrides)
        for number, path in enumerate(sorted((world / "frames").iterdir())):
            ids = change(read_label(world / "labels" / path.name), number)
            write_png(tmp_path / name / "video/gray" / path.name, ids)
        score_clips(settings).save(tmp_path / name)
        return read_run(name, tmp_path / name)

    return score


def settings_of(world: Path, folder: Path, lists: str = "clips.lst", *overrides: str):
    return load_settings(
        None,
        [
            *(f"DATA.{key}={world}/{path}" for key, path in (("data_root", ""), ("clip_list", lists))),
            f"DATA.names_path={world}/names.txt",
            f"DATA.colors_path={world}/colors.txt",
            f"DATA.classes={CLASSES}",
            *("DATA.synthetic=false", "DATA.label_map=none", "FLOW.name=dis", "FLOW.preset=ultrafast"),
            f"FLOW.cache={world}/flow",
            *("TEST.device=cpu", f"TEST.save_folder={folder}"),
            *overrides,
        ],
    )


def noisy(label: np.ndarray, number: int) -> np.ndarray:
    """The labels with a poor class: half of its pixels are missed, and it flickers on the road and on the wall."""
    random = np.random.default_rng(number)
    ids = np.where((label == POOR) & (random.random(SHAPE) < 0.5), ROAD, label)
    wrong = (random.random(SHAPE) < 0.02) & (label != 1)
    return np.where(wrong, POOR, np.where(random.random(SHAPE) < 0.02, 2, ids)).astype(np.uint8)


def painted(color: int):
    """The poor class painted over with another one."""

    def change(label: np.ndarray, number: int) -> np.ndarray:
        ids = noisy(label, number)
        return np.where(ids == POOR, np.uint8(color), ids)

    return change


def compared(runs, settings):
    viewer = on_common_classes(ClipViewer(runs, settings), common_classes(runs))
    return viewer, compare(viewer.runs, {}, torch.device("cpu"), own=runs)


def assert_nothing_is_called_steadier(rows) -> None:
    first, second = rows
    for key, sign in STEADIER.items():
        assert second[key] == first[key] or math.isnan(first[key]), key
        for end in ("", " low", " high"):
            assert not sign * second.get(f"{key} difference{end}", 0) > 0, key


@pytest.mark.parametrize("color", [ROAD, 1, 2])
def test_painting_a_poor_class_over_makes_no_figure_steadier(scored, world, tmp_path, color):
    runs = [scored("a", noisy), scored("b", painted(color))]
    own = [run.scores.first.results["strict"] for run in runs]
    assert own[1]["mIoU"] > own[0]["mIoU"] + 0.05  # what a mean over the classes of each run would say
    assert [result["mIoU_classes"] for result in own] == [4, 3]
    viewer, rows = compared(runs, settings_of(world, tmp_path / "a"))
    assert_nothing_is_called_steadier(rows)
    for key in ("strict", "boundary", "pixel_consistency", "frequency_weighted_tc", "flicker", "vc8_correct"):
        assert 0 < rows[0][key] < 1
    assert [row["strict classes"] for row in rows] == [3, 3]
    assert rows[1]["lacks"] == "light" and rows[0]["lacks"] == ""
    assert "b lacks light." in comparison_table(rows)
    assert rows[1]["segmentation difference"] < 0
    # mIoU is over the labelled classes, of which the second run has lost one.
    assert [row["segmentation classes"] for row in rows] == [4, 4]
    # Nor do the pictures: the same pixels change.
    changes = [viewer.changes(run, 0, 2) for run in viewer.runs]
    np.testing.assert_array_equal(changes[0], changes[1])
    assert [clip.pairs for clip in viewer.runs[0].scores.first.clips] == [
        clip.pairs for clip in viewer.runs[1].scores.first.clips
    ]


def test_painting_over_with_no_class_makes_no_figure_steadier(scored, world, tmp_path):
    """Half of the poor class stays: both runs have the same classes, on other pixels."""

    def holes(label: np.ndarray, number: int) -> np.ndarray:
        ids = noisy(label, number)
        return np.where((ids == POOR) & (np.arange(64) % 2 == 0), np.uint8(255), ids)

    runs = [scored("a", noisy, "images.lst"), scored("b", holes, "images.lst")]
    found = common_classes(runs)
    assert not any(found.lacking.values()) and not found.same_pixels
    _, rows = compared(runs, settings_of(world, tmp_path / "a", "images.lst"))
    assert_nothing_is_called_steadier(rows)
    assert rows[0]["set aside"] > 0.001 and rows[1]["set aside"] == 0
    assert "are set aside in all of them" in comparison_table(rows).replace("\n", " ")


def test_a_class_without_labels_is_painted_over_but_for_one_pixel(scored, world, tmp_path):
    """Both runs have the class, so that their own classes are the same; no label has it."""

    def bus(label: np.ndarray, number: int) -> np.ndarray:
        ids = label.copy()
        ids[np.random.default_rng(number).random(SHAPE) < 0.02] = 3
        return ids

    def almost_none(label: np.ndarray, number: int) -> np.ndarray:
        ids = label.copy()
        ids[20, 30] = 3
        return ids

    runs = [scored("a", bus), scored("b", almost_none)]
    _, rows = compared(runs, settings_of(world, tmp_path / "a"))
    assert_nothing_is_called_steadier(rows)
    assert rows[0]["without label"] == "bus" and "labelled nowhere: bus." in comparison_table(rows)
    assert [row["segmentation classes"] for row in rows] == [4, 4]


def test_runs_without_a_common_class_have_nothing_to_compare(scored, world, tmp_path):
    runs = [scored(name, lambda label, number, k=k: np.full(SHAPE, k, np.uint8)) for name, k in (("a", 0), ("b", 1))]
    _, rows = compared(runs, settings_of(world, tmp_path / "a"))
    assert all(math.isnan(row[key]) for row in rows for key in ("strict", "pixel_consistency", "flicker"))
    assert math.isnan(rows[1]["strict difference"]) and rows[0]["set aside"] == 1
    text = comparison_table(rows)
    assert "a lacks sky." in text and "b lacks road." in text


def test_runs_of_the_same_classes_keep_the_figures_of_their_files(scored, world, tmp_path):
    runs = [scored("a", noisy), scored("b", lambda label, number: noisy(label, number + 100))]
    viewer, rows = compared(runs, settings_of(world, tmp_path / "a"))
    assert viewer.runs is runs
    for run, row in zip(runs, rows, strict=True):
        for metric in METRICS:
            np.testing.assert_equal(row[metric.key], run.scores.first.figure(metric))
    assert "lacks" not in comparison_table(rows) and "set aside" not in comparison_table(rows)


def test_the_script_compares_over_the_common_classes(scored, world, tmp_path, capsys):
    scored("a", noisy)
    scored("b", painted(ROAD))
    out = tmp_path / "out"
    assert run_script("compare", "--runs", f"a={tmp_path}/a", f"b={tmp_path}/b", "--out", out, "--clips", "1") == 0
    printed = capsys.readouterr().out
    assert "b lacks light." in printed and "set aside in all of them" in printed.replace("\n", " ")
    first, second = json.loads((out / "comparison.json").read_text())
    assert second["strict difference"] == 0 == second["pixel_consistency difference high"]
    assert first["own strict classes"] == 4 and second["own strict classes"] == 3
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "b lacks light." in page
    (low, high) = (page.split(f"{name} <small>")[1].split("%")[0] for name in ("</span>a", "</span>b"))
    assert low == high  # the share of the pixels that change


def test_predictions_with_values_of_their_own_are_read_as_they_were_scored(scored, world, tmp_path):
    def tens(label: np.ndarray, number: int) -> np.ndarray:
        return noisy(label, number) * np.uint8(10)

    plain = scored("plain", noisy)
    run = scored("tens", tens, "clips.lst", "TEST.prediction_ids={0: 0, 10: 1, 20: 2, 40: 4}")
    viewer = ClipViewer([plain, run], settings_of(world, tmp_path / "plain"))
    np.testing.assert_array_equal(viewer.prediction(run, 1, 2), viewer.prediction(plain, 1, 2))


def test_scores_of_predictions_that_were_made_anew_are_refused(scored, world, tmp_path, capsys):
    runs = [scored("a", noisy), scored("b", painted(ROAD))]
    file = sorted((tmp_path / "b/video/gray").iterdir())[3]
    write_png(file, np.full(SHAPE, 2, np.uint8))
    message = r"b/tc\.json is of other predictions than .*b/video/gray holds now: score them again with tool"
    with pytest.raises(UserError, match=message):
        ClipViewer(runs, settings_of(world, tmp_path / "a"))
    words = [f"a={tmp_path}/a", f"b={tmp_path}/b", "--out", f"{tmp_path}/out"]
    assert run_script("compare", "--runs", *words) == 2
    assert "is of other predictions than" in capsys.readouterr().err
    assert not (tmp_path / "out/comparison.json").exists()
