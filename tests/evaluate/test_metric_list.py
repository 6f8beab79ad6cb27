"""A metric of one's own: an accumulator and one entry of the list, and it is everywhere.

Follows the recipe of CONTRIBUTING.md.
"""

import csv
import json

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.images import write_png
from etc.data.lists import prediction_names
from etc.data.sources import clips_to_score
from etc.evaluate.metric_list import METRICS, ClipMetric, metrics_of
from etc.metrics.warping import warp_labels
from tests.scripts import run


def share(counts: np.ndarray) -> float:
    kept, counted = counts
    return float(kept / counted) if counted else float("nan")


class KeptClass:
    """Share of the pixels that keep their class along the flow; ``counts`` is ``[kept, counted]``."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64)

    def update(self, ids_t, ids_next, flow, valid=None) -> None:
        (warped,) = warp_labels([torch.from_numpy(ids_next)], [torch.from_numpy(flow)], [None], ignore=255).numpy()
        counted = (ids_t != 255) & (warped != 255)
        if valid is not None:
            counted &= valid
        self.counts += torch.tensor([np.count_nonzero(counted & (ids_t == warped)), np.count_nonzero(counted)])

    def compute(self) -> float:
        return share(self.counts.numpy())


@pytest.fixture
def metric():
    """One more entry of the list."""
    entry = ClipMetric("kept_class", "pixels of steady class", KeptClass, "pair", note="a new one", statistic=share)
    METRICS.append(entry)
    yield entry
    METRICS.remove(entry)


@pytest.fixture
def runs(tiny_training, tmp_path) -> dict[str, list[str]]:
    """Predictions of two runs, a column of classes with more noise in the second; the overrides that score them."""
    found, random = {}, np.random.default_rng(0)
    for name, noise in (("calm", 0.1), ("wild", 0.3)):
        found[name] = [*tiny_training, f"TEST.save_folder={tmp_path}/{name}"]
        frames = [frame for clip in clips_to_score(load_settings(None, found[name])) for frame in clip]
        for stem in prediction_names(frames):
            ids = np.where(random.random((64, 128)) < noise, 11, np.arange(128) // 16)
            write_png(tmp_path / name / "video/gray" / f"{stem}.png", ids.astype(np.uint8))
    return found


def line_of(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return line.removeprefix(label).split()


@pytest.mark.slow
def test_a_new_entry_is_scored_and_shown_everywhere(metric, runs, tmp_path, capsys):
    figures = []
    for name, overrides in runs.items():
        assert run("eval_tc", *overrides) == 0
        tc = json.loads((tmp_path / name / "tc.json").read_text())
        figures.append(tc["kept_class"])
        assert tc["kept_class"] == tc["strict"]["allAcc"]  # the same share, of strict's own counts
        assert len(tc["clip_counts"]["kept_class"]) == len(tc["clips"]) == 2
        assert tc["kept_class_interval"] == sorted(clip["kept_class"] for clip in tc["clips"])
        assert line_of(capsys.readouterr().out, metric.label)[0] == f"{100 * figures[-1]:.2f}"
        with open(tmp_path / name / "tc.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [float(row["kept_class"]) for row in rows if row["kind"] == "all"] == [figures[-1]]
        assert [float(row["kept_class"]) for row in rows if row["kind"] == "clip"] == [
            clip["kept_class"] for clip in tc["clips"]
        ]
    assert 0.4 < figures[1] < figures[0] < 0.9

    out = tmp_path / "comparison"
    folders = [f"{name}={tmp_path / name}" for name in runs]
    assert run("compare", "--full", "--runs", *folders, "--out", out, *runs["calm"]) == 0
    shown = [f"{100 * figure:.2f}" for figure in figures]
    assert line_of(capsys.readouterr().out, metric.label) == shown
    with open(out / "comparison.csv", newline="") as stream:
        calm, wild = csv.DictReader(stream)
    assert [float(row["kept_class"]) for row in (calm, wild)] == figures
    assert float(wild["kept_class difference"]) == pytest.approx(figures[1] - figures[0])
    assert float(wild["kept_class difference high"]) < 0 and calm["kept_class difference"] == ""
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"<td>{metric.label}</td><td>{shown[0]}</td><td>{shown[1]}</td>" in page


def test_names_of_metrics_are_unique():
    assert len({metric.key for metric in METRICS}) == len({metric.label for metric in METRICS}) == len(METRICS)


def test_a_need_that_there_is_not_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the metric mine needs 'pairs': expected one of pair, dequantised pair, "):
        ClipMetric("mine", "mine", KeptClass, needs="pairs")


def test_two_metrics_of_one_key_are_refused(metric):
    assert metrics_of([])
    METRICS.append(metric)
    try:
        with pytest.raises(ValueError, match="2 metrics have the key kept_class"):
            metrics_of([])
    finally:
        METRICS.pop()


@pytest.mark.parametrize(
    ("needs", "counts", "message"),
    [
        ("pair", torch.zeros(2), r"the metric mine: its counts are torch.float32 \(2,\), expected an int64 tensor"),
        ("pair", np.zeros(2, np.int64), "its counts are ndarray, expected an int64 tensor"),
        ("pair", torch.ones(2, dtype=torch.int64), "expected an int64 tensor, zero at first"),
        ("labelled clip", torch.zeros(2, dtype=torch.int64), "lacks the attribute overlap"),
    ],
)
def test_an_accumulator_that_cannot_be_added_up_is_refused_by_name(needs, counts, message):
    class Mine(KeptClass):
        def __init__(self, classes):
            self.counts = counts

    with pytest.raises(TypeError, match=message):
        ClipMetric("mine", "mine", Mine, needs).accumulator(3)
