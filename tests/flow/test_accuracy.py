"""End-point error and Fl-all against a loop over the pixels; finding pairs; pictures; the script."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.images import read_image, write_png
from etc.errors import UserError
from etc.flow.accuracy import (
    FlowErrors,
    accuracy_table,
    find_pairs,
    flow_errors,
    flow_picture,
    save_accuracy,
    score_flow,
)
from etc.flow.estimators import build_flow
from etc.flow.files import data_set_flow, frames_of_flow, write_flo, write_kitti
from tests.scripts import run

REPOSITORY = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 24, 32


class Constant:
    """Gives the same vector everywhere."""

    name, key = "constant", "constant-1"

    def __init__(self, u=1.0, v=0.0):
        self.vector = torch.tensor([u, v])

    def estimate(self, rgb_t, rgb_k):
        return self.vector.view(1, 2, 1, 1).expand(1, 2, *rgb_t.shape[-2:])


def frames(*paths, size=(HEIGHT, WIDTH)):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), noise)
    return paths


def constant_flow(u, v, size=(HEIGHT, WIDTH)):
    return np.stack([np.full(size, u), np.full(size, v)]).astype(np.float32)


def chairs(folder, number="00001", flow=(1.0, 0.0)):
    frames(folder / f"{number}_img1.ppm", folder / f"{number}_img2.ppm")
    write_flo(folder / f"{number}_flow.flo", constant_flow(*flow))


# ---------------------------------------------------------------------------------------------------------- figures


def loop_errors(flow, truth, valid):
    """KITTI's definition, pixel by pixel."""
    total, outliers, motion, pixels = 0.0, 0, 0.0, 0
    for i in range(valid.shape[0]):
        for j in range(valid.shape[1]):
            if not valid[i, j]:
                continue
            (u, v), (true_u, true_v) = (map(float, plane[:, i, j]) for plane in (flow, truth))
            error = math.sqrt((u - true_u) ** 2 + (v - true_v) ** 2)
            length = math.sqrt(true_u**2 + true_v**2)
            total, motion, pixels = total + error, motion + length, pixels + 1
            outliers += error > 3 and error > 0.05 * length
    return total, outliers, motion, pixels


@pytest.mark.parametrize("reach", [2, 20, 200])
def test_errors_are_those_of_the_loop(reach):
    rng = np.random.default_rng(reach)
    truth = rng.normal(0, reach, (2, 17, 23)).astype(np.float32)
    flow = truth + rng.normal(0, 4, truth.shape).astype(np.float32)
    valid = rng.random((17, 23)) < 0.7
    truth[:, ~valid] = 1.7e9  # Middlebury's mark of unknown flow
    errors = flow_errors(flow, truth, valid)
    expected = loop_errors(flow, truth, valid)
    assert errors == pytest.approx(expected, rel=1e-12) and errors.outliers == expected[1]
    assert 0 < errors.outliers < errors.pixels
    assert errors.scores() == pytest.approx(
        {
            "epe": expected[0] / expected[3],
            "fl_all": expected[1] / expected[3],
            "motion": expected[2] / expected[3],
            "pixels": expected[3],
        }
    )


@pytest.mark.parametrize(
    ("error", "length", "outlier"), [(3.0, 1, 0), (3.01, 1, 1), (5.0, 100, 0), (5.01, 100, 1), (2.9, 1, 0), (4, 81, 0)]
)
def test_an_outlier_is_off_by_more_than_3_pixels_and_5_percent(error, length, outlier):
    truth, flow = constant_flow(length, 0, (1, 1)), constant_flow(length, error, (1, 1))
    assert flow_errors(flow, truth, np.ones((1, 1), bool)).outliers == outlier


