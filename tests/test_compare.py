"""What is put side by side: the flicker map against a loop, the table, the files."""

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from etc.compare import Run, comparison_table, flicker_map, heat, read_run, save_comparison
from etc.config import UserError


class FixedFlow:
    """The same flow for every pair, with some pixels hidden."""

    def __init__(self, flow: np.ndarray, valid: np.ndarray) -> None:
        self.flow, self.valid = flow, valid

    def with_validity(self, path_t, path_k, shape):
        return self.flow, self.valid


def test_flicker_map_equals_the_loop():
    random = np.random.default_rng(0)
    predictions = list(random.integers(0, 3, (4, 6, 7), dtype=np.uint8))
    flow = random.normal(0, 2, (2, 6, 7)).astype(np.float32)
    valid = random.random((6, 7)) < 0.8
    expected = np.zeros((6, 7))
    for before, after in itertools.pairwise(predictions):
        for y in range(6):
            for x in range(7):
                tx, ty = math.floor(x + flow[0, y, x] + 0.5), math.floor(y + flow[1, y, x] + 0.5)
                if valid[y, x] and 0 <= tx < 7 and 0 <= ty < 6:
                    expected[y, x] += before[y, x] != after[ty, tx]
    paths = [Path(f"{t}.png") for t in range(4)]
    np.testing.assert_allclose(flicker_map(predictions, paths, FixedFlow(flow, valid)), expected / 3)
    assert expected.any()


def test_heat_is_black_where_nothing_changes_and_bright_where_all_does():
    picture = heat(np.array([[0.0, 0.5, 1.0]]))
    assert picture.dtype == np.uint8 and picture.shape == (1, 3, 3)
    assert picture[0, 0].max() < 5 and picture[0, 1].min() > 100
    np.testing.assert_array_equal(picture[0, 1], picture[0, 2])


TC = {
    "strict": {"mIoU": 0.7},
    "strict_interval": [0.65, 0.75],
    "boundary": {"mIoU": 0.5},
    "flicker": 0.01,
    "vc8_correct": 0.6,
    "published": {"mIoU": 0.3},
    "ceiling": None,
}


@pytest.fixture
def runs(tmp_path):
    tc = TC | {"ceiling": math.nan}
    return [Run(name, tmp_path, tc, {"mIoU": 0.25}) for name in ("baseline", "etc")]


def test_the_table_fits_a_terminal_and_shows_absent_figures_as_such(runs):
    lines = comparison_table(runs).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[2].split()[:3] == ["baseline", "25.00", "70.00"]
    assert lines[-1].split()[:4] == ["ground", "truth", "100", "-"]


def test_files_hold_the_figures(runs, tmp_path):
    save_comparison(runs, tmp_path)
    rows = json.loads((tmp_path / "comparison.json").read_text())
    assert rows[1]["run"] == "etc" and rows[1]["TC"] == 0.7
    with open(tmp_path / "comparison.csv", newline="") as stream:
        assert [float(row["flicker"]) for row in csv.DictReader(stream)] == [0.01, 0.01]


def test_scores_of_two_checkpoints_in_one_folder_are_refused(tmp_path):
    (tmp_path / "tc.json").write_text(json.dumps(TC | {"predictions": {"checkpoint_sha256": "aa"}}))
    (tmp_path / "miou.json").write_text(json.dumps({"mIoU": 0.25, "checkpoint_sha256": "bb"}))
    with pytest.raises(UserError, match=r"tc\.json and miou\.json are of different checkpoints"):
        read_run("etc", tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "tc.json").write_text("{}")
    (tmp_path / "miou.json").write_text("{}")
    with pytest.raises(UserError, match="was not written by this version"):
        read_run("etc", tmp_path)
