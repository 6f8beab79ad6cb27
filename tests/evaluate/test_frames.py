"""Scoring of labelled frames, and the export for the Cityscapes test server."""

import csv
import fnmatch
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from etc import distributed
from etc.config import load_settings
from etc.data.lists import read_frames
from model import build_model
from tests.scripts import run

# cityscapesScripts, labels.py: id of train id 0, 1, ...
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.fixture
def words(tiny_training, tmp_path) -> list[str]:
    """Settings of a run whose checkpoint is a network with random weights."""
    torch.manual_seed(0)
    path = tmp_path / "run/best.pth"
    path.parent.mkdir()
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, path)
    return tiny_training


@pytest.fixture
def frames(words):
    """The frames of the validation list."""
    return read_frames(load_settings(None, words).DATA.val_list)


def stored_labels(folder: Path, frames, data_root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Exported predictions, found as the server finds them, and labels; both as label ids."""
    files = [path.name for path in folder.iterdir()]
    predictions, labels = [], []
    for frame in frames:
        city, sequence, number, _ = Path(frame.image).stem.split("_")
        (name,) = fnmatch.filter(files, f"{city}_{sequence}_{number}*.png")
        predictions.append(cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED))
        labels.append(cv2.imread(str(data_root / frame.label), cv2.IMREAD_UNCHANGED))
    return np.stack(predictions), np.stack(labels)


@pytest.mark.parametrize("key", ["TEST.frames", "TEST.labels"])
def test_settings_of_clips_on_the_command_line_are_refused(words, capsys, key):
    assert run("test", *words, f"{key}=somewhere") == 2
    assert f"{key} is for tool/eval_tc.py" in capsys.readouterr().err


def test_exported_label_ids_give_the_scores_of_the_run(words, frames, tiny_world, tmp_path, capsys):
    assert run("test", *words, "--export", tmp_path / "upload") == 0
    predictions, labels = stored_labels(tmp_path / "upload", frames, tiny_world)
    assert predictions.dtype == np.uint8 and predictions.shape == labels.shape == (10, 64, 128)
    assert set(np.unique(predictions)) <= set(LABEL_IDS)

    counted = np.isin(labels, LABEL_IDS)
    result = json.loads((tmp_path / "run/result/miou.json").read_text())
    order = np.searchsorted(LABEL_IDS, [predictions[counted], labels[counted]])
    iou = multiclass_jaccard_index(*map(torch.from_numpy, order), num_classes=19, average="none").numpy()
    present = np.isin(LABEL_IDS, np.union1d(predictions[counted], labels[counted]))
    assert result["mIoU"] == pytest.approx(iou[present].mean(), abs=1e-6)
    for index, label_id in enumerate(LABEL_IDS):
        own = counted & (labels == label_id)
        share = (predictions[own] == label_id).mean() if own.any() else None
        assert result["accuracy"][index] == (None if share is None else pytest.approx(share, abs=1e-9))

    text = capsys.readouterr().out
    assert "predictions of all frames, as Cityscapes label ids" in text and "accuracy %" in text
    with open(tmp_path / "run/result/miou.csv") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["class", "iou", "accuracy"] and len(rows) == 20
    assert cv2.imread(str(tmp_path / "run/result/confusion.png")) is not None
    assert load_settings(tmp_path / "upload/settings.yaml").TEST.ckpt_path == f"{tmp_path}/run/best.pth"


def test_frames_without_label_are_exported_and_give_no_score(words, frames, tmp_path, capsys):
    (tmp_path / "bare.lst").write_text("".join(f"{frame.image}\n" for frame in frames[:3]))
    assert run("test", *words, f"TEST.test_list={tmp_path}/bare.lst", "--export", tmp_path / "upload") == 0
    assert "no frame of the list has a label: there is no mIoU" in capsys.readouterr().out
    assert len(list((tmp_path / "upload").glob("*_pred_labelIds.png"))) == 3
    assert not (tmp_path / "run/result").exists()


def test_without_an_export_a_frame_needs_a_label(words, frames, tmp_path, capsys):
    (tmp_path / "bare.lst").write_text(f"{frames[0].image} {frames[0].label}\n{frames[1].image}\n")
    assert run("test", *words, f"TEST.test_list={tmp_path}/bare.lst") == 2
    assert "1 of 2 frames have no label" in capsys.readouterr().err


def test_a_list_of_both_kinds_scores_what_has_a_label(words, frames, tmp_path, capsys):
    (tmp_path / "both.lst").write_text(f"{frames[0].image}\n{frames[1].image} {frames[1].label}\n")
    assert run("test", *words, f"TEST.test_list={tmp_path}/both.lst", "--export", tmp_path / "upload") == 0
    out = capsys.readouterr().out
    both = json.loads((tmp_path / "run/result/miou.json").read_text())
    assert "(1 frames, classes that occur)" in out and f" ({both['mIoU_classes']} classes)  mAcc " in out
    (tmp_path / "one.lst").write_text(f"{frames[1].image} {frames[1].label}\n")
    assert run("test", *words, f"TEST.test_list={tmp_path}/one.lst") == 0
    assert both == json.loads((tmp_path / "run/result/miou.json").read_text())
    assert both["predictor"] == {"mode": "whole", "scales": [1.0], "flip": False, "base_size": 0}
    (tmp_path / "one.lst").write_text(f"{frames[2].image} {frames[2].label}\n")
    assert run("test", *words, f"TEST.test_list={tmp_path}/one.lst") == 0
    other = json.loads((tmp_path / "run/result/miou.json").read_text())
    assert other["frames"] == both["frames"] == 1 and other["frames_sha256"] != both["frames_sha256"]
    assert len(list((tmp_path / "upload").glob("*.png"))) == 2


def test_two_processes_share_frames_and_export(words, frames, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "sum_counts", lambda counts: counts)
    written = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        assert run("test", *words, "--export", tmp_path / str(rank)) == 0
        written.append({path.name for path in (tmp_path / str(rank)).glob("*.png")})
    assert len(written[0]) == len(written[1]) == 5 and not written[0] & written[1]


def test_exports_that_the_server_could_not_read_are_refused_before_work_starts(words, frames, tmp_path, capsys):
    foreign, twice = tmp_path / "foreign.lst", tmp_path / "twice.lst"
    root = tmp_path / "copies"
    for name in ("a/town_000000_000001_leftImg8bit.png", "b/town_000000_000001_leftImg8bit.png", "a/holiday.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((64, 96, 3), np.uint8))
    foreign.write_text("a/holiday.png\n")
    twice.write_text("a/town_000000_000001_leftImg8bit.png\nb/town_000000_000001_leftImg8bit.png\n")
    (tmp_path / "full/sub").mkdir(parents=True)
    (tmp_path / "full/sub/old.png").touch()
    own = [f"DATA.data_root={root}", "DATA.synthetic=false"]
    for more, message in {
        (f"TEST.test_list={foreign}", *own): "holiday.png is not named <city>_<sequence>_<frame>_leftImg8bit",
        (f"TEST.test_list={twice}", *own): "would have the same file",
        ("DATA.label_map=none",): "it needs DATA.label_map cityscapes",
        ("--export", f"{tmp_path}/full"): "holds 1 PNG files already",
    }.items():
        assert run("test", *words, "--export", tmp_path / "upload", *more) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "upload").exists() and not (tmp_path / "run/result").exists()
