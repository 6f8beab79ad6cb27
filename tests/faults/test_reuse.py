"""What is kept on disk is used only for what it was made from, whatever its name and times are."""

import os
import shutil
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import nn

from etc.config import load_settings
from etc.data.images import read_image, write_png
from etc.data.sources import clips_of_frames
from etc.display.mp4 import Mp4Writer
from etc.evaluate.prediction_ids import PredictionReader
from etc.flow import build_flow
from tests.conftest import REPOSITORY
from tests.scripts import load_script, run
from utils.identity import identity_of, is_unchanged
from utils.locks import exclusive

pytestmark = pytest.mark.faults

NAMES = [f"clip/x_{number:06d}.png" for number in range(3)]


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """Settings of two data sets, ``a`` and ``b``, whose frames share their names; those of ``a`` are set.

    The network is one 1x1 convolution.
    """
    (tmp_path / "pixel_net.py").write_text(
        "from torch import nn\n\n\ndef build(*, classes):\n    return nn.Conv2d(3, classes, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    torch.save({"student": nn.Conv2d(3, 19, 1).state_dict()}, tmp_path / "net.pth")
    for index, name in enumerate(("a", "b")):
        for number, frame in enumerate(NAMES):
            write_png(tmp_path / name / frame, picture(10 * index + number))
    (tmp_path / "frames.lst").write_text("\n".join(NAMES) + "\n")
    return [
        *("DATA.synthetic=false", "DATA.layout=folder", "DATA.label_map=none", f"DATA.data_root={tmp_path}/a"),
        *(f"DATA.clip_list={tmp_path}/frames.lst", f"TEST.ckpt_path={tmp_path}/net.pth", "TEST.device=cpu"),
        *(f"TEST.save_folder={tmp_path}/result", "FLOW.name=dis", f"FLOW.cache={tmp_path}/flow"),
        "TRAIN.arch=pixel_net:build",
        f"DATA.colors_path={REPOSITORY}/data/palettes/cityscapes_colors.txt",
    ]


def last_error(capsys) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def gray(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "result/video/gray").rglob("*.png")}


def test_predictions_of_other_frames_of_the_same_names_are_refused_and_replaced_on_request(words, tmp_path, capsys):
    assert run("gen_video", *words) == 0
    kept = gray(tmp_path)
    other = [*words, f"DATA.data_root={tmp_path}/b"]
    assert run("gen_video", *other) == 2
    made_from, wanted = tmp_path / "a" / NAMES[0], tmp_path / "b" / NAMES[0]
    assert f"was made from {made_from}, not from {wanted}: give another output folder" in last_error(capsys)
    assert gray(tmp_path) == kept
    assert run("gen_video", *other, "--overwrite") == 0
    assert gray(tmp_path) != kept


def test_predictions_of_other_frames_are_not_scored(words, tmp_path, capsys):
    assert run("gen_video", *words) == 0
    assert run("eval_tc", *words, f"DATA.data_root={tmp_path}/b") == 2
    error = last_error(capsys)
    assert f"was predicted from {tmp_path}/a/{NAMES[0]}" in error and f"{tmp_path}/b/{NAMES[0]}" in error
    assert not (tmp_path / "result/tc.json").exists()


def test_pseudo_labels_of_other_frames_of_the_same_names_are_refused(words, tmp_path, capsys):
    label = ["--frames", tmp_path / "frames.lst", "--out", tmp_path / "pseudo"]
    assert run("gen_pseudo_labels", *words, *label, "--threshold", 0) == 0
    assert run("gen_pseudo_labels", *words, f"DATA.data_root={tmp_path}/b", *label) == 2
    assert f"was made from {tmp_path}/a/{NAMES[0]}, not from {tmp_path}/b/{NAMES[0]}" in last_error(capsys)