def test_an_estimate_that_is_not_finite_or_of_another_size_is_an_error():
    truth, valid = constant_flow(0, 0), np.ones((HEIGHT, WIDTH), bool)
    broken = truth.copy()
    broken[0, 3, 4] = np.nan
    with pytest.raises(ValueError, match="not finite at 1 of 768"):
        flow_errors(broken, truth, valid)
    valid[3, 4] = False
    assert flow_errors(broken, truth, valid).pixels == 767
    with pytest.raises(ValueError, match="differ in size"):
        flow_errors(truth[:, 1:], truth, valid)
    with pytest.raises(ValueError, match="no pixel"):
        FlowErrors(0.0, 0, 0.0, 0).scores()


def test_pairs_are_pooled_by_their_valid_pixels(tmp_path):
    chairs(tmp_path, "00001", (3.0, 0.0))
    frames(tmp_path / "k/frame1.png", tmp_path / "k/frame2.png", size=(HEIGHT, 8))
    valid = np.zeros((HEIGHT, 8), bool)
    valid[:4] = True
    write_kitti(tmp_path / "k/flow_gt.png", constant_flow(1, 8, (HEIGHT, 8)), valid)
    result = score_flow(Constant(1, 0), find_pairs(tmp_path))
    assert [(row["pair"], row["epe"], row["fl_all"], row["pixels"]) for row in result["pairs"]] == [
        ("00001_flow", 2.0, 0.0, HEIGHT * WIDTH),
        ("k/flow_gt", 8.0, 1.0, 32),
    ]
    assert result["epe"] == pytest.approx((768 * 2 + 32 * 8) / 800) and result["fl_all"] == 32 / 800
    assert result["estimator"] == "constant-1"


def test_dis_on_flyingchairs_scores_what_the_loop_and_opencv_give(real_data):
    folder = real_data / "flow_gt/flyingchairs"
    pair = next(pair for pair in find_pairs(folder) if pair.name == "00001_flow")
    row = score_flow(build_flow("dis"), [pair])["pairs"][0]
    gray = [cv2.imread(str(folder / f"00001_img{i}.ppm"), cv2.IMREAD_GRAYSCALE) for i in (1, 2)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*gray, None)
    truth = cv2.readOpticalFlow(str(folder / "00001_flow.flo"))
    error = np.linalg.norm(flow.astype(float) - truth, axis=2)
    assert row["epe"] == pytest.approx(error.mean(), rel=0.01)  # 2.70 px; OpenCV's own gray differs in last bits
    outliers = (error > 3) & (error / np.linalg.norm(truth, axis=2) > 0.05)
    assert row["fl_all"] == pytest.approx(outliers.mean(), rel=0.02)


# ---------------------------------------------------------------------------------------------------------- folders


def test_all_layouts_are_found_in_and_below_a_folder(tmp_path):
    chairs(tmp_path / "chairs")
    frames(tmp_path / "mini/frame1.png", tmp_path / "mini/frame2.png")
    write_kitti(tmp_path / "mini/flow_gt.png", constant_flow(1, 0))
    frames(tmp_path / "kitti/image_2/000007_10.png", tmp_path / "kitti/image_2/000007_11.png")
    write_kitti(tmp_path / "kitti/flow_occ/000007_10.png", constant_flow(1, 0))
    frames(*(tmp_path / f"city/leftImg8bit/val/x/x_000000_00000{i}_leftImg8bit.png" for i in (4, 5)))
    write_kitti(tmp_path / "city/flow/val/x/x_000000_000005_to_000004_flow.png", constant_flow(1, 0))
    pairs = {pair.name: (pair.image_t, pair.image_k) for pair in find_pairs(tmp_path)}
    city = tmp_path / "city/leftImg8bit/val/x"
    assert pairs == {
        "chairs/00001_flow": (tmp_path / "chairs/00001_img1.ppm", tmp_path / "chairs/00001_img2.ppm"),
        "mini/flow_gt": (tmp_path / "mini/frame1.png", tmp_path / "mini/frame2.png"),
        "kitti/flow_occ/000007_10": tuple(tmp_path / f"kitti/image_2/000007_{i}.png" for i in (10, 11)),
        "city/flow/val/x/x_000000_000005_to_000004_flow": tuple(
            city / f"x_000000_00000{i}_leftImg8bit.png" for i in (5, 4)
        ),
    }
    assert [pair.name for pair in find_pairs(tmp_path / "city/flow/val")] == ["x/x_000000_000005_to_000004_flow"]


