"""The script that predicts clips: files, skipping, stale predictions, bad input."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

import etc.predict.clips
from etc import distributed
from etc.config import load_settings
from etc.data.sources import clips_of_frames
from etc.data.transform import normalise
from etc.evaluate.prediction_files import prediction_files
from model import build_model, load_student
from tests.scripts import run

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = [f"town_{clip:06d}_{frame:06d}_leftImg8bit" for clip in (0, 1) for frame in range(3)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "psp18.pth"
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, path)
    return path


@pytest.fixture
def clips(tmp_path) -> Path:
    """Two clips of three frames of 64x96 and their list."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "town"
    folder.mkdir(parents=True)
    for name in NAMES:
        coarse = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC))
    lines = [f"town/{name}.png" for name in NAMES]
    (tmp_path / "clips.lst").write_text("\n".join([*lines[:3], "", *lines[3:]]) + "\n")
    return tmp_path


@pytest.fixture
def generate(clips, checkpoint):
    """Runs the script on the clips with further words; gives its exit code."""
    fixed = {
        "DATA.synthetic": "false",
        "DATA.data_root": clips / "data",
        "DATA.clip_list": clips / "clips.lst",
        "DATA.colors_path": REPOSITORY / "data" / "palettes" / "cityscapes_colors.txt",
        "TEST.ckpt_path": checkpoint,
        "TEST.save_folder": clips / "out",
        "TEST.device": "cpu",
    }
    words = [f"{key}={value}" for key, value in fixed.items()]
    return lambda *more: run("gen_video", *words, *more)


