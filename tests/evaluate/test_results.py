"""Result files: what they hold is what was counted, and a value that does not exist is empty."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.errors import UserError
from etc.evaluate.metric_list import METRICS, classes_averaged
from etc.evaluate.results import (
    ClipFigures,
    ClipScores,
    ConstantControl,
    FlowScores,
    read_clip_scores,
    write_csv,
    write_json,
)
from etc.evaluate.tables import clip_table
from etc.metrics import iou_counts, iou_scores, mean_iou


@pytest.mark.parametrize("convention", ["present", "published"])
def test_totals_of_classes_give_the_miou_of_the_counts(convention):
    counts = torch.randint(0, 5, (6, 6), generator=torch.Generator().manual_seed(0))
    counts[2] = counts[:, 2] = 0  # a class that does not occur
    assert mean_iou(iou_counts(counts).numpy(), convention) == pytest.approx(iou_scores(counts, convention)["mIoU"])


def test_totals_without_a_pixel_have_no_miou():
    assert math.isnan(mean_iou(np.zeros((3, 4), np.int64), "published"))


def scores_of(segmentation: torch.Tensor) -> ClipScores:
    """Scores of clips with these confusion counts, int64 ``[clips, K, K]``, whatever the metric; 19 classes."""
    clips, classes = segmentation.shape[:2]
    counts = {metric.key: metric.build(classes).counts for metric in METRICS}
    counts = {key: segmentation if own.ndim == 2 else own.repeat(clips, 1) for key, own in counts.items()}
    results = {metric.key: metric.compute(classes, counts[metric.key].sum(0)) for metric in METRICS}
    figures = {metric.key: metric.figure(results[metric.key]) for metric in METRICS}
    intervals = {metric.key: (0.25, 0.75) for metric in METRICS if metric.statistic}
    averaged = {key: classes_averaged(result) for key, result in results.items() if isinstance(result, dict)}
    rows = [ClipFigures(figures, [0.5, math.nan], averaged) for _ in range(clips)]
    flows = [FlowScores(name, 1, name, results, intervals, 0.9, clips, clips, rows) for name in ("dis", "raft_small")]
    return ClipScores(
        frames_sha256="f" * 64,
        classes=[f"class {k}" for k in range(classes)],
        clips=[f"clip {i}" for i in range(clips)],
        by_flow=flows,
        constant=ConstantControl(3, 0.25),
        predictions={"ids": "train"},
        clip_counts={m.key: m.kept(counts[m.key]).numpy() for m in METRICS if m.statistic and not m.counts_of},
        settings=load_settings(),
    )


def test_scores_come_back_from_their_files(tmp_path):
    scores = scores_of(torch.randint(0, 9, (5, 19, 19), generator=torch.Generator().manual_seed(1)))
    scores.save(tmp_path)
    read = read_clip_scores(tmp_path)
    assert (read.classes, read.clips, read.constant, read.predictions, read.settings) == (
        (scores.classes, scores.clips, scores.constant, scores.predictions, scores.settings)
    )
    assert len(read.by_flow) == 2 and read.frames_sha256 == "f" * 64
    for own, wanted in zip(read.by_flow, scores.by_flow, strict=True):
        np.testing.assert_equal(vars(own), vars(wanted))  # NaN equals NaN


def test_counts_of_the_clips_come_back_from_the_file_and_add_up_to_its_figure(tmp_path):
    tables = torch.randint(0, 9, (5, 19, 19), generator=torch.Generator().manual_seed(1))
    scores_of(tables).save(tmp_path)
    read = read_clip_scores(tmp_path).clip_counts["strict"]
    assert read.shape == (5, 3, 19) and read.dtype == np.int64
    assert mean_iou(read.sum(0)) == pytest.approx(iou_scores(tables.sum(0))["mIoU"])


def test_a_result_of_an_older_version_asks_to_be_scored_again_in_one_line(tmp_path):
    scores_of(torch.ones(2, 19, 19, dtype=torch.int64)).save(tmp_path)
    tc = json.loads((tmp_path / "tc.json").read_text())
    tc["ceiling"] = tc.pop("ground_truth")["mIoU"]
    del tc["flow_settings"]
    (tmp_path / "tc.json").write_text(json.dumps(tc))
    message = (
        r"tc\.json was not written by this version of the toolkit \(no 'ground_truth'\): score it again with tool/"
    )
    with pytest.raises(UserError, match=message) as caught:
        read_clip_scores(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_number_of_classes_stands_beside_every_mean_and_few_pixels_are_marked(tmp_path):
    counts = torch.zeros(2, 19, 19, dtype=torch.int64)
    counts[:, 0, 0], counts[:, 1, 1], counts[0, 2, 1] = 5000, 2000, 3  # class 2: 3 of 14003 pixels
    scores = scores_of(counts)
    scores.save(tmp_path)
    tc = json.loads((tmp_path / "tc.json").read_text())
    assert tc["strict"]["mIoU_classes"] == 3 and tc["published"]["mIoU_classes"] == 19
    assert tc["clips"][0]["classes"]["strict"] == 3
    with open(tmp_path / "tc.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["strict_classes"] for row in rows if row["kind"] in ("all", "clip")] == ["3"] * 6
    assert float(rows[1 + 2]["pixel_share"]) == pytest.approx(3 / 14003)
    lines = clip_table(scores).splitlines()
    assert sum(line.startswith("TC strict") and line.endswith(", 3 classes") for line in lines) == 1
    marked = [line for line in lines if line.endswith(" few")]
    assert [line.split()[:2] for line in marked] == [["class", "2"]] and " 0.021 " in marked[0]
    assert any(line.startswith("few: less than 0.1% of the pixels that strict counts") for line in lines)


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
