"""The runs of a study: in order, each once, going on where they stopped."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from etc.config import TOOLKIT
from etc.errors import UserError
from etc.study import runs
from etc.study.plan import Study

RESULTS = Path("results")


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    monkeypatch.chdir(tmp_path)
    return Study(
        name="s",
        config=str(TOOLKIT / "configs/quickstart.yaml"),
        seeds=[0, 1],
        start={"TRAIN.epochs": 1},
        baseline="a",
        variants={"a": {"TRAIN.st_weight": 0}, "b": {}},
    )


@pytest.fixture
def called(monkeypatch) -> list[tuple[str, str]]:
    """The scripts that are called, each with its folder; nothing is computed."""
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(runs, "_script", lambda tool, study, words, folder, threads: calls.append((tool, str(folder))))
    counts = {"strict": np.ones((2, 3, 4), np.int64), "segmentation": np.full((2, 3, 4), 5)}
    first = SimpleNamespace(figure=lambda metric: 0.5, name="dis", stride=1, results={"pixel_consistency": 0.75})
    wider = SimpleNamespace(name="dis", stride=5, results={"pixel_consistency": 0.5})
    scores = SimpleNamespace(
        first=first, by_flow=[first, wider], clip_counts=counts, interval_parts=(2, "segments of the clip")
    )
    monkeypatch.setattr(runs, "regions_per_frame", lambda settings: len(settings.TEST.save_folder))
    monkeypatch.setattr(runs, "write_filtered", lambda c, settings, folder: calls.append((str(c), str(folder))))
    monkeypatch.setattr(runs, "read_clip_scores", lambda folder: scores)
    return calls


def test_the_starts_come_first_and_seed_by_seed_every_run_is_trained_predicted_and_scored(study, called):
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    steps = ("train_with_flow", "gen_video", "eval_tc")
    expected = [("train_with_flow", f"exp/study/s/start/seed{seed}") for seed in (0, 1)]
    for seed in (0, 1):
        expected += [(t, f"exp/study/s/{v}/seed{seed}") for v in ("a", "b") for t in steps]
    assert called == expected
    assert [(run.variant, run.seed) for run in runs.read_runs(study, RESULTS)] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
    ]


@pytest.mark.parametrize("read", ["{folder}/start/seed{seed}/last.pth", "{folder}/start/seed1/last.pth"])
def test_a_run_waits_for_the_starts_that_it_needs(study, called, monkeypatch, read):
    """Two at a time: the start of one seed is still at work while the other's is done, and a place is free."""
    of_others, begun, ended = "{seed}" not in read, threading.Event(), []

    def script(tool, study, words, folder, threads):
        if folder.parent.name != "start":
            ended.append(folder.name)
            begun.set()
        elif folder.name == "seed1":
            assert begun.wait(0.3) != of_others  # the runs of seed 0 begin where they read their own start alone
            ended.append("start")

    monkeypatch.setattr(runs, "_script", script)
    variants = {"a": {"TRAIN.weight": None}, "b": {"DISTILL.teacher_weight": read}}
    runs.run_all(study.model_copy(update={"variants": variants}), "s.yaml", RESULTS, jobs=2)
    first = ended[: ended.index("start")]
    assert "seed1" not in first and ("seed0" in first) != of_others and len(ended) == 13


def test_a_study_that_failed_goes_on_with_what_is_not_done(study, called, monkeypatch):
    record = runs._script

    def fail_late(tool, study, words, folder, threads):
        record(tool, study, words, folder, threads)
        if (tool, str(folder)) == ("eval_tc", "exp/study/s/b/seed0"):
            raise UserError("disk full")

    monkeypatch.setattr(runs, "_script", fail_late)
    with pytest.raises(UserError, match="disk full"):
        runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    assert [(run.variant, run.seed) for run in runs.read_runs(study, RESULTS)] == [("a", 0)]
    called.clear()
    monkeypatch.setattr(runs, "_script", record)
    runs.run_all(study, "s.yaml", RESULTS, jobs=2)
    assert {folder for _, folder in called if "start" not in folder} == {
        f"exp/study/s/{run}" for run in ("b/seed0", "a/seed1", "b/seed1")
    }
    assert len(runs.read_runs(study, RESULTS)) == 4


