"""The scripts one after the other, in process, on the tiny world: train, predict, score, compare."""

import json

import av
import pytest
import torch

from tests.scripts import load_script, run


def test_train_predict_score_and_compare(tiny_training, tmp_path, capsys):
    runs = []
    for name, weight in (("baseline", 0.0), ("flow", 0.1)):
        folder = tmp_path / name
        own = [
            *tiny_training,
            f"TRAIN.save_path={folder}",
            f"TRAIN.st_weight={weight}",
            f"TEST.ckpt_path={folder}/best.pth",
            f"TEST.save_folder={folder}/result",
        ]
        assert run("train_with_flow", *own) == 0
        assert run("gen_video", *own) == 0
        capsys.readouterr()
        assert run("eval_tc", *own) == 0
        assert run("test", *own) == 0
        text = capsys.readouterr().out
        assert "TC strict" in text and "mAcc" in text and max(map(len, text.splitlines())) <= 100
        runs.append(f"{name}={folder}/result")
        tc = json.loads((folder / "result/tc.json").read_text())
        assert 0 < tc["strict"]["mIoU"] <= 1 and len(tc["clips"]) == 2
        # The labelled frames of the clips are all frames here, those of the test list every fifth.
        assert 0 < json.loads((folder / "result/miou.json").read_text())["mIoU"] <= 1
    assert run("compare", "--runs", *runs, "--out", str(tmp_path / "out"), *tiny_training) == 0
    rows = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [row["run"] for row in rows] == ["baseline", "flow"]
    with av.open(str(tmp_path / "out/side_by_side.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 30
    assert (tmp_path / "out/flicker.png").stat().st_size > 1000


def test_the_wrong_checkpoint_is_one_line_and_exit_code_2(tiny_training, tmp_path, capsys):
    torch.save({"student": {"layer0.0.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    assert run("test", *tiny_training, f"TEST.ckpt_path={tmp_path}/other.pth") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "other.pth" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train_with_flow", "test", "demo", "gen_video", "eval_tc", "compare"])
def test_help_lists_keys_types_values_and_meanings(name, capsys):
    with pytest.raises(SystemExit) as stop:
        load_script(name).main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "[value in configs/quickstart.yaml]:\n  DATA.data_root " in text
    assert " path [data/synthetic]  folder of the data set; lists are relative to it\n" in text


def test_a_comparison_needs_scored_runs(tiny_training, tmp_path, capsys):
    assert run("compare", "--runs", f"one={tmp_path}", *tiny_training) == 2
    assert "has no tc.json" in capsys.readouterr().err