def files_below(folder: Path) -> dict[str, int]:
    """Every file, hidden ones included, and when it was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else image[..., ::-1]


def pictures_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_every_frame_gets_ids_colours_and_a_place_in_its_clips_video(generate, clips, checkpoint, capsys):
    assert generate("TEST.fps=10") == 0
    video = clips / "out" / "video"
    images = [f"{kind}/{name}.png" for kind in ("gray", "color") for name in NAMES]
    videos = [f"mp4/{NAMES[start]}.{suffix}" for start in (0, 3) for suffix in ("mp4", "json")]
    assert sorted(files_below(video)) == sorted([*images, *videos, "settings.yaml", "source.json"])

    network = build_model("psp18", classes=19).eval()
    load_student(network, checkpoint)
    palette = np.loadtxt(REPOSITORY / "data" / "palettes" / "cityscapes_colors.txt", dtype=np.uint8)
    for name in NAMES:
        rgb = read(clips / "data" / "town" / f"{name}.png")
        with torch.no_grad():
            logits = network(torch.from_numpy(normalise(rgb))[None])[0].numpy()
        ids = read(video / "gray" / f"{name}.png")
        # The logits at the predicted ids are the highest, but for what the memory layout changes.
        assert (logits.max(0) - np.take_along_axis(logits, ids[None].astype(int), 0)[0]).max() < 1e-4
        np.testing.assert_array_equal(read(video / "color" / f"{name}.png"), palette[ids])
    for start in (0, 3):
        pictures = pictures_of(video / "mp4" / f"{NAMES[start]}.mp4")
        assert len(pictures) == 3
        for name, picture in zip(NAMES[start:], pictures, strict=False):
            halves = read(clips / "data" / "town" / f"{name}.png") / 2 + read(video / "color" / f"{name}.png") / 2
            assert np.abs(picture - halves).mean() < 12  # 4:2:0 blurs the colours at borders
    assert load_settings(video / "settings.yaml").TEST.fps == 10
    note = json.loads((video / "source.json").read_text())
    assert note["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert "6 frames predicted; network alone" in capsys.readouterr().out


def test_predictions_name_the_weights_that_were_read_not_those_that_replaced_them(
    generate, clips, checkpoint, monkeypatch
):
    copy = clips / "weights.pth"
    copy.write_bytes(checkpoint.read_bytes())
    load = etc.predict.clips.predictor_from

    def load_and_replace(settings):
        predictor = load(settings)
        copy.write_bytes(b"of another training")
        return predictor

    monkeypatch.setattr(etc.predict.clips, "predictor_from", load_and_replace)
    assert generate(f"TEST.ckpt_path={copy}") == 0
    note = json.loads((clips / "out/video/source.json").read_text())
    assert note["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


@pytest.mark.parametrize("word", ["TEST.amp=bfloat16", "TEST.fold_bn=true"])
def test_what_rounds_differently_is_opt_in_and_recorded_with_the_predictions(generate, clips, capsys, word):
    assert generate() == 0
    note = json.loads((clips / "out/video/source.json").read_text())
    assert not {"dtype", "fold_bn", "compile"} & note.keys()
    assert generate(word) == 2
    assert f"made with another {'dtype' if 'amp' in word else 'fold_bn'}" in capsys.readouterr().err
    assert generate(word, f"TEST.save_folder={clips}/other") == 0
    for name in NAMES:
        one, two = (read(clips / folder / "video" / "gray" / f"{name}.png") for folder in ("out", "other"))
        assert (one == two).mean() > 0.9


@pytest.mark.slow
def test_a_compiled_network_predicts_the_same(generate, clips):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    assert generate() == 0
    assert generate("TEST.compile=true", f"TEST.save_folder={clips}/compiled") == 0
    for name in NAMES:
        one, two = (read(clips / folder / "video" / "gray" / f"{name}.png") for folder in ("out", "compiled"))
        assert (one == two).mean() > 0.999


def test_batches_predict_the_same_ids(generate, clips):
    assert generate() == 0
    assert generate("TEST.batch_size_gen=2", f"TEST.save_folder={clips}/batched") == 0
    for name in NAMES:
        one, two = (read(clips / folder / "video" / "gray" / f"{name}.png") for folder in ("out", "batched"))
        assert (one == two).mean() > 0.999  # the last bits of a batch may differ


def test_a_second_run_does_nothing(generate, clips, capsys):
    assert generate() == 0
    before = files_below(clips / "out" / "video" / "gray"), files_below(clips / "out" / "video" / "mp4")
    capsys.readouterr()
    assert generate() == 0
    assert "0 frames predicted, 6 skipped (already there)" in capsys.readouterr().out
    assert (files_below(clips / "out" / "video" / "gray"), files_below(clips / "out" / "video" / "mp4")) == before


def test_a_run_goes_on_with_what_is_missing_or_cut(generate, clips, capsys):
    assert generate() == 0
    video = clips / "out" / "video"
    before = {name: read(video / "gray" / f"{name}.png") for name in NAMES}
    (video / "gray" / f"{NAMES[0]}.png").unlink()
    cut = video / "color" / f"{NAMES[1]}.png"
    cut.write_bytes(cut.read_bytes()[:-9])
    (video / "mp4" / f"{NAMES[3]}.mp4").unlink()
    kept = (video / "gray" / f"{NAMES[2]}.png").stat().st_mtime_ns
    capsys.readouterr()
    assert generate() == 0
    assert "2 frames predicted, 4 skipped" in capsys.readouterr().out
    for name in NAMES:
        np.testing.assert_array_equal(read(video / "gray" / f"{name}.png"), before[name])
        assert read(video / "color" / f"{name}.png").shape == (64, 96, 3)
    assert (video / "gray" / f"{NAMES[2]}.png").stat().st_mtime_ns == kept
    assert [len(pictures_of(video / "mp4" / f"{NAMES[start]}.mp4")) for start in (0, 3)] == [3, 3]


def test_a_named_pipe_among_the_predictions_is_replaced(generate, clips):
    assert generate() == 0
    folder = clips / "out/video"
    # The videos are encoded again: of the same pictures, FFmpeg does not always write the same bytes.
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for pipe in (folder / "gray" / f"{NAMES[1]}.png", folder / "color" / f"{NAMES[4]}.png"):
        pipe.unlink()
        os.mkfifo(pipe)
    os.mkfifo(folder / "gray/other.png")
    assert generate() == 0
    assert all(path.is_file() and path.read_bytes() == content for path, content in before.items())


def test_predictions_of_another_checkpoint_are_not_mixed_in(generate, clips, capsys):
    torch.manual_seed(1)
    other = clips / "other.pth"
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, other)
    assert generate() == 0
    video = clips / "out" / "video"
    before, old = files_below(video), read(video / "gray" / f"{NAMES[0]}.png")
    assert generate(f"TEST.ckpt_path={other}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {video} holds predictions made with another checkpoint_sha256")
    assert files_below(video) == before
    (video / "gray" / "stranger.png").touch()
    assert generate(f"TEST.ckpt_path={other}", "--overwrite") == 0
    assert (read(video / "gray" / f"{NAMES[0]}.png") != old).any()
    assert set(files_below(video)) == set(before)


def test_other_prediction_settings_are_not_mixed_in_either(generate, capsys):
    assert generate() == 0
    assert generate("TEST.flip=true", "TEST.base_size=48") == 2
    assert "with another flip, base_size" in capsys.readouterr().err
    assert generate("TEST.fps=5", "TEST.batch_size_gen=3", "TEST.test_h=99") == 0  # no matter to whole images


def test_predictions_of_unknown_origin_are_kept(generate, clips, capsys):
    (clips / "out" / "video" / "gray").mkdir(parents=True)
    (clips / "out" / "video" / "gray" / f"{NAMES[0]}.png").write_bytes(b"somebody's")
    assert generate() == 2
    assert "left no source.json" in capsys.readouterr().err
    assert list(files_below(clips / "out")) == [f"video/gray/{NAMES[0]}.png"]


def test_two_processes_share_the_clips(generate, clips, monkeypatch, capsys):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "barrier", lambda: None)
        assert generate() == 0
        assert f"(process {rank + 1}): 3 frames predicted" in capsys.readouterr().out
    assert len(files_below(clips / "out" / "video" / "gray")) == 6


def test_a_truncated_frame_is_named_and_leaves_complete_files_only(generate, clips, capsys):
    frame = clips / "data" / "town" / f"{NAMES[4]}.png"
    frame.write_bytes(frame.read_bytes()[:-30])
    assert generate() == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"error: {frame} is truncated"
    video = clips / "out" / "video"
    names = set(files_below(video))
    assert f"mp4/{NAMES[3]}.mp4" not in names
    assert not any(Path(name).name.startswith(".") for name in names), "a temporary file was left"
    assert all(read(video / name).shape[:2] == (64, 96) for name in names if name.endswith(".png"))


def test_a_clip_of_two_frame_sizes_is_named(generate, clips, capsys):
    frame = clips / "data" / "town" / f"{NAMES[2]}.png"
    cv2.imwrite(str(frame), np.zeros((64, 100, 3), np.uint8))
    assert generate() == 2
    assert f"{NAMES[2]}.png is 100x64, the clip's first frame is 96x64" in capsys.readouterr().err
    assert not files_below(clips / "out" / "video").keys() & {f"mp4/{NAMES[0]}.mp4"}


def test_input_that_does_not_fit_is_refused_before_anything_is_written(generate, clips, capsys):
    torch.save({"student": build_model("psp50", classes=19).state_dict()}, clips / "psp50.pth")
    (clips / "few.txt").write_text("1 2 3\n" * 11)
    (clips / "lost.lst").write_text((clips / "clips.lst").read_text() + "\ntown/lost_1.png\ntown/lost_2.png\n")
    town = [f"town/{name}.png" for name in NAMES]
    (clips / "twice.lst").write_text("\n".join([*town[:3], "", *town[:2]]) + "\n")
    for word, message in {
        f"DATA.clip_list={clips}/twice.lst": f"two clips begin with {town[0]}, and a video is called after its first",
        f"TEST.ckpt_path={clips}/psp50.pth": "psp50.pth does not fit the network",
        f"TEST.ckpt_path={clips}/none.pth": "none.pth does not exist",
        f"DATA.colors_path={clips}/few.txt": "few.txt: expected 19 lines",
        f"DATA.clip_list={clips}/lost.lst": "2 of 8 files are missing",
    }.items():
        assert generate(word) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert error[-1].startswith("error: ") and message in error[-1]
        assert not (clips / "out").exists()


@pytest.fixture
def vspw(clips) -> list[str]:
    """The same frames as two videos of a folder called origin each."""
    images = [f"{video}/origin/{number:08d}" for video in "vw" for number in range(3)]
    for name, image in zip(NAMES, images, strict=True):
        (clips / "data" / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clips / "data" / "town" / f"{name}.png", clips / "data" / f"{image}.png")
    (clips / "vspw.lst").write_text("\n".join(f"{image}.png" for image in images) + "\n")
    return images


def test_videos_whose_folders_share_a_name_have_predictions_of_their_own(generate, clips, vspw):
    words = [f"DATA.clip_list={clips / 'vspw.lst'}", "DATA.layout=folder"]
    assert generate(*words) == 0
    video = clips / "out" / "video"
    images = [f"{kind}/{image}.png" for kind in ("gray", "color") for image in vspw]
    videos = [f"mp4/{vspw[start]}.{suffix}" for start in (0, 3) for suffix in ("mp4", "json")]
    assert sorted(files_below(video)) == sorted([*images, *videos, "settings.yaml", "source.json"])


def test_a_folder_of_an_earlier_version_is_continued_under_its_names(generate, clips, vspw, capsys):
    (clips / "vspw.lst").write_text("\n".join(f"{image}.png" for image in vspw[:3]) + "\n")
    words = [f"DATA.clip_list={clips / 'vspw.lst'}", "DATA.layout=folder"]
    assert generate(*words) == 0
    video = clips / "out" / "video"
    for kind in ("gray", "color", "mp4"):
        for path in sorted((video / kind).rglob("*.*")):
            path.rename(video / kind / path.name)
        shutil.rmtree(video / kind / "v")
    before = files_below(video / "gray") | files_below(video / "mp4")
    assert generate(*words) == 0
    assert "0 frames predicted, 3 skipped" in capsys.readouterr().out
    assert files_below(video / "gray") | files_below(video / "mp4") == before
    # Another video whose frames have the same stems: its predictions are its own.
    (clips / "vspw.lst").write_text("\n".join(f"{image}.png" for image in vspw[3:]) + "\n")
    assert generate(*words) == 0
    assert "3 frames predicted" in capsys.readouterr().out
    assert files_below(video / "gray").keys() == {*(f"{n:08d}.png" for n in range(3)), *(f"{i}.png" for i in vspw[3:])}


def test_folders_of_frames_are_predicted_and_found_again_also_after_a_move(clips, vspw, checkpoint):
    palette = REPOSITORY / "data" / "palettes" / "cityscapes_colors.txt"
    shutil.rmtree(clips / "data" / "town")
    fixed = [f"DATA.colors_path={palette}", f"TEST.ckpt_path={checkpoint}", "TEST.device=cpu", "DATA.synthetic=false"]
    words = [*fixed, f"TEST.save_folder={clips / 'out'}"]
    assert run("gen_video", f"TEST.frames={clips / 'data'}", *words) == 0
    (folder,) = (clips / "out/video/gray").iterdir()
    assert re.fullmatch("data-[0-9a-f]{8}", folder.name)
    assert files_below(folder).keys() == {f"{image}.png" for image in vspw}
    expected = [[folder / f"{image}.png" for image in vspw[start : start + 3]] for start in (0, 3)]
    (clips / "data").rename(clips / "moved")
    for place in (clips / "moved", clips / "data"):
        if place.name == "data":
            (clips / "moved").rename(place)
        found = clips_of_frames(load_settings(None, words), str(place))
        assert prediction_files(found, clips / "out/video/gray") == expected