@pytest.mark.parametrize("time", [1, 4_000_000_000], ids=["older: cp -p, rsync, tar", "in the future"])
def test_a_replaced_frame_is_predicted_again_once_whatever_its_times(words, tmp_path, capsys, time):
    assert run("gen_video", *words) == 0
    before = gray(tmp_path)
    frame = tmp_path / "a" / NAMES[1]
    write_png(frame, picture(99))
    os.utime(frame, (time, time))
    assert run("gen_video", *words) == 0
    assert "1 frames predicted, 2 skipped" in capsys.readouterr().out
    after = gray(tmp_path)
    assert [name for name in before if before[name] != after[name]] == [frame.name]
    assert run("gen_video", *words) == 0
    assert "0 frames predicted, 3 skipped" in capsys.readouterr().out


def test_a_copy_of_the_data_set_needs_no_new_predictions(words, tmp_path, capsys):
    assert run("gen_video", *words) == 0
    shutil.copytree(tmp_path / "a", tmp_path / "moved", copy_function=shutil.copyfile)
    assert run("gen_video", *words, f"DATA.data_root={tmp_path}/moved") == 0
    assert "0 frames predicted, 3 skipped" in capsys.readouterr().out


def test_videos_of_one_name_are_unpacked_apart(tmp_path):
    settings = load_settings(None, [f"FLOW.cache={tmp_path}/cache"])
    frames = []
    for index, folder in enumerate(("one", "two")):
        with Mp4Writer(tmp_path / folder / "rgb.mp4", 10) as video:
            for number in range(3):
                video.write(picture(10 * index + number))
        (clip,) = clips_of_frames(settings, f"{tmp_path}/{folder}/rgb.mp4")
        frames.append([Path(frame.image) for frame in clip])
    assert [path.name for path in frames[0]] == [path.name for path in frames[1]]
    assert all((read_image(a) != read_image(b)).any() for a, b in zip(*frames, strict=True))


@pytest.mark.parametrize("change", ["lacks one", "edited", "one more", "no note"])
def test_a_video_is_unpacked_anew_where_its_frames_are_not_those_that_were_unpacked(tmp_path, change):
    settings = load_settings(None, [f"FLOW.cache={tmp_path}/cache"])
    with Mp4Writer(tmp_path / "rgb.mp4", 10) as video:
        for number in range(3):
            video.write(picture(number))

    def unpacked() -> dict[Path, bytes]:
        (clip,) = clips_of_frames(settings, f"{tmp_path}/rgb.mp4")
        return {Path(frame.image): Path(frame.image).read_bytes() for frame in clip}

    def times() -> list[int]:
        return [path.stat().st_mtime_ns for path in whole]

    whole = unpacked()
    written = times()
    assert unpacked() == whole and times() == written
    _, path, _ = whole
    if change == "lacks one":
        path.unlink()
    elif change == "edited":
        write_png(path, picture(99))
    elif change == "one more":
        write_png(path.with_name("rgb_000003.png"), picture(99))
    else:
        (path.parent / "unpacked.json").unlink()
    assert unpacked() == whole and times() != written


def test_results_of_folders_whose_last_names_agree_lie_apart(tmp_path):
    script = load_script("eval_tc")

    def folder_of(frames: str, predictions: str) -> str:
        args = [f"--frames={frames}", f"--predictions={tmp_path}/{predictions}"]
        parsed = script.cli.argument_parser("", script.KEYS)
        parsed.add_argument("--frames")
        parsed.add_argument("--predictions")
        parsed.set_defaults(labels=None, cityscapes=None, allow_gaps=False, vspw=False)
        _, overrides = script.config_and_overrides(parsed.parse_intermixed_args(args))
        return next(word for word in overrides if word.startswith("TEST.save_folder="))

    pairs = [("clip", "x/run/masks"), ("clip", "y/run/masks"), ("other", "x/run/masks")]
    assert len({folder_of(*pair) for pair in pairs}) == 3


