"""What is put side by side: paired differences, the table, the files, and which runs may be compared."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.errors import UserError
from etc.evaluate.metric_list import METRICS
from etc.evaluate.results import ClipFigures, ClipScores, ConstantControl, FlowScores
from etc.report.comparison import (
    CORE,
    WIDTH,
    compare,
    comparison_table,
    core_rows,
    footnotes,
    format_rows,
    save_comparison,
)
from etc.report.cost import Cost
from etc.report.runs import Run, check_comparable, named_runs, read_run, settings_of

CPU = torch.device("cpu")
CLIPS = 8


def totals(hits: np.ndarray, pixels: int = 1000) -> np.ndarray:
    """Hits, row and column sums of two classes for clips with these shares of hits, ``[clips, 3, 2]``."""
    hit = np.round(hits * pixels).astype(int)
    both = np.full_like(hit, pixels)
    return np.stack([np.stack([hit, hit], 1), np.stack([both, both], 1), np.stack([both, both], 1)], 1)


TESTED = {
    **{"checkpoint_sha256": "aa", "frames": 10, "frames_sha256": "f" * 64},
    "predictor": {"mode": "whole", "scales": [1.0], "flip": False, "base_size": 0},
    "labels": {"label_map": "cityscapes"},
}


def scored(hits: np.ndarray, *overrides: str) -> ClipScores:
    """Scores of clips with these shares of hits: IoU is h / (2 - h) in each class."""
    counts = totals(hits)
    share = counts[:, 0].sum() / counts[:, 1].sum()
    iou = share / (2 - share)
    pixels = counts[:, 1:].sum(0).max(0).tolist()
    whole = {"mIoU": iou, "iou": [iou, iou], "pixels": sum(pixels), "mIoU_classes": 2, "class_pixels": pixels}
    absent = {"mIoU": math.nan, "iou": [math.nan, math.nan], "pixels": 0, "mIoU_classes": 0, "class_pixels": [0, 0]}
    results = dict.fromkeys(("strict", "boundary", "published", "segmentation"), whole) | {"ground_truth": absent}
    results |= {"pixel_consistency": share, "frequency_weighted_tc": iou}
    results |= {"flicker": 0.01, "vc8_vspw": 0.7, "vc8_correct": 0.6, "vc16_vspw": math.nan, "vc16_correct": math.nan}
    means = [key for key, result in results.items() if isinstance(result, dict)]
    first = FlowScores(
        name="dataset",
        stride=1,
        flow="dataset",
        results=results,
        intervals={metric.key: (iou - 0.05, iou + 0.05) for metric in METRICS if metric.statistic},
        coverage=0.9,
        scored=2 * len(hits),
        skipped=0,
        clips=[ClipFigures(dict.fromkeys(results, h / (2 - h)), [0.5, 0.6], dict.fromkeys(means, 2)) for h in hits],
    )
    return ClipScores(
        classes=["road", "sky"],
        clips=[f"clip{i}" for i in range(len(hits))],
        by_flow=[first],
        constant=ConstantControl(0, 0.5),
        predictions={"ids": "train"},
        clip_counts=dict.fromkeys(("strict", "published", "segmentation"), counts),
        settings=load_settings(None, list(overrides)),
    )


def scored_run(name: str, hits: np.ndarray, tmp_path, *overrides: str, miou: float | None = 0.25) -> Run:
    tested = None if miou is None else {"mIoU": miou, "iou": [miou] * 2, "accuracy": [miou] * 2, **TESTED}
    return Run(name, tmp_path, scored(hits, *overrides), tested, None)


def changed_run(hits: np.ndarray, tmp_path, **changes) -> Run:
    run = scored_run("b", hits, tmp_path)
    first = dataclasses.replace(run.scores.first, **changes)
    return dataclasses.replace(run, scores=dataclasses.replace(run.scores, by_flow=[first]))


def run_of_frames(hits: np.ndarray, tmp_path, frames: str | None, name: str = "b") -> Run:
    run = scored_run(name, hits, tmp_path)
    return dataclasses.replace(run, scores=dataclasses.replace(run.scores, frames_sha256=frames))


@pytest.fixture
def hits() -> np.ndarray:
    """Clips that differ much more from each other than two runs on the same clip."""
    return np.linspace(0.3, 0.9, CLIPS)


@pytest.fixture
def runs(hits, tmp_path) -> list[Run]:
    return [scored_run("baseline", hits, tmp_path), scored_run("etc", hits + 0.01, tmp_path)]


def test_a_small_gain_on_every_clip_is_seen_though_the_clips_differ_widely(runs):
    _, row = compare(runs, {}, CPU)
    share = (0.6, 0.61)  # of the pixels of all clips: IoU is h / (2 - h)
    assert row["strict difference"] == pytest.approx(share[1] / (2 - share[1]) - share[0] / (2 - share[0]))
    assert 0 < row["strict difference low"] <= row["strict difference"] <= row["strict difference high"] < 0.03
    assert row["strict high"] - row["strict low"] > 0.09


def test_a_gain_on_half_of_the_clips_and_a_loss_on_the_others_is_no_difference(hits, tmp_path):
    mixed = hits + np.where(np.arange(CLIPS) % 2, 0.05, -0.05)
    _, row = compare([scored_run("a", hits, tmp_path), scored_run("b", mixed, tmp_path)], {}, CPU)
    assert row["strict difference low"] < 0 < row["strict difference high"]
    assert not any("*" in text for _, texts in format_rows([row]) for text in texts)


def test_the_first_run_differs_from_nothing(runs):
    row, _ = compare(runs, {}, CPU)
    assert math.isnan(row["strict difference"]) and math.isnan(row["segmentation difference low"])


def test_differences_are_over_the_classes_that_both_runs_have_in_every_draw(tmp_path):
    """By hand: of three classes the second run lacks the last one, and on the second clip the second one."""
    a = np.array([[[80, 50, 10], [100, 100, 50], [100, 100, 50]], [[60, 20, 10], [100, 50, 50], [100, 50, 50]]])
    b = np.array([[[90, 40, 0], [100, 100, 0], [100, 100, 0]], [[60, 0, 0], [100, 0, 0], [100, 0, 0]]])
    runs = [scored_run(name, np.full(2, 0.5), tmp_path) for name in "ab"]
    runs = [with_strict(run, counts) for run, counts in zip(runs, (a, b), strict=True)]

    def iou(counts, k):
        return counts[0, k] / (counts[1, k] + counts[2, k] - counts[0, k])

    def gain(one, other, classes):
        return np.mean([iou(other, k) for k in classes]) - np.mean([iou(one, k) for k in classes])

    first, row = compare(runs, {}, CPU)
    assert row["strict difference"] == pytest.approx(gain(a.sum(0), b.sum(0), (0, 1)))
    draws = [gain(2 * a[0], 2 * b[0], (0, 1)), gain(a.sum(0), b.sum(0), (0, 1)), gain(2 * a[1], 2 * b[1], (0,))]
    assert row["strict difference low"] == pytest.approx(min(draws))
    assert row["strict difference high"] == pytest.approx(max(draws))
    assert first["strict"] == pytest.approx(np.mean([iou(a.sum(0), k) for k in (0, 1)]))
    # The interval is of that figure, and not of the mean over all classes of the run.
    own = [np.mean([iou(counts, k) for k in (0, 1)]) for counts in (2 * a[0], a.sum(0))] + [iou(2 * a[1], 0)]
    assert (first["strict low"], first["strict high"]) == pytest.approx((min(own), max(own)))
    assert (first["strict classes"], first["lacks"], row["lacks"]) == (2, "", "car")
    assert first["own strict"] == pytest.approx(np.mean([iou(a.sum(0), k) for k in range(3)]))
    text = comparison_table([first, row])
    assert "b lacks car." in text and "cannot be compared: a 31.80 over 3, b 42.50 over 2." in text.replace("\n", " ")


def with_strict(run: Run, counts: np.ndarray) -> Run:
    """The run with these counts of strict TC, ``[clips, 3, 3]``, and no labels."""
    hits, rows, columns = counts.sum(0)
    union = rows + columns - hits
    iou = np.divide(hits, union, out=np.full(3, math.nan), where=union > 0)
    result = {"mIoU": np.nanmean(iou), "iou": iou.tolist(), "pixels": int(rows.sum()), "class_pixels": union.tolist()}
    result["mIoU_classes"] = int((union > 0).sum())
    unlabelled = result | {"mIoU": math.nan, "iou": [math.nan] * 3, "mIoU_classes": 0}
    results = run.scores.first.results | {"strict": result, "segmentation": unlabelled}
    first = dataclasses.replace(run.scores.first, results=results)
    changed = run.scores.clip_counts | {"strict": counts, "segmentation": np.zeros((2, 3, 3), np.int64)}
    scores = dataclasses.replace(run.scores, classes=["road", "sky", "car"], by_flow=[first], clip_counts=changed)
    return dataclasses.replace(run, scores=scores)


def test_miou_is_over_the_classes_that_have_labels(hits, tmp_path):
    """The second class of the test list is predicted and has no label: it must not lower one run alone."""
    runs = [scored_run(name, hits, tmp_path) for name in "ab"]
    for run, own in zip(runs, ([0.5, 0.0], [0.5, math.nan]), strict=True):
        run.miou.update(mIoU=np.nanmean(own), iou=own, accuracy=[0.6, math.nan])
    rows = compare(runs, {}, CPU)
    assert [(row["mIoU"], row["mIoU classes"]) for row in rows] == [(0.5, 1), (0.5, 1)]


def test_a_copy_of_a_run_differs_by_zero(hits, tmp_path):
    _, row = compare([scored_run("a", hits, tmp_path), scored_run("b", hits, tmp_path)], {}, CPU)
    assert [row[f"published difference{end}"] for end in ("", " low", " high")] == [0, 0, 0]


def test_lines_of_the_table_name_figures_and_leave_out_absent_ones(runs):
    cost = {"baseline": Cost(13_800_000, 14.46, (0.1, 0.2, 0.3)), "etc": Cost(13_800_000, 14.46)}
    found = dict(format_rows(compare(runs, cost, CPU)))
    assert found["mIoU, test list"] == ["25.00", "25.00"]
    assert found["TC strict"] == ["42.86", "43.88"]
    assert found["parameters, million"] == ["13.80", "13.80"]
    assert found["frames per second"] == ["5.00 (1.00x)", "-"] and found["latency p50, ms"] == ["200.0", "-"]
    assert "VC16 correct" not in found and "TC of the ground truth" not in found


def test_a_difference_that_is_more_than_chance_is_marked(runs):
    lines = comparison_table(compare(runs, {}, CPU)).splitlines()
    marked = [line for line in lines if line.strip().startswith("minus baseline, 95%")]
    assert len(marked) == 5 and all(line.endswith(" *") and "+1.0" in line for line in marked)


def test_differences_are_marked_by_the_clips_in_which_their_metric_counts(hits, tmp_path):
    runs = [scored_run(name, hits + more, tmp_path / name) for name, more in (("baseline", 0), ("etc", 0.01))]
    for run in runs:
        run.scores.clip_counts["strict"][2:] = 0
    rows = compare(runs, {}, CPU)
    assert rows[1]["strict difference parts"] == 2
    assert "TC strict: the interval is over the 2 clips in which anything counts." in footnotes(rows)
    difference = next(texts[1] for label, texts in format_rows(rows) if label == "  minus baseline, 95%")
    assert "(+" in difference and "*" not in difference


def test_the_terminal_has_few_lines_and_the_rate_of_each_run_over_that_of_the_first(runs):
    cost = {name: Cost(13_000_000, 14.5, (seconds,)) for name, seconds in (("baseline", 0.1), ("etc", 0.08))}
    rows = compare(runs, cost, CPU)
    lines = core_rows(rows)
    assert [label for label, _ in lines][:2] == ["pixel consistency", "  minus baseline, 95%"]
    assert {label for label, _ in lines} <= {"  minus baseline, 95%", *CORE} and len(lines) <= 9
    assert lines[-1] == ("frames per second", ["10.00 (1.00x)", "12.50 (1.25x)"])
    assert "classes averaged" not in comparison_table(rows, whole=False)
    assert "classes averaged" in comparison_table(rows)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_the_table_fits_a_terminal_and_holds_every_run(hits, tmp_path, count):
    runs = [scored_run(f"a run called number {i}", hits, tmp_path) for i in range(count)]
    text = comparison_table(compare(runs, {}, CPU))
    assert max(map(len, text.splitlines())) <= WIDTH == 100
    assert all(run.name in text for run in runs)


def test_notes_say_how_far_to_trust_the_figures(runs):
    rows = compare(runs, {"etc": Cost(1, 1.0, (0.1,))}, CPU)

    def notes(parts: int, word: str = "clips") -> str:
        return " ".join(footnotes([row | {"interval parts": parts, "intervals over": word} for row in rows]))

    assert "4 clips are few" in notes(4) and "are few" not in notes(40) and "on this machine" in notes(40)
    assert "One clip this short gives no interval" in notes(1)
    assert "There is one clip: its segments stand in for clips" in notes(10, "segments of the clip")


def test_files_hold_the_figures(runs, tmp_path):
    save_comparison(compare(runs, {}, CPU), tmp_path)
    rows = json.loads((tmp_path / "comparison.json").read_text())
    assert (
        rows[1]["run"] == "etc" and rows[1]["strict"] == pytest.approx(0.61 / 1.39) and rows[0]["ground_truth"] is None
    )
    with open(tmp_path / "comparison.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["flicker"]) for row in table] == [0.01, 0.01] and table[0]["ground_truth"] == ""


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda hits, path: scored_run("a", hits, path), "two runs are called a: give each a name"),
        (lambda hits, path: scored_run("b", hits[:3], path), r"scored on different clips \(8 and 3\)"),
        (lambda hits, path: changed_run(hits, path, flow="dis"), "a and b .* with different flow: dataset and dis"),
        (lambda hits, path: changed_run(hits, path, stride=5), "with different TEST.strides: 1 and 5"),
        (
            lambda hits, path: changed_run(hits, path, scored=9, skipped=7),
            "different pairs of frames, because of gaps: 16 and 9",
        ),
        (
            lambda hits, path: scored_run("b", hits, path, "FLOW.occlusion=false"),
            "with different FLOW.occlusion: True and False",
        ),
        (
            lambda hits, path: scored_run("b", hits, path, "DATA.label_map=none"),
            "with different DATA.label_map: cityscapes and none",
        ),
        (
            lambda hits, path: scored_run("b", hits, path, "TRAIN.ignore_label=1"),
            "with different TRAIN.ignore_label: 255 and 1",
        ),
        (
            lambda hits, path: changed_run(
                hits, path, results=scored(hits).first.results | {"ground_truth": {"mIoU": 1.0, "class_pixels": [9, 3]}}
            ),
            "a and b were scored with a flow of the same name, but their TC of the ground truth is of different pixels",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(hits, tmp_path, other, message):
    with pytest.raises(UserError, match=message):
        check_comparable([scored_run("a", hits, tmp_path), other(hits, tmp_path)])


def test_scores_of_other_frames_of_the_same_names_are_refused_where_both_say_which(hits, tmp_path):
    one = run_of_frames(hits, tmp_path, "e" * 64, name="a")
    with pytest.raises(UserError, match=r"on different frames or labels of the same names \(hashes e{12} and f{12}\)"):
        check_comparable([one, run_of_frames(hits, tmp_path, "f" * 64)])
    check_comparable([one, run_of_frames(hits, tmp_path, "e" * 64)])
    check_comparable([one, run_of_frames(hits, tmp_path, None)])  # of an earlier version


def test_where_flow_is_cached_makes_no_difference(hits, tmp_path):
    check_comparable([scored_run("a", hits, tmp_path), scored_run("b", hits, tmp_path, "FLOW.cache=elsewhere")])


def written(folder, hits, **changes) -> None:
    dataclasses.replace(scored(hits, "TEST.fps=5.0"), **changes).save(folder)


def test_a_run_is_read_with_the_settings_it_was_scored_with(hits, tmp_path):
    written(tmp_path, hits)
    run = read_run("etc", tmp_path)
    assert run.scores.settings.TEST.fps == 5 and run.miou is None and run.predicted_with is None
    assert load_settings(settings_of(str(tmp_path)), ["TEST.flip=true"]).TEST.fps == 5


def test_scores_of_two_checkpoints_in_one_folder_are_refused(hits, tmp_path):
    written(tmp_path, hits, predictions={"checkpoint_sha256": "aa"})
    (tmp_path / "miou.json").write_text(json.dumps({"mIoU": 0.25, **TESTED, "checkpoint_sha256": "bb"}))
    with pytest.raises(UserError, match=r"tc\.json and miou\.json are of different checkpoints"):
        read_run("etc", tmp_path)


def test_the_miou_of_a_network_beside_the_scores_of_plain_predictions_is_refused(hits, tmp_path):
    written(tmp_path, hits)
    (tmp_path / "miou.json").write_text(json.dumps({"mIoU": 0.25, "iou": [], "accuracy": [], **TESTED}))
    with pytest.raises(UserError, match=r"of predictions that name no checkpoint: run .* or remove miou\.json"):
        read_run("etc", tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frames": 8}, "numbers of frames: 10 and 8"),
        ({"frames_sha256": "e" * 64}, "frames or labels: ffffffffffff and eeeeeeeeeeee"),
        (
            {"labels": {"label_map": "none"}},
            r"settings of the labels: \{'label_map': 'cityscapes'\} and \{'label_map': 'none'\}",
        ),
    ],
)
def test_miou_of_other_frames_does_not_stand_in_one_row(hits, tmp_path, changed, message):
    one, untested, other = (scored_run(name, hits, tmp_path) for name in "abc")
    untested, other = dataclasses.replace(untested, miou=None), dataclasses.replace(other, miou=other.miou | changed)
    check_comparable([untested, one])
    with pytest.raises(UserError, match=rf"^the miou\.json of a and c come from tests with different {message}: run"):
        check_comparable([untested, one, other])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"flip": True}, "flip False, that of c with True"),
        ({"scales": [2.0]}, "scales [1.0], that of c with [2.0]"),
        ({"overlap": 0.5}, "overlap None, that of c with 0.5"),
    ],
)
def test_miou_of_another_way_to_predict_is_compared_with_a_warning(hits, tmp_path, caplog, changed, message):
    one, other = (scored_run(name, hits, tmp_path) for name in "ac")
    check_comparable([one, other])
    assert not caplog.records
    miou = other.miou | {"predictor": TESTED["predictor"] | changed}
    check_comparable([one, dataclasses.replace(other, miou=miou)])
    assert f"the mIoU of a was tested with {message}: it is not only the training that differs" in caplog.text


@pytest.mark.parametrize("lost", ["clip_counts", "clips", "strict", "published_interval", "flow", "pairs"])
def test_a_file_of_another_kind_is_refused(hits, tmp_path, lost):
    written(tmp_path, hits)
    tc = json.loads((tmp_path / "tc.json").read_text())
    del tc[lost]
    (tmp_path / "tc.json").write_text(json.dumps(tc))
    with pytest.raises(UserError, match="was not written by this version"):
        read_run("etc", tmp_path)


def test_settings_may_stand_behind_the_runs():
    words = ["a=x", "b=y=z", "TEST.device", "cpu", "FLOW.cache=s"]
    assert named_runs(words) == ([("a", "x"), ("b", "y=z")], words[2:])


@pytest.mark.parametrize("words", [["exp/a"], ["a="], ["=exp/a"], ["TEST.device=cpu"]])
def test_runs_need_a_name_and_a_place(words):
    with pytest.raises(UserError, match="--runs takes NAME=FOLDER or NAME=CHECKPOINT, got"):
        named_runs(words)


@pytest.mark.parametrize(("content", "message"), [(b"PK", "damaged or no checkpoint"), (None, "does not exist")])
def test_settings_of_a_file_that_is_no_checkpoint(tmp_path, content, message):
    if content is not None:
        (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        settings_of(str(tmp_path / "best.pth"))


def test_a_published_checkpoint_holds_no_settings(tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "old.pth")
    assert settings_of(str(tmp_path / "old.pth")) is None


def test_the_config_of_a_foreign_checkpoint_is_taken_for_no_settings(tmp_path):
    for number, config in enumerate(({"lr": 0.1}, {"optimizer": {"lr": 0.1}}, "SGD", {})):
        path = tmp_path / f"{number}.pth"
        torch.save({"config": config, "state_dict": {"weight": torch.zeros(2)}}, path)
        assert settings_of(str(path)) is None


def test_a_test_score_of_an_older_version_is_refused(hits, tmp_path):
    written(tmp_path, hits)
    (tmp_path / "miou.json").write_text(json.dumps({"mIoU": 0.25}))
    with pytest.raises(UserError, match=r"miou\.json was not written by this version: run tool/test\.py again"):
        read_run("etc", tmp_path)


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (None, r"--runs etc=\S+etc: there is no such folder, and it is no checkpoint"),
        ([], "is no result folder: it has no tc.json"),
        (["last.pth", "curves.png"], r"is the folder of a training: compare its network, --runs .*=.*last\.pth"),
        (["a/000.png"], r"holds predictions, not their scores: score them with tool/eval_tc\.py --frames FRAMES"),
        (["result/tc.json"], r"has no tc\.json, its result has: --runs etc=\S+result"),
        (["video/gray/000.png"], r"has no tc\.json: write it with tool/eval_tc\.py TEST\.save_folder"),
    ],
)
def test_a_folder_without_scores_is_answered_by_what_it_holds(tmp_path, files, advice):
    folder = tmp_path / "etc"
    for file in files or []:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    if files == []:
        folder.mkdir()
    with pytest.raises(UserError, match=advice):
        read_run("etc", folder)
