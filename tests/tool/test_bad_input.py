"""Wrong input to the scripts: one clear line that names what was wrong, exit code 2, nothing half-written."""

import errno
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from model import build_model
from tests.scripts import run
from utils import files


@pytest.fixture
def world(tiny_training, tiny_world, tmp_path):
    """A copy of the tiny world that a test may damage, and the overrides that use it."""
    copy = tmp_path / "synthetic"
    shutil.copytree(tiny_world, copy)
    return copy, [word.replace(str(tiny_world), str(copy)) for word in tiny_training]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run/best.pth"
    path.parent.mkdir()
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, path)
    return path


def refused(name: str, words: list[str], capsys) -> str:
    """Run a script that must fail as the user's error; gives its line."""
    capsys.readouterr()
    assert run(name, *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def first_image(root: Path, split: str) -> Path:
    return sorted((root / "leftImg8bit" / split).rglob("*_000004_leftImg8bit.png"))[0]


def label_of(image: Path) -> Path:
    name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
    return Path(str(image.parent).replace("leftImg8bit", "gtFine")) / name


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_frame_is_named_in_the_middle_of_a_training(world, tmp_path, capsys, workers):
    root, words = world
    image = first_image(root, "train")
    image.write_bytes(image.read_bytes()[:-200])
    line = refused("train_with_flow", [*words, f"TRAIN.workers={workers}", "TRAIN.batch_size=4"], capsys)
    assert line == f"error: {image} is truncated"
    assert not (tmp_path / "run/last.pth").exists()


def test_a_missing_frame_stops_every_script_before_it_starts(world, checkpoint, capsys, tmp_path):
    root, words = world
    for split, script in (("train", "train_with_flow"), ("val", "gen_video"), ("val", "test"), ("val", "eval_tc")):
        image = first_image(root, split)
        hidden = image.rename(image.with_suffix(".hidden"))
        line = refused(script, words, capsys)
        assert "1 of " in line and image.name in line
        hidden.rename(image)
    assert not (tmp_path / "run/result").exists()


def test_a_missing_label_is_named(world, checkpoint, capsys):
    root, words = world
    label = label_of(first_image(root, "val"))
    label.unlink()
    assert label.name in refused("test", words, capsys)


def test_a_label_of_another_size_is_named_with_both_sizes(world, checkpoint, capsys):
    root, words = world
    label = label_of(first_image(root, "val"))
    cv2.imwrite(str(label), np.zeros((32, 64), np.uint8))
    line = refused("test", words, capsys)
    assert label.name in line and "64x32" in line and "128x64" in line


def test_a_label_value_outside_the_classes_is_named(world, checkpoint, capsys):
    root, words = world
    label = label_of(first_image(root, "val"))
    cv2.imwrite(str(label), np.full((64, 128), 77, np.uint8))
    line = refused("test", words, capsys)
    assert label.name in line and "77" in line


def test_a_clip_of_one_frame_is_refused(world, checkpoint, capsys, tmp_path):
    root, words = world
    (tmp_path / "one.lst").write_text(f"{first_image(root, 'val').relative_to(root)}\n")
    line = refused("eval_tc", [*words, f"DATA.clip_list={tmp_path}/one.lst"], capsys)
    assert "one frame" in line


def test_a_missing_list_is_named(world, capsys, tmp_path):
    _, words = world
    line = refused("train_with_flow", [*words, f"DATA.train_list={tmp_path}/no.lst"], capsys)
    assert "no.lst" in line


@pytest.mark.parametrize("script", ["test", "gen_video", "demo"])
def test_a_checkpoint_of_another_network_is_refused(world, checkpoint, capsys, script, tmp_path):
    _, words = world
    line = refused(script, [*words, "TRAIN.layers=50"], capsys)
    assert "best.pth" in line and ("missing" in line or "shape" in line)
    assert not (tmp_path / "run/result").exists() and not (tmp_path / "run/demo").exists()


@pytest.mark.parametrize("script", ["test", "gen_video", "demo"])
def test_a_missing_checkpoint_is_named(world, capsys, script):
    _, words = world
    assert "best.pth does not exist" in refused(script, words, capsys)


def test_a_pickle_that_is_no_weights_is_refused(world, checkpoint, capsys):
    _, words = world
    checkpoint.write_bytes(b"\x80\x04cos\nsystem\n.")
    assert "best.pth" in refused("test", words, capsys)


def test_an_unknown_key_names_the_nearest(world, capsys):
    _, words = world
    assert "did you mean TRAIN.st_weight?" in refused("train_with_flow", [*words, "TRAIN.st_wieght=1"], capsys)


def test_a_full_disk_is_said_and_leaves_no_checkpoint(world, capsys, tmp_path, monkeypatch):
    _, words = world

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    assert "No space left on device" in refused("train_with_flow", words, capsys)
    assert [path.name for path in (tmp_path / "run").rglob("*.pth*")] == []
