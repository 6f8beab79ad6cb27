"""A video with cuts, and a folder with gaps, score as the clips that they consist of."""

import json

import numpy as np
import pytest

from etc.config import load_settings, with_changes
from etc.data.images import read_label, write_png
from etc.evaluate.clips import score_clips
from etc.evaluate.results import read_clip_scores
from etc.evaluate.tables import clip_table
from etc.report.clip_views import ClipViewer
from etc.report.runs import Run
from tests.data.test_cuts import scene, view

LENGTH = 3


def predicted(picture: np.ndarray) -> np.ndarray:
    """Classes 0, 1, 2 by the brightness of a picture: they move with it."""
    return np.digitize(picture[:, :, 1], (100, 156)).astype(np.uint8)


def write_scene(folder, seed: int, numbers: list[int]) -> None:
    """Frames of one scene that moves, and their predictions."""
    for step, number in enumerate(numbers):
        picture = view(scene(seed), 2 * step, 128)
        write_png(folder / "frames" / f"{number:03d}.png", picture)
        write_png(folder / "masks" / f"{number:03d}.png", predicted(picture))


def score(folder, *words):
    given = [f"TEST.frames={folder}/frames", f"TEST.predictions={folder}/masks", f"TEST.save_folder={folder}/result"]
    given += [f"FLOW.cache={folder}/cache", "FLOW.name=dis", "FLOW.preset=ultrafast", "DATA.synthetic=false"]
    given += ["DATA.classes=3", "DATA.names_path=" + str(folder / "names.txt"), "TEST.prediction_ids=train"]
    given += ["FLOW.occlusion=false"]  # the check of forward and backward flow would drop most pixels of a cut
    given += [f"DATA.colors_path={folder}/colors.txt"]
    (folder / "colors.txt").write_text("255 0 0\n0 255 0\n0 0 255\n")
    (folder / "names.txt").write_text("low\nmiddle\nhigh\n")
    settings = load_settings(None, [*given, *words])
    result = score_clips(settings)
    result.save(settings.TEST.save_folder)
    return result


@pytest.fixture
def scenes(tmp_path):
    """A video of four scenes, and the strict counts of the scenes scored alone, without a search for cuts."""
    alone = 0
    for i in range(4):
        numbers = list(range(LENGTH * i, LENGTH * (i + 1)))
        write_scene(tmp_path / "video", 30 + i, numbers)
        write_scene(tmp_path / f"alone{i}", 30 + i, numbers)
        alone = alone + score(tmp_path / f"alone{i}", "DATA.cuts=keep").clip_counts["strict"].sum(0)
    return tmp_path / "video", alone


def test_a_video_with_cuts_scores_as_its_scenes(scenes):
    folder, alone = scenes
    result = score(folder)
    assert result.cuts == ["003", "006", "009"] and result.gaps == []
    assert result.clips == ["000", "003", "006", "009"]
    assert result.first.scored == 4 * (LENGTH - 1)
    np.testing.assert_array_equal(result.clip_counts["strict"].sum(0), alone)
    written = json.loads((folder / "result" / "tc.json").read_text())
    assert written["cuts"] == {"count": 3, "frames": ["003", "006", "009"]}
    assert written["gaps"] == {"count": 0, "frames": []}
    assert read_clip_scores(folder / "result").cuts == result.cuts
    (row,) = [line for line in clip_table(result).splitlines() if line.startswith("cuts ")]
    assert row.split() == ["cuts", "3", "new", "clips", "at", "003,", "006,", "009"]
    kept = score(folder, "DATA.cuts=keep")
    assert kept.cuts == [] and kept.clips == ["000"] and kept.first.scored == 4 * LENGTH - 1
    assert kept.first.results["strict"]["mIoU"] < result.first.results["strict"]["mIoU"] - 0.1
    assert "cuts" not in clip_table(kept)


def test_triples_and_strides_do_not_reach_over_a_cut(scenes):
    folder, _ = scenes
    result = score(folder, "TEST.strides=[1, 2]")
    assert [scores.scored for scores in result.by_flow] == [4 * (LENGTH - 1), 4 * (LENGTH - 2)]
    assert score(folder, "DATA.cuts=keep").first.results["flicker"] > 10 * result.first.results["flicker"]


def test_five_frames_with_a_gap_are_three_pairs(tmp_path):
    write_scene(tmp_path, 40, [0, 1, 2, 7, 8])
    result = score(tmp_path)
    assert result.first.scored == 3 and result.gaps == ["007"] and result.clips == ["000", "007"]
    (row,) = [line for line in clip_table(result).splitlines() if line.startswith("gaps ")]
    assert row.split() == ["gaps", "1", "new", "clips", "at", "007"]
    kept = score(tmp_path, "DATA.gaps=keep")
    assert kept.first.scored == 4 and kept.gaps == [] and "gaps" not in clip_table(kept)


def test_a_single_frame_between_gaps_is_a_clip_without_pairs(tmp_path):
    write_scene(tmp_path, 41, [0, 1, 2, 3, 7])
    result = score(tmp_path)
    assert result.first.scored == 3 and [len(clip.pairs) for clip in result.first.clips] == [3, 0]


def test_every_fifth_frame_has_no_gap(tmp_path):
    write_scene(tmp_path, 42, [0, 5, 10, 15])
    result = score(tmp_path)
    assert result.first.scored == 3 and result.gaps == [] and result.clips == ["000"]


def test_pictures_of_a_scoring_show_the_parts_that_were_scored(scenes):
    folder, _ = scenes
    result = score(folder)
    run = Run("one", folder / "result", result, None, None)
    # What the comparison itself is told does not matter: clips and pixels count as they did in the scoring.
    told = with_changes(
        result.settings,
        DATA={"cuts": "keep", "label_map": "void_zero"},
        FLOW={"occlusion": not result.settings.FLOW.occlusion},
        TRAIN={"ignore_label": 1},
    )
    viewer = ClipViewer([run], told)
    assert viewer.settings == result.settings
    assert [len(clip) for clip in viewer.clips] == [LENGTH] * 4
    for index, t in ((0, 0), (2, 1), (3, 2)):
        expected = read_label(folder / "masks" / f"{LENGTH * index + t:03d}.png")
        np.testing.assert_array_equal(viewer.prediction(run, index, t), expected)