@pytest.mark.parametrize(
    ("stem_t", "stem_k"), [("0016E5_07959", "0016E5_07961"), ("Seq05VD_f00030", "Seq05VD_f00000"), ("000003", "000004")]
)
def test_frames_of_flow_is_the_inverse_of_data_set_flow(tmp_path, stem_t, stem_k):
    pair = frames(tmp_path / f"{stem_t}.jpg", tmp_path / f"{stem_k}.jpg")
    path = tmp_path / f"flow/{stem_t}_to_{stem_k.rpartition('_')[2]}_flow.flo"
    write_flo(path, constant_flow(1, 0))
    assert data_set_flow(*pair) == path and frames_of_flow(path) == pair
    pair[1].unlink()
    assert frames_of_flow(path) is None


def test_the_rendered_world_is_scored_at_its_valid_pixels(tiny_world):
    pairs = find_pairs(tiny_world / "flow/val")
    assert len(pairs) == 2 * 29 * 2
    result = score_flow(build_flow("dis"), pairs[:4])
    valid = sum(int((cv2.imread(str(p.truth), cv2.IMREAD_UNCHANGED)[:, :, 0] > 0).sum()) for p in pairs[:4])
    assert result["pixels"] == valid < 4 * 64 * 128
    assert result["epe"] < result["motion"]


def test_a_folder_without_pairs_and_truth_without_frames_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        find_pairs(tmp_path / "nowhere")
    frames(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"holds no pair of frames with true flow; expected .*FlyingChairs"):
        find_pairs(tmp_path)
    chairs(tmp_path)
    (tmp_path / "00001_img2.ppm").unlink()
    with pytest.raises(UserError, match=r"00001_flow\.flo: its two frames are missing"):
        find_pairs(tmp_path)


def test_frames_of_another_size_and_truth_without_valid_pixels_are_named(tmp_path):
    chairs(tmp_path)
    frames(tmp_path / "00001_img2.ppm", size=(HEIGHT, 30))
    with pytest.raises(UserError, match=r"00001_img2\.ppm is 30x24, its true flow .*00001_flow\.flo is 32x24"):
        score_flow(Constant(), find_pairs(tmp_path))
    chairs(tmp_path, flow=(2e9, 0))
    with pytest.raises(UserError, match=r"00001_flow\.flo: no pixel of the true flow is valid"):
        score_flow(Constant(), find_pairs(tmp_path))


# --------------------------------------------------------------------------------------------------------- pictures


def panels(picture):
    """The four pictures of two rows, without captions and gaps."""
    bar = (picture.shape[0] - 4) // 2 - HEIGHT
    rows = [slice(bar, bar + HEIGHT), slice(2 * bar + HEIGHT + 4, None)]
    return [picture[row, column] for row in rows for column in (slice(0, WIDTH), slice(WIDTH + 4, None))]


def test_the_picture_shows_both_flows_on_one_scale_and_the_error():
    frame = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    truth, valid = constant_flow(8, 0), np.ones((HEIGHT, WIDTH), bool)
    valid[:4] = False
    shown, true_colours, colours, error = panels(flow_picture(frame, constant_flow(4, 0), truth, valid))
    assert np.array_equal(shown, frame)
    assert (true_colours[:4] == 255).all() and len(np.unique(true_colours[4:].reshape(-1, 3), axis=0)) == 1
    # Right is red on the colour wheel; half the vector is half as saturated.
    assert true_colours[9, 9].tolist()[0] == 255 and true_colours[9, 9].tolist()[2] < 5
    assert colours[9, 9, 0] == 255 and 110 < colours[9, 9, 2] < 145
    assert (error[:4] == 0).all() and abs(int(error[9, 9, 0]) - 0.4 * 255) <= 1


