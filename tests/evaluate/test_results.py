"""Result files: what they hold is what was counted, and a value that does not exist is empty."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.evaluate.results import ClipScores, clip_counts, read_result, write_csv, write_json
from etc.metrics import iou_counts, iou_scores, mean_iou


@pytest.mark.parametrize("convention", ["present", "published"])
def test_totals_of_classes_give_the_miou_of_the_counts(convention):
    counts = torch.randint(0, 5, (6, 6), generator=torch.Generator().manual_seed(0))
    counts[2] = counts[:, 2] = 0  # a class that does not occur
    assert mean_iou(iou_counts(counts).numpy(), convention) == pytest.approx(iou_scores(counts, convention)["mIoU"])


def test_totals_without_a_pixel_have_no_miou():
    assert math.isnan(mean_iou(np.zeros((3, 4), np.int64), "published"))


def test_counts_of_the_clips_come_back_from_the_file_and_add_up_to_its_figure(tmp_path):
    tables = torch.randint(0, 9, (5, 19, 19), generator=torch.Generator().manual_seed(1))
    whole = iou_scores(tables.sum(0))
    figures = {"judge": "dis", "stride": 1, "strict": whole, "published": whole}
    result = ClipScores(figures=figures, clips=[], counts={"strict": tables}, settings=load_settings())
    result.save(tmp_path)
    read = clip_counts(read_result(tmp_path / "tc.json"), "strict")
    assert read.shape == (5, 3, 19)
    assert mean_iou(read.sum(0)) == pytest.approx(whole["mIoU"])


def test_csv_leaves_absent_values_empty(tmp_path):
    write_csv(tmp_path / "rows.csv", [["a", "b"], [math.nan, 0.5]])
    with open(tmp_path / "rows.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["a", "b"], ["", "0.5"]]


def test_json_keeps_lists_of_numbers_on_one_line_and_other_lists_as_they_are(tmp_path):
    content = {"numbers": [1, -2.5, 1e-7, math.nan], "rows": [[1, 2], [3, 4]], "words": ["[ 1,\n 2 ]"], "none": []}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert '"numbers": [1, -2.5, 1e-07, null]' in text
    assert json.loads(text) == {**content, "numbers": [1, -2.5, 1e-7, None]}
