"""The figures of a study against loops over classes, and intervals against a closed form."""

import json
import math

import numpy as np
import pytest

from etc.config import TOOLKIT
from etc.errors import UserError
from etc.metrics.bootstrap import nested_interval
from etc.study import summary
from etc.study.plan import Study
from etc.study.runs import FinishedRun

CLASSES, CLIPS = 3, 4


def study() -> Study:
    return Study(
        name="s",
        config=str(TOOLKIT / "configs/quickstart.yaml"),
        seeds=[0, 1],
        baseline="a",
        variants={"a": {}, "b": {}},
    )


def counts(seed: int, kept: float) -> np.ndarray:
    """Hits, row and column sums ``[CLIPS, 3, CLASSES]``; class 2 is predicted but never labelled."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(50, 100, (CLIPS, CLASSES))
    rows[:, 2] = 0
    hits = np.floor(kept * rows).astype(np.int64)
    wrong = rows - hits
    columns = hits + np.roll(wrong, 1, axis=1)
    return np.stack([hits, rows, columns], axis=1)


@pytest.fixture
def scored():
    """Two variants with two seeds each; b keeps more pixels and is as accurate."""
    tables = {("a", s): (counts(s, 0.8), counts(10 + s, 0.6)) for s in (0, 1)}
    tables |= {("b", s): (counts(s, 0.9), counts(10 + s, 0.6)) for s in (0, 1)}

    figures = dict.fromkeys(("strict", "boundary", "flicker", "vc8_correct", "regions"), 0.5)
    changed = {("a", 0): 0.2, ("a", 1): 0.1, ("b", 0): 0.1, ("b", 1): 0.08}
    runs = [
        FinishedRun(*which, "", figures, {"dis": changed[which]}, *(kept.tolist() for kept in pair), 1.0)
        for which, pair in tables.items()
    ]
    return tables, runs


def test_the_figures_equal_loops_over_seeds_and_classes(scored):
    tables, runs = scored
    before, after = summary.rows_of(study(), runs)
    changed, miou = [], []
    for seed in (0, 1):
        strict, segmentation = (table.sum(0) for table in tables["a", seed])
        changed.append(sum(strict[1][k] - strict[0][k] for k in range(CLASSES)) / sum(strict[1]))
        ious = []
        for k in range(CLASSES):
            hits, rows, columns = (int(segmentation[i][k]) for i in range(3))
            if rows:
                ious.append(hits / (rows + columns - hits))
        miou.append(sum(ious) / len(ious))
    assert 1 - before.pixel_consistency == pytest.approx(np.mean(changed))
    assert before.miou == pytest.approx(np.mean(miou))
    assert before.spread_miou == pytest.approx(np.std(miou, ddof=1))
    assert after.delta_miou == pytest.approx((0, 0, 0))
    mean, low, high = after.delta_changed_pixels_relative
    assert mean == pytest.approx(-0.5, abs=0.05) and low <= mean <= high < 0
    assert after.changed_relative_by_flow == pytest.approx({"dis": (-0.5 - 0.2) / 2})
    assert before.changed_relative_by_flow == {}
    assert (before.seeds, before.clips) == ([0, 1], CLIPS) and math.isnan(before.delta_miou[0])


def test_a_difference_is_over_the_seeds_that_both_have(scored):
    tables, runs = scored
    _, after = summary.rows_of(study(), [run for run in runs if (run.variant, run.seed) != ("a", 1)])
    strict_a, strict_b = tables["a", 0][0].sum(0), tables["b", 0][0].sum(0)
    changed = [1 - strict[0].sum() / strict[1].sum() for strict in (strict_a, strict_b)]
    assert after.delta_changed_pixels_relative[0] == pytest.approx(changed[1] / changed[0] - 1)
    assert after.seeds == [0, 1]


def test_a_row_is_compared_with_the_variant_that_the_plan_names(scored):
    _, runs = scored
    other = study().model_copy(update={"variants": {"a": {}, "b": {}, "c": {}}, "against": {"c": "b"}})
    third = [FinishedRun(**{**run.__dict__, "variant": "c"}) for run in runs if run.variant == "b"]
    a, b, c = summary.rows_of(other, [*runs, *third])
    assert (a.against, b.against, c.against) == ("", "a", "b")
    assert c.delta_changed_pixels_relative == pytest.approx((0, 0, 0))
    assert c.changed_relative_by_flow == {"dis": 0} and b.delta_changed_pixels_relative[0] < -0.4


def test_a_reference_that_changes_no_pixel_and_runs_without_labels_leave_figures_out(scored):
    _, runs = scored
    still = [
        FinishedRun(**{**r.__dict__, "changed_by_flow": {"dis": 0.0}, "segmentation": [[[0] * 3] * 3] * 4})
        for r in runs
    ]
    before, after = summary.rows_of(study(), still)
    assert summary.cells(before)[2] == "-" and summary.cells(after)[7] == "-"
    assert "nan" not in summary.table([before, after])


def test_one_clip_in_segments_is_one_clip(scored):
    _, runs = scored
    of_one = [FinishedRun(**{**run.__dict__, "counted_in": "segments of the clip"}) for run in runs]
    assert [row.clips for row in summary.rows_of(study(), runs)] == [CLIPS, CLIPS]
    assert [row.clips for row in summary.rows_of(study(), of_one)] == [1, 1]
    with pytest.raises(UserError, match="scored on different clips"):
        summary.rows_of(study(), [*runs[:2], *of_one[2:]])


def test_without_a_run_of_the_baseline_there_is_nothing_to_compare_with(scored):
    _, runs = scored
    with pytest.raises(UserError, match="no run of the baseline a is done yet"):
        summary.rows_of(study(), [run for run in runs if run.variant == "b"])


def test_the_rows_of_other_studies_stay_in_the_summary(scored, tmp_path):
    _, runs = scored
    (tmp_path / "summary.json").write_text(
        json.dumps([{"study": "other", "variant": "x"}, {"study": "s", "variant": "old"}])
    )
    summary.write_summary(summary.rows_of(study(), runs), "s", tmp_path)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert [(row["study"], row["variant"]) for row in written] == [("other", "x"), ("s", "a"), ("s", "b")]
    assert written[1]["delta_miou"] == [None, None, None] and len(written[2]["delta_miou"]) == 3


def test_a_summary_that_no_study_wrote_is_left_alone(scored, tmp_path):
    (tmp_path / "summary.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="is no summary of studies"):
        summary.write_summary([], "s", tmp_path)
    assert (tmp_path / "summary.json").read_text() == '{"mine": 1}'


def test_the_nested_interval_holds_the_spread_of_seeds_and_of_clips():
    """A difference of means with known variances: between seeds, and between clips within a seed."""
    rng = np.random.default_rng(1)
    seeds, clips = 40, 50
    a = [np.zeros((clips, 1), np.int64) for _ in range(seeds)]
    b = [np.rint(1000 * (rng.normal() + rng.normal(size=(clips, 1)))).astype(np.int64) for _ in range(seeds)]
    low, high = nested_interval(a, b, lambda x, y: float(y[0] - x[0]) / (1000 * clips), samples=2000)
    # The bootstrap of two levels: Var = (between + within / clips) / seeds, plus once more within / (seeds clips).
    means = [each.mean() / 1000 for each in b]
    expected = math.sqrt(np.var(means) / seeds + np.mean([each.var() for each in b]) / 1e6 / clips / seeds)
    assert (high - low) / (2 * 1.96) == pytest.approx(expected, rel=0.06)


def test_systems_of_other_seeds_or_clips_have_no_interval():
    one, two = np.ones((2, 1), np.int64), np.ones((3, 1), np.int64)
    for first, second in (([one], [one, one]), ([one], [two])):
        with pytest.raises(ValueError, match="the same seeds and the same clips"):
            nested_interval(first, second, lambda a, b: 0.0)
    assert all(map(math.isnan, nested_interval([one[:1]], [one[:1]], lambda a, b: 0.0)))


def test_the_nested_interval_leaves_out_clips_without_counts():
    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 1000, (2, 3, 5))
    padded = [[np.pad(seed, (0, 7)) for seed in system] for system in (a, b)]

    def more(x: np.ndarray, y: np.ndarray) -> float:
        return float(y - x)

    low, high = nested_interval(list(a), list(b), more)
    assert nested_interval(*padded, more) == (low, high) and low < high