def test_one_wild_vector_leaves_the_other_colours_alone():
    frame, valid = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.ones((HEIGHT, WIDTH), bool)
    truth, wild = constant_flow(8, 0), constant_flow(4, 0)
    calm = flow_picture(frame, wild, truth, valid)
    wild[:, 0, 0] = 5000
    assert np.array_equal(panels(calm)[2][1:], panels(flow_picture(frame, wild, truth, valid))[2][1:])


# ----------------------------------------------------------------------------------------------------------- script


def test_the_script_prints_and_writes_the_figures_and_pictures(tmp_path, capsys):
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (96, 160, 3), dtype=np.uint8), (0, 0), 2)
    for name, x in (("00001_img1", 8), ("00001_img2", 6)):  # the content moves by 2 pixels to the right
        write_png(tmp_path / f"data/{name}.png", np.ascontiguousarray(texture[:, x : x + 128]))
    write_flo(tmp_path / "data/00001_flow.flo", constant_flow(2, 0, (96, 128)))
    words = ["--pairs", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "FLOW.name", "dis"]
    assert run("eval_flow", *words, "--pictures", str(tmp_path / "pictures")) == 0
    result = json.loads((tmp_path / "out/data_dis-medium.json").read_text())
    assert result["epe"] < 0.2 and result["motion"] == 2 and result["pairs"][0]["pair"] == "00001_flow"
    assert f"{result['epe']:.3f}" in capsys.readouterr().out
    assert read_image(tmp_path / "pictures/00001_flow_accuracy.png").shape[1] == 2 * 128 + 4
    assert run("eval_flow", *words, "FLOW.scale=0.5") == 0
    assert (tmp_path / "out/data_dis-medium-x0.5.json").is_file()
    assert load_settings(tmp_path / "out/data_dis-medium-x0.5_settings.yaml").FLOW.scale == 0.5
    # Another folder of the same last name does not take the place of this one.
    capsys.readouterr()
    shutil.copytree(tmp_path / "data", tmp_path / "other/data")
    assert run("eval_flow", "--pairs", str(tmp_path / "other/data"), *words[2:]) == 2
    assert f"holds the figures of {tmp_path}/data: give another --out" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/data_dis-medium.json").read_text()) == result


def test_the_script_scores_dis_where_the_settings_read_the_truth(tiny_training, tmp_path, capsys):
    assert run("eval_flow", *tiny_training, "--max-pairs", "2", "--out", str(tmp_path / "out")) == 0
    text = capsys.readouterr().out
    assert text.startswith("dis-medium\n") and "all 2 pairs" in text
    words = ["FLOW.preset=fast", "FLOW.scale=0.5", "--max-pairs", "1", "--out", str(tmp_path / "out")]
    assert run("eval_flow", *tiny_training, *words) == 0
    assert capsys.readouterr().out.startswith("dis-fast-x0.5\n")


def test_the_script_refuses_wrong_words_in_one_line(tmp_path, capsys):
    assert run("eval_flow", "--pairs", str(tmp_path / "gone")) == 2
    assert "gone is not a folder" in capsys.readouterr().err
    assert run("eval_flow", "--max-pairs", "0") == 2
    assert "--max-pairs 0: expected 1 or more" in capsys.readouterr().err


def test_a_long_table_is_cut_and_the_file_is_not(tmp_path):
    for number in range(1, 6):
        chairs(tmp_path, f"{number:05d}", (number, 0))
    result = score_flow(Constant(0, 0), find_pairs(tmp_path))
    text = accuracy_table(result, rows=2)
    assert "00002_flow" in text and "00003_flow" not in text and "all 5 pairs" in text and " 3.000 " in text
    save_accuracy(result, tmp_path / "x.json", folder=tmp_path, settings=load_settings(None, []))
    assert len(json.loads((tmp_path / "x.json").read_text())["pairs"]) == 5