def test_some_variants_alone_are_run_and_an_unknown_one_is_refused(study, called):
    with pytest.raises(UserError, match="a, which the figures compare with, is not done: name it too"):
        runs.run_all(study, "s.yaml", RESULTS, jobs=1, only=["b"])
    runs.run_all(study, "s.yaml", RESULTS, jobs=1, only=["a"])
    assert [(run.variant, run.seed) for run in runs.read_runs(study, RESULTS)] == [("a", 0), ("a", 1)]
    runs.run_all(study.model_copy(update={"seeds": [1]}), "s.yaml", RESULTS, jobs=1, only=["b"])
    assert len(runs.read_runs(study, RESULTS)) == 3
    with pytest.raises(UserError, match=r"s\.yaml has no variant c: name one of its variants \(a, b\)"):
        runs.run_all(study, "s.yaml", RESULTS, jobs=1, only=["b", "c"])
    study = study.model_copy(update={"controls": {"c": (3, 1, 1)}})
    with pytest.raises(UserError, match="has no variant c: name a, which c is made with"):
        runs.run_all(study, "s.yaml", RESULTS, jobs=1, only=["c"])


def test_a_figure_that_does_not_exist_is_null_in_the_file_and_nan_again(study, called, monkeypatch):
    monkeypatch.setattr(runs, "regions_per_frame", lambda settings: float("nan"))
    runs.run_all(study, "s.yaml", RESULTS, jobs=1, only=["a"])
    lines = (RESULTS / "s_runs.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all('"regions":null' in line and "NaN" not in line for line in lines)
    assert all(np.isnan(run.figures["regions"]) for run in runs.read_runs(study, RESULTS))


def test_a_study_goes_on_without_the_folders_of_its_runs(study, called):
    runs.run_all(study.model_copy(update={"seeds": [0]}), "s.yaml", RESULTS, jobs=1)
    shutil.rmtree("exp", ignore_errors=True)
    called.clear()
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    assert {folder for _, folder in called} == {f"exp/study/s/{name}/seed1" for name in ("start", "a", "b")}
    kept = runs.read_runs(study, RESULTS)
    assert len(kept) == 4 and kept[0].strict == np.ones((2, 3, 4)).tolist()


def test_a_variant_that_learns_from_all_starts_has_them_on_another_machine_too(study, called):
    teachers = ["{folder}/start/seed0/last.pth", "{folder}/start/seed1/last.pth"]
    study = study.model_copy(update={"variants": {"a": {}, "b": {"DISTILL.teacher_weight": teachers}}})
    runs.run_all(study.model_copy(update={"seeds": [0]}), "s.yaml", RESULTS, jobs=1)
    called.clear()
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    assert called[:2] == [("train_with_flow", f"exp/study/s/start/seed{seed}") for seed in (0, 1)]
    assert study.settings("b", 0).DISTILL.teacher_weights == [t.format(folder="exp/study/s") for t in teachers]


def test_a_control_that_predicts_with_all_starts_has_them_on_another_machine_too(study, called):
    control = {"TEST.ckpt_path": ["{folder}/start/seed0/last.pth", "{folder}/start/seed1/last.pth"]}
    study = study.model_copy(update={"controls": {"c": control}})
    runs.run_all(study.model_copy(update={"seeds": [0], "controls": {}}), "s.yaml", RESULTS, jobs=1)
    runs.run_all(study.model_copy(update={"controls": {}}), "s.yaml", RESULTS, jobs=1)
    called.clear()
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    assert called[:2] == [("train_with_flow", f"exp/study/s/start/seed{seed}") for seed in (0, 1)]


def test_controls_are_made_from_the_baseline_of_each_seed(study, called):
    study = study.model_copy(update={"seeds": [0], "controls": {"c": (3, 1, 1)}})
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    out = "exp/study/s/c/seed0"
    assert called[4:6] == [("(3, 1, 1)", f"{out}/result/video/gray"), ("eval_tc", out)]
    base, control, other = runs.read_runs(study, RESULTS)
    assert (base.variant, control.variant, other.variant) == ("a", "c", "b")
    assert control.figures["regions"] == len(f"{out}/result") and control.changed_by_flow == {"dis": 0.25}
    assert base.figures["regions"] == len("exp/study/s/a/seed0/result")


def test_a_control_with_settings_of_a_prediction_is_predicted_and_scored(study, called):
    study = study.model_copy(update={"seeds": [0], "controls": {"c": {"TEST.flip": True}}})
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    assert called[4:6] == [("gen_video", "exp/study/s/c/seed0"), ("eval_tc", "exp/study/s/c/seed0")]
    assert [run.variant for run in runs.read_runs(study, RESULTS)] == ["a", "c", "b"]


def test_a_control_that_is_added_later_needs_the_baseline_again_and_keeps_its_line(study, called):
    study = study.model_copy(update={"seeds": [0]})
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    called.clear()
    more = study.model_copy(update={"controls": {"c": "constant"}})
    runs.run_all(more, "s.yaml", RESULTS, jobs=1)
    assert ("gen_video", "exp/study/s/a/seed0") in called
    assert [run.variant for run in runs.read_runs(more, RESULTS)] == ["a", "b", "c"]


def test_a_run_says_what_it_was_scored_on_and_how_much_changes_at_the_first_stride(study, called):
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    for run in runs.read_runs(study, RESULTS):
        assert run.changed_by_flow == {"dis": 0.25} and run.counted_in == "segments of the clip"


def test_runs_that_go_on_while_another_one_fails_are_kept(study, called, monkeypatch):
    both, failed = threading.Barrier(2, timeout=60), threading.Event()

    def run_one(study, variant, seed, threads, *, after):
        both.wait()
        if variant == "a":
            failed.set()
            raise UserError("disk full")
        assert failed.wait(60)
        return [finished(variant, seed)]

    def finished(variant, seed):
        fingerprint = study.fingerprint(variant, seed)
        return runs.FinishedRun(variant, seed, fingerprint, {}, {}, [[[1]]], [[[1]]], 1.0)

    monkeypatch.setattr(runs, "_run", run_one)
    with pytest.raises(UserError, match="disk full"):
        runs.run_all(study, "s.yaml", RESULTS, jobs=2)
    assert [(run.variant, run.seed) for run in runs.read_runs(study, RESULTS)] == [("b", 0)]


def test_a_file_of_runs_that_was_edited_without_a_last_newline_gets_one(study, called):
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    path = runs.runs_file(study, RESULTS)
    path.write_text("\n".join(path.read_text().splitlines()[:3]))
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    assert len(runs.read_runs(study, RESULTS)) == 4


def test_a_run_of_other_settings_is_not_taken_for_that_of_the_plan(study, called):
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    changed = study.model_copy(update={"variants": {"a": {"TRAIN.st_weight": 0}, "b": {"TRAIN.st_weight": 3}}})
    with pytest.raises(UserError, match="variant b with seed 0 was run with other settings"):
        runs.read_runs(changed, RESULTS)


def test_a_damaged_line_is_named(study, called):
    runs.run_all(study, "s.yaml", RESULTS, jobs=1)
    path = runs.runs_file(study, RESULTS)
    path.write_text(path.read_text() + json.dumps({"variant": "a"}) + "\n")
    with pytest.raises(UserError, match=r"s_runs.jsonl, line 5, is no run"):
        runs.read_runs(study, RESULTS)


def test_a_script_that_fails_is_named_with_its_last_line_and_its_log(study, tmp_path):
    with pytest.raises(UserError) as error:
        runs._script("eval_tc", study, ["TEST.nothing=1"], tmp_path / "run", 1)
    assert "tool/eval_tc.py failed with exit code 2: " in str(error.value) and "TEST.nothing" in str(error.value)
    assert "$ python tool/eval_tc.py --config" in (tmp_path / "run/log.txt").read_text()


def test_a_study_that_is_ended_ends_the_scripts_that_it_runs(study, monkeypatch):
    """Two at a time: one ends the process, the other would sleep for a minute."""
    started, ended = threading.Barrier(2), []

    def run(study, variant, seed, threads, *, after):
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as script:
            runs._waited_for.add(script)
            started.wait()
            if variant == "a":
                script.terminate()
                raise SystemExit(143)
            ended.append(script.wait())

    monkeypatch.setattr(runs, "_run", run)
    with pytest.raises(SystemExit):
        runs.run_all(study.model_copy(update={"start": None, "seeds": [0]}), "s.yaml", RESULTS, jobs=2)
    runs._waited_for.clear()
    assert ended == [-signal.SIGTERM]
