"""What a training leaves behind: log, curves and how it was called."""

import json
import subprocess
import sys

import cv2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import etc
from etc.display.curves import read_log
from etc.train.run_log import RunLog, draw_log, git_revision, record_call


def test_a_log_has_what_tensorboard_has_and_draws_it(tmp_path):
    log = RunLog(tmp_path, 0)
    log.add(5, {"loss/loss": 0.1, "learning_rate": 1e-7})
    log.add(10, {"loss/loss": 0.2, "validation/mIoU": float("nan")})
    log.close()
    draw_log(tmp_path)
    curves = read_log(tmp_path)
    assert curves["loss/loss"] == [(5, 0.1), (10, 0.2)] and curves["learning_rate"] == [(5, 1e-7)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/loss")] == [
        (5, pytest.approx(0.1)),
        (10, pytest.approx(0.2)),
    ]
    assert (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"\0\0\0\n"])
def test_a_damaged_log_stops_no_training_and_is_kept(tmp_path, caplog, damage):
    log = RunLog(tmp_path, 0)
    log.add(5, {"loss/loss": 0.1})
    log.close()
    for file in ("log.csv", "calls.jsonl"):
        with (tmp_path / file).open("ab") as stream:
            stream.write(damage)
    damaged = (tmp_path / "log.csv").read_bytes()
    log = RunLog(tmp_path, 5)
    log.add(10, {"loss/loss": 0.2})
    log.close()
    assert "log.csv is damaged" in caplog.text and "log.csv.damaged" in caplog.text
    assert (tmp_path / "log.csv.damaged").read_bytes() == damaged
    assert read_log(tmp_path) == {"loss/loss": [(10, 0.2)]}
    record_call(tmp_path, 5, torch.device("cpu"))
    before, call = (tmp_path / "calls.jsonl").read_bytes().splitlines()
    assert before + b"\n" == damage and json.loads(call)["from_step"] == 5
    with (tmp_path / "log.csv").open("ab") as stream:
        stream.write(damage)
    draw_log(tmp_path)
    assert not (tmp_path / "curves.png").exists()


def test_a_validation_that_was_logged_and_not_saved_is_not_logged_twice(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (5, 10):
        log.add(step, {"loss/loss": step})
        log.add(step, {"validation/mIoU": 0.5})
    log.close()
    log = RunLog(tmp_path, 10, validated=False)
    log.add(10, {"validation/mIoU": 0.5})
    log.close()
    assert read_log(tmp_path) == {"loss/loss": [(5, 5), (10, 10)], "validation/mIoU": [(5, 0.5), (10, 0.5)]}


def test_a_training_that_goes_on_drops_what_was_logged_after_its_checkpoint(tmp_path):
    log = RunLog(tmp_path, 0)
    for step in (5, 10, 15):
        log.add(step, {"loss/loss": step, "loss/motion": -step})
    log.close()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("20,loss/lo")  # killed here
    log = RunLog(tmp_path, 10)
    log.add(15, {"loss/loss": 99.0})
    log.close()
    assert read_log(tmp_path) == {"loss/loss": [(5, 5), (10, 10), (15, 99)], "loss/motion": [(5, -5), (10, -10)]}
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss/loss")] == [(5, 5), (10, 10), (15, 99)]


def test_a_new_training_begins_a_new_log(tmp_path):
    RunLog(tmp_path, 0).add(5, {"loss/loss": 1})
    RunLog(tmp_path, 0).close()
    assert read_log(tmp_path) == {}


def test_every_start_is_recorded_with_its_command_and_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool/train_with_flow.py", "TRAIN.save_path", "exp/a b"])
    record_call(tmp_path, 0, torch.device("cpu"))
    record_call(tmp_path, 120, torch.device("cpu"))
    first, second = (json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines())
    assert first["command"].endswith(" tool/train_with_flow.py TRAIN.save_path 'exp/a b'")
    assert (first["from_step"], second["from_step"]) == (0, 120) and first["processes"] == 1
    assert (first["torch"], first["toolkit"]) == (str(torch.__version__), etc.__version__)
    opencv = [first.get(name) for name in ("opencv-python-headless", "opencv-python")]
    assert any(found and found.startswith(cv2.__version__) for found in opencv)


def test_the_revision_of_a_clone_and_whether_it_was_changed(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@e")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert git_revision(tmp_path) is None
    git("init", "-q")
    assert git_revision(tmp_path) is None  # no commit
    (tmp_path / "a.py").write_text("1")
    git("add", "a.py")
    git("commit", "-qm", "first")
    (tmp_path / "untracked.py").write_text("1")
    assert git_revision(tmp_path) == {"revision": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.py").write_text("2")
    assert git_revision(tmp_path) == {"revision": git("rev-parse", "HEAD"), "dirty": True}
    (tmp_path / "inside").mkdir()
    assert git_revision(tmp_path / "inside") is None