def test_an_edited_flow_estimator_has_a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for name, factor in (("my_flow_one", 1), ("my_flow_two", 2)):
        (tmp_path / f"{name}.py").write_text(
            "class Mine:\n    name = 'mine'\n    def estimate(self, rgb_t, rgb_k):\n"
            f"        return {factor} * rgb_t[:, :2]\n"
        )
        keys.append(build_flow(f"{name}:Mine").key)
    assert keys[0] != keys[1] and all(key.startswith("mine-") for key in keys)


def test_predictions_of_a_network_whose_source_was_edited_are_refused(words, tmp_path, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "pixel_net", raising=False)
    assert run("gen_video", *words) == 0
    source = tmp_path / "pixel_net.py"
    source.write_text(source.read_text() + "\n# edited\n")
    assert run("gen_video", *words) == 2
    assert "holds predictions made with another code: use --overwrite to replace them" in last_error(capsys)


def test_overwrite_says_what_it_cannot_delete_and_claims_nothing(words, tmp_path, capsys, monkeypatch):
    assert run("gen_video", *words) == 0
    note = (tmp_path / "result/video/source.json").read_bytes()

    def refuse(path, *_args, **_settings):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("etc.predict.provenance.shutil.rmtree", refuse)
    assert run("gen_video", *words, "TEST.flip=true", "--overwrite") == 2
    assert last_error(capsys) == f"error: {tmp_path}/result/video/gray: Permission denied"
    assert (tmp_path / "result/video/source.json").read_bytes() == note


def test_compare_refuses_scores_of_other_predictions_than_lie_there(words, tmp_path, capsys):
    assert run("gen_video", *words) == 0
    assert run("eval_tc", *words) == 0
    comparison = ["--no-speed", "--runs", f"one={tmp_path}/result", "--out", tmp_path / "comparison"]
    assert run("compare", *comparison, "TRAIN.arch=pixel_net:build") == 0
    path = tmp_path / "result/video/gray/clip/x_000001.png"
    write_png(path, 18 - cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    assert run("compare", *comparison, "TRAIN.arch=pixel_net:build") == 2
    assert f"again with tool/eval_tc.py TEST.save_folder {tmp_path}/result" in last_error(capsys)


def test_compare_refuses_runs_scored_on_other_frames_of_the_same_names(words, tmp_path, capsys):
    for data in ("a", "b"):
        own = [*words, "DATA.cuts=keep", f"DATA.data_root={tmp_path}/{data}"]
        own.append(f"TEST.save_folder={tmp_path}/{data}_result")
        assert run("gen_video", *own) == 0 and run("eval_tc", *own) == 0
    runs = ["--runs", f"one={tmp_path}/a_result", f"two={tmp_path}/b_result", "--out", tmp_path / "comparison"]
    assert run("compare", "--no-speed", *runs, "TRAIN.arch=pixel_net:build") == 2
    assert "one and two were scored on different frames or labels of the same names" in last_error(capsys)


def test_a_prediction_of_another_run_among_others_is_not_scored(words, tmp_path, capsys):
    assert run("gen_video", *words) == 0
    assert run("gen_video", *words, "TEST.flip=true", f"TEST.save_folder={tmp_path}/flipped") == 0
    copied = tmp_path / "result/video/gray/clip/x_000001.png"
    shutil.copyfile(tmp_path / "flipped/video/gray/clip/x_000001.png", copied)
    assert run("eval_tc", *words) == 2
    other = "was predicted with another checkpoint or other settings than"
    cure = "says: predict them anew with tool/gen_video.py --overwrite"
    assert last_error(capsys) == f"error: {copied} {other} {tmp_path}/result/video/source.json {cure}"
    (tmp_path / "result/video/source.json").unlink()
    assert run("eval_tc", *words) == 2
    assert last_error(capsys) == f"error: {copied} {other} {copied.with_name('x_000000.png')} {cure}"
    assert run("gen_video", *words, "--overwrite") == 0 and run("eval_tc", *words) == 0


def test_a_video_that_shows_something_else_is_written_again_without_predicting_anew(words, tmp_path, capsys):
    result, video = tmp_path / "result/video", tmp_path / "result/video/mp4/clip/x_000000.mp4"
    assert run("gen_video", *words, f"TEST.save_folder={tmp_path}/flipped", "TEST.flip=true") == 0
    assert run("gen_video", *words) == 0
    whole, pictures = video.read_bytes(), gray(tmp_path)
    for replace in ("truncated", "of another run", "of another run with its note", "without a note"):
        if replace == "truncated":
            video.write_bytes(whole[:-100])
        elif replace == "without a note":
            video.with_suffix(".json").unlink()
        else:
            shutil.copy(tmp_path / "flipped/video/mp4/clip/x_000000.mp4", video)
        if replace == "of another run with its note":
            shutil.copy(tmp_path / "flipped/video/mp4/clip/x_000000.json", video.with_suffix(".json"))
        assert run("gen_video", *words) == 0
        assert video.read_bytes() == whole, replace
    (tmp_path / "two.lst").write_text("\n".join(NAMES[:2]) + "\n")
    for word, rate, frames in (("TEST.fps=5", 5, 3), (f"DATA.clip_list={tmp_path}/two.lst", 17, 2)):
        assert run("gen_video", *words, word) == 0
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            assert (float(stream.average_rate), stream.frames) == (rate, frames)
    assert "3 frames predicted" not in capsys.readouterr().out.split("\n", 2)[2] and gray(tmp_path) == pictures
    time = video.stat().st_mtime_ns
    assert run("gen_video", *words, f"DATA.clip_list={tmp_path}/two.lst") == 0
    assert video.stat().st_mtime_ns == time and (result / "mp4/clip/x_000000.json").is_file()


def test_predictions_that_are_being_written_are_not_scored(words, tmp_path, capsys):
    assert run("gen_video", *words) == 0
    with exclusive(tmp_path / "result/video"):
        assert run("eval_tc", *words) == 2
        wanted = f"error: the predictions in {tmp_path}/result/video/gray are being written by another process (pid "
        assert last_error(capsys).startswith(wanted)
        (tmp_path / "result/video/gray/clip/x_000001.png").unlink()
        assert run("eval_tc", *words) == 2
        assert last_error(capsys).startswith(wanted)
    assert not (tmp_path / "result/video/.lock").exists()


@pytest.mark.parametrize("lost", [False, True], ids=["replaced", "removed"])
def test_predictions_that_change_while_they_are_scored_give_no_result(words, tmp_path, capsys, monkeypatch, lost):
    assert run("gen_video", *words) == 0
    first = tmp_path / "result/video/gray/clip/x_000000.png"
    read = PredictionReader.__call__

    def read_and_change(self, path):
        if path != first:  # the first one has been read by then
            first.unlink(missing_ok=True)
            if not lost:
                write_png(first, np.zeros((48, 64), np.uint8))
        return read(self, path)

    monkeypatch.setattr(PredictionReader, "__call__", read_and_change)
    assert run("eval_tc", *words) == 2
    folder = tmp_path / "result/video/gray"
    changed = f"error: the predictions in {folder} changed while they were scored: score them again"
    assert last_error(capsys) == changed and not (tmp_path / "result/tc.json").exists()


def test_a_file_is_the_same_by_its_content_or_by_path_size_and_both_times(tmp_path):
    path, copy = tmp_path / "x.png", tmp_path / "copy.png"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    kept = identity_of(path)
    shutil.copy2(path, copy)
    assert is_unchanged(path, kept) and is_unchanged(copy, kept)
    path.write_bytes(b"two")  # of the same size
    os.utime(path, (1, 1))  # as cp -p, rsync and tar restore it
    assert not is_unchanged(path, kept)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        is_unchanged(path, kept)
