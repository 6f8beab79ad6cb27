"""Scoring of frames and predictions that come from anywhere, by the script."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc.config import TOOLKIT, load_settings
from etc.data.cityscapes import official_clips
from etc.data.images import read_image, read_label, write_png
from etc.display.mp4 import Mp4Writer
from etc.errors import UserError
from etc.flow.cache import CachedFlow
from etc.flow.estimators import DisFlow
from etc.metrics import FlickerRate, TemporalConsistency
from tests.scripts import run

FRAMES, SHAPE = 7, (64, 96)


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Frames of a texture that moves, noisy train ids that move with it, and a way to score them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    texture = cv2.GaussianBlur(random.integers(0, 256, (80, 130, 3)).astype(np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    classes = cv2.resize(random.integers(0, 10, (8, 13)).astype(np.uint8), (130, 80), interpolation=cv2.INTER_NEAREST)
    for t in range(FRAMES):
        window = slice(5, 69), slice(2 * t, 2 * t + 96)
        write_png(tmp_path / f"frames/f_{t}.png", texture[window])
        noise = random.random(SHAPE) < 0.05
        write_png(tmp_path / f"pred/f_{t}.png", np.where(noise, 10, classes[window]).astype(np.uint8))
    return lambda *words: run("eval_tc", "--predictions", "pred", "FLOW.preset=ultrafast", *words)


def result_folder(tmp_path: Path) -> Path:
    """The one default result folder: named after the predictions, with a hash of what was scored."""
    (folder,) = (tmp_path / "exp/eval_tc").glob(f"{tmp_path.name}_pred-*")
    return folder


def result(tmp_path: Path) -> dict:
    return json.loads((result_folder(tmp_path) / "tc.json").read_text())


def expected(tmp_path: Path, stride: int, missing: tuple[int, ...] = (), preset: str = "ultrafast") -> tuple:
    """Strict TC, flicker and, with flow as it is before the store rounds it, published TC; pair by pair."""
    flow = CachedFlow(DisFlow(preset=preset), tmp_path / "data/flow_cache")
    paths = [(tmp_path / f"frames/f_{t}.png").resolve() for t in range(FRAMES)]
    ids = [read_label(tmp_path / f"pred/f_{t}.png") if t not in missing else None for t in range(FRAMES)]
    strict, published = TemporalConsistency(19), TemporalConsistency(19, "published")
    flicker = FlickerRate()

    def both(a, b):
        return flow(paths[a], paths[b], SHAPE), flow(paths[b], paths[a], SHAPE)

    for t in range(FRAMES - stride):
        n, m = t + stride, t + 2 * stride
        if ids[t] is None or ids[n] is None:
            continue
        strict.update(ids[t], ids[n], *both(t, n))
        images = [torch.from_numpy(read_image(paths[i])).permute(2, 0, 1)[None].float() for i in (t, n)]
        published.update(ids[t], ids[n], flow.estimator.estimate(*images)[0])
        if m < FRAMES and ids[m] is not None:
            (ab, ba), (bc, cb) = both(t, n), both(n, m)
            flicker.update(ids[t], ids[n], ids[m], ab, bc, ba, cb)
    figure = pytest.approx(published.compute()["mIoU"], abs=0.005)  # rounded flow alone is 0.013 off
    return strict.compute()["mIoU"], flicker.compute(), figure


def figures(scores: dict) -> tuple:
    return scores["strict"]["mIoU"], scores["flicker"], scores["published"]["mIoU"]


@pytest.mark.parametrize("words", [[], ["DATA.classes", "5"], ["TEST.labels=masks"]])
def test_predictions_alone_are_not_scored_on_the_quickstarts_frames(clip, words, tmp_path, capsys):
    assert clip(*words) == 2
    assert "error: predictions of which frames? Give --frames PATH" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_of_frames_needs_no_config(clip, tmp_path, capsys):
    assert clip("--frames", "frames") == 0
    written = result(tmp_path)
    assert figures(written) == expected(tmp_path, 1)
    assert written["pairs"] == {"scored": 6, "skipped": 0}
    assert written["predictions"]["ids"] == "train"
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


def test_flows_and_strides_are_scored_in_one_run_each_as_if_alone(clip, tmp_path, capsys):
    assert clip("--frames", "frames", "FLOW.evaluate_with=[dis@ultrafast, dis@fast]", "TEST.strides=[1, 2]") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    written = result(tmp_path)
    seen = [(scores["flow_name"], scores["stride"]) for scores in written["flow_settings"]]
    assert seen == [("dis@ultrafast", 1), ("dis@ultrafast", 2), ("dis@fast", 1), ("dis@fast", 2)]
    for scores in written["flow_settings"]:
        assert figures(scores) == expected(tmp_path, scores["stride"], preset=scores["flow"].removeprefix("dis-"))
    assert figures(written) == figures(written["flow_settings"][0])
    rows = (result_folder(tmp_path) / "tc.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * (1 + 19 + 1)
    assert rows[1].startswith("dis@ultrafast,1,all,,0.")


def test_pairs_across_a_gap_are_left_out_and_counted(clip, tmp_path, capsys):
    (tmp_path / "pred/f_2.png").unlink()
    assert clip("--frames", "frames") == 2
    assert "1 of 7 predictions are missing, the first is pred/f_2.png" in capsys.readouterr().err
    assert clip("--frames", "frames", "--allow-gaps", "TEST.strides=[1, 2]") == 0
    written = result(tmp_path)
    assert [scores["pairs"] for scores in written["flow_settings"]] == [
        {"scored": 4, "skipped": 2},
        {"scored": 3, "skipped": 2},
    ]
    for scores in written["flow_settings"]:
        assert figures(scores) == expected(tmp_path, scores["stride"], missing=(2,))
    assert [pair is None for pair in written["clips"][0]["pairs"]] == [False, True, True, False, False, False]


def test_a_video_file_is_scored_as_its_frames(clip, tmp_path, caplog):
    with Mp4Writer(tmp_path / "street.mp4", fps=10) as video:
        for t in range(FRAMES):
            video.write(read_image(tmp_path / f"frames/f_{t}.png"))
    assert clip("--frames", "street.mp4") == 0
    assert "7 predictions are assigned to 7 frames in sorted order" in caplog.text
    assert len(list(tmp_path.glob("data/flow_cache/frames/street-*/street_*.png"))) == FRAMES
    assert result(tmp_path)["pairs"]["scored"] == 6


@pytest.mark.parametrize("given", ["some", "every"])
def test_labels_of_a_folder_are_those_of_a_list_file(clip, tmp_path, given, caplog):
    """Also of a video: what the scorer makes of them is what it makes of the same labels in a list."""
    labelled = range(FRAMES) if given == "every" else (1, 4)
    lines = []
    for t in range(FRAMES):
        if t in labelled:
            write_png(tmp_path / f"truth/f_{t}.png", read_label(tmp_path / f"pred/f_{t}.png") // 2)
        lines.append(f"frames/f_{t}.png truth/f_{t}.png" if t in labelled else f"frames/f_{t}.png")
    (tmp_path / "clip.lst").write_text("\n".join(lines))
    words = ("DATA.label_map=none", "TEST.prediction_ids=train")
    listed = ("DATA.clip_list=clip.lst", "DATA.data_root=.", "DATA.layout=folder", "DATA.synthetic=false")
    assert clip(*words, *listed, "FLOW.name=dis", "TEST.save_folder=listed") == 0
    with caplog.at_level("INFO", logger="etc"):
        assert clip("--frames", "frames", "--labels", "truth", *words, "TEST.save_folder=found") == 0
    assert (f"2 of {FRAMES} frames have a label" in caplog.text) == (given != "every")
    one, other = (json.loads((tmp_path / name / "tc.json").read_text()) for name in ("listed", "found"))
    for key in ("segmentation", "ground_truth", "vc8_correct", "vc8_vspw", "constant"):
        assert other[key] == one[key]
    assert other["segmentation"]["pixels"] == len(labelled) * SHAPE[0] * SHAPE[1]
    assert other["frames_sha256"] == one["frames_sha256"]


def test_labels_of_own_classes_are_ids_and_names_that_do_not_fit_are_said(clip, tmp_path, caplog):
    for t in range(FRAMES):
        label = read_label(tmp_path / f"pred/f_{t}.png") // 4
        write_png(tmp_path / f"five/f_{t}.png", label)
        write_png(tmp_path / f"truth/f_{t + 1}.png", label)  # one frame late
    words = ("--frames", "frames", "--predictions", "five", "DATA.classes=5")
    assert clip(*words, "--labels", "five", "TEST.save_folder=same") == 0
    assert json.loads((tmp_path / "same/tc.json").read_text())["segmentation"]["mIoU"] == 1
    assert clip(*words, "--labels", "truth", "TEST.save_folder=late") == 0
    assert (
        f"TEST.labels truth: 1 of its PNG files are named like no frame (f_{FRAMES}.png), and 1 frames have no label "
        "(f_0.png)" in caplog.text
    )


def test_labels_below_the_frames_are_no_frames(clip, tmp_path):
    for t in range(FRAMES):
        write_png(tmp_path / f"frames/truth/f_{t}.png", read_label(tmp_path / f"pred/f_{t}.png"))
    words = ("--labels", "frames/truth", "DATA.label_map=none", "TEST.prediction_ids=train")
    assert clip("--frames", "frames", *words) == 0
    written = json.loads(next((tmp_path / "exp/eval_tc").rglob("tc.json")).read_text())
    assert written["segmentation"]["mIoU"] == 1 and len(written["clips"]) == 1


@pytest.mark.parametrize(
    "words",
    [["FLOW.occlusion=false"], ["TEST.protocols=[majority]", "TEST.strides=[1, 2]"], ["TEST.allow_gaps=true"]],
)
def test_the_flow_that_is_announced_is_the_flow_that_is_computed(clip, tmp_path, caplog, words):
    if "TEST.allow_gaps=true" in words:
        (tmp_path / "pred/f_2.png").unlink()
    words = [*words, "TEST.protocols=[majority]"] if "FLOW.occlusion=false" in words else words
    with caplog.at_level("INFO", logger="etc"):
        assert clip("--frames", "frames", *words) == 0
        assert clip("--frames", "frames", *words) == 0
    (line,) = [record.message for record in caplog.records if "FLOW.cache" in record.message]
    files = len(list(tmp_path.glob("data/flow_cache/dis-*/**/*.b2flow")))
    assert f": {files} of {files} frame pairs are not in" in line


def test_what_flow_will_take_is_said_once_before_it_is_computed(clip, tmp_path, caplog):
    with caplog.at_level("INFO", logger="etc"):
        assert clip("--frames", "frames") == 0
        assert clip("--frames", "frames") == 0
    (line,) = [record.message for record in caplog.records if "FLOW.cache" in record.message]
    pairs = 2 * (FRAMES - 1)  # forward and backward
    head = rf"flow dis-ultrafast: {pairs} of {pairs} frame pairs are not in FLOW.cache data/flow_cache: about "
    found = re.fullmatch(head + r"([\d.]+)kB of disk and \d+ s, once", line)
    files = [path.stat().st_size for path in tmp_path.glob("data/flow_cache/dis-*/**/*.b2flow")]
    assert len(files) == pairs and min(files) * pairs <= 1000 * float(found[1]) * 1.1
    assert 1000 * float(found[1]) * 0.9 <= max(files) * pairs


def test_a_video_that_was_cut_is_not_scored_with_the_predictions_of_the_whole(clip, tmp_path, capsys):
    with Mp4Writer(tmp_path / "f.mp4", fps=10) as video:
        for t in range(4):
            video.write(read_image(tmp_path / f"frames/f_{t}.png"))
    for t in range(FRAMES):
        (tmp_path / f"pred/f_{t}.png").rename(tmp_path / f"pred/f_{t:06d}.png")
    assert clip("--frames", "f.mp4") == 2
    assert f"TEST.frames f.mp4 has 4 frames, but {FRAMES} predictions are named like them" in capsys.readouterr().err


def test_a_video_whose_stem_is_two_dots_leaves_the_cache_alone(clip, tmp_path):
    with Mp4Writer(tmp_path / "street.mp4", fps=10) as video:
        for t in range(FRAMES):
            video.write(read_image(tmp_path / f"frames/f_{t}.png"))
    (tmp_path / "street.mp4").rename(tmp_path / "...mp4")
    clip("--frames", "...mp4")
    kept = tmp_path / "data/flow_cache/kept.txt"
    kept.write_text("mine")
    clip("--frames", "...mp4")
    assert kept.read_text() == "mine"


def test_folders_of_frames_are_clips_of_any_length(clip, tmp_path):
    for name, numbers in (("long", range(5)), ("short", range(5, 7))):
        for part in ("frames", "pred"):
            (tmp_path / part / name).mkdir()
            for t in numbers:
                (tmp_path / part / f"f_{t}.png").rename(tmp_path / part / name / f"{t}.png")
    assert clip("--frames", "frames") == 0
    assert [(row["clip"], len(row["pairs"])) for row in result(tmp_path)["clips"]] == [("0", 4), ("5", 1)]


def test_predictions_below_the_frames_are_no_frames(clip, tmp_path):
    assert clip("--frames", ".") == 0
    assert [len(row["pairs"]) for row in result(tmp_path)["clips"]] == [6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "nothing"], "TEST.frames nothing does not exist"),
        (["--frames", "frames/f_0.png"], "is one image"),
        (["--frames", "note.txt"], "TEST.frames note.txt is a list: give it as DATA.clip_list"),
        (["--frames", "note.mp4"], "note.mp4 is not a video that can be read"),
        (["--frames", "empty"], "holds no folder with two images or more"),
        (["--frames", "frames", "TEST.strides=[9]"], "TEST.strides [9]: the longest clip has 7 frames"),
        (["--frames", "frames", "TEST.strides=[0]"], "TEST.strides: expected list of int 1..2147483647, got [0]"),
        (
            ["--frames", "frames", "FLOW.evaluate_with=[dis@slow]"],
            "dis has no preset 'slow': expected one of ultrafast",
        ),
        (["--frames", "frames", "FLOW.evaluate_with=[flownet2]"], "FLOW.name flownet2 needs its weights"),
        (["--frames", "frames", "--cityscapes", "full"], "exclude each other"),
        (["--frames", "frames", "--labels", "nothing"], "TEST.labels nothing is no folder"),
        (["--frames", "frames", "--labels", "empty"], "none of its 0 PNG files is named like one of the 7 frames"),
        (
            ["--frames", "frames", "--labels", "small", "DATA.label_map=none"],
            "TEST.labels: small/f_3.png is 90x64, its frame ",
        ),
        (["--frames", "frames", "--labels", "small"], "--labels small: labels of 19 classes are read as label ids"),
        (["--frames", "frames", "DATA.classes=5", "DATA.names_path=five.txt"], "outside the 5 classes: "),
        (
            ["--frames", "frames", "DATA.classes=5", "DATA.names_path=data/palettes/cityscapes_names.txt"],
            "cityscapes_names.txt has 19 names, DATA.classes is 5",
        ),
        (
            ["--cityscapes", "sampled", "DATA.data_root=frames"],
            "TEST.cityscapes sampled: 3240 of 3240 files are missing",
        ),
    ],
)
def test_wrong_words_are_one_line_and_exit_code_2(clip, tmp_path, capsys, words, message):
    for name in ("note.txt", "note.mp4"):
        (tmp_path / name).write_text("no video")
    (tmp_path / "empty").mkdir()
    write_png(tmp_path / "small/f_3.png", np.zeros((64, 90), np.uint8))
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    assert clip(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")
    assert not list(tmp_path.rglob("tc.json"))


@pytest.mark.parametrize(
    ("which", "file", "clips"), [("sampled", "val_sampled_clips", 108), ("full", "val_names", 500)]
)
def test_the_published_protocol_is_thirty_frames_around_each_annotated_one(which, file, clips, tmp_path):
    annotated = (TOOLKIT / f"data/lists/cityscapes/{file}.txt").read_text().split()
    found = official_clips(tmp_path, which)
    assert len(found) == len(annotated) == clips
    for clip, stem in zip(found, annotated, strict=True):
        head, _, number = stem.rpartition("_")
        names = [Path(frame.image).name for frame in clip]
        assert names == [f"{head}_{int(number) + offset:06d}_leftImg8bit.png" for offset in range(-19, 11)]


def test_changed_name_lists_are_not_the_published_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr("etc.data.cityscapes.SPLITS", tmp_path)
    (tmp_path / "val_names.txt").write_text("frankfurt_000000_000294")
    with pytest.raises(UserError, match=r"full is 500 clips, 15000 frames.* gives 1 clips, 30 frames, 29 pairs"):
        official_clips(tmp_path, "full")


def test_the_published_clips_are_scored_from_the_official_folder(tmp_path, monkeypatch, capsys):
    """One clip stands for all: the lists are cut to it."""
    monkeypatch.chdir(tmp_path)
    stem = "frankfurt_000000_000294"
    monkeypatch.setattr("etc.data.cityscapes.PUBLISHED_CLIPS", {"sampled": (1, 30, 29)})
    monkeypatch.setattr("etc.data.cityscapes.SPLITS", tmp_path)
    (tmp_path / "val_sampled_clips.txt").write_text(stem)
    gray = np.arange(64 * 96, dtype=np.uint8).reshape(SHAPE)
    for number in range(275, 305):
        name = f"frankfurt_000000_{number:06d}"
        folder = tmp_path / "city/leftImg8bit_sequence/val/frankfurt"
        write_png(folder / f"{name}_leftImg8bit.png", np.repeat(gray[:, :, None], 3, 2))
        write_png(tmp_path / f"theirs/{name}_pred.png", np.where(gray > 99, 26, 7).astype(np.uint8))
    write_png(tmp_path / f"city/gtFine/val/frankfurt/{stem}_gtFine_labelIds.png", np.full(SHAPE, 7, np.uint8))
    words = ["--cityscapes", "sampled", "--predictions", "theirs", "FLOW.preset=ultrafast", "DATA.data_root=city"]
    assert run("eval_tc", *words, "TEST.prediction_ids=label", "TEST.save_folder=out") == 0
    written = json.loads((tmp_path / "out/tc.json").read_text())
    assert written["pairs"] == {"scored": 29, "skipped": 0}
    assert written["segmentation"]["pixels"] == 64 * 96
    (tmp_path / "theirs/frankfurt_000000_000280_pred.png").unlink()
    assert run("eval_tc", *words) == 2
    assert "1 of 30 predictions are missing" in capsys.readouterr().err


def test_settings_of_the_options_stand_beside_the_result(clip, tmp_path):
    assert clip("--frames", "frames") == 0
    settings = load_settings(result_folder(tmp_path) / "tc_settings.yaml")
    assert (settings.TEST.frames, settings.TEST.predictions, settings.DATA.synthetic) == ("frames", "pred", False)


@pytest.mark.parametrize("length", [129, 240])
def test_long_names_of_frames_are_scored_and_their_flow_is_kept(tmp_path, length):
    """The names of two frames together are longer than a file name may be."""
    pixels = np.random.default_rng(0).integers(0, 19, (48, 64), dtype=np.uint8)
    for number in range(3):
        name = f"{number:0{length}d}.png"
        write_png(tmp_path / "frames" / name, np.stack([pixels * 10] * 3, axis=-1))
        write_png(tmp_path / "masks" / name, pixels)
    words = ["--frames", tmp_path / "frames", "--predictions", tmp_path / "masks"]
    words += [f"FLOW.cache={tmp_path}/flow", f"TEST.save_folder={tmp_path}/out", "TEST.device=cpu"]
    assert run("eval_tc", *words) == 0
    assert len(list((tmp_path / "flow").rglob("*.b2flow"))) == 4


@pytest.mark.parametrize("given", ["videos", "videos/some.txt"])
def test_several_videos_are_a_clip_each(clip, tmp_path, given):
    (tmp_path / "videos").mkdir()
    for name, numbers in (("long", range(4)), ("short", range(4, 7))):
        with Mp4Writer(tmp_path / f"videos/{name}.mp4", fps=10) as video:
            for index, t in enumerate(numbers):
                video.write(read_image(tmp_path / f"frames/f_{t}.png"))
                (tmp_path / f"pred/f_{t}.png").rename(tmp_path / f"pred/{name}_{index:06d}.png")
    (tmp_path / "videos/some.txt").write_text("long.mp4\nshort.mp4\nlong.mp4\n")
    assert clip("--frames", given) == 0
    rows = [(row["clip"], len(row["pairs"])) for row in result(tmp_path)["clips"]]
    assert rows == [("long_000000", 3), ("short_000000", 2)]


@pytest.mark.parametrize("name", ["f_{}_mask.png", "mask_f_{}.png"])
def test_frames_and_masks_in_one_folder_are_scored_as_in_two(clip, tmp_path, name):
    assert clip("--frames", "frames") == 0
    expected = result(tmp_path)
    (result_folder(tmp_path) / "tc.json").unlink()
    for t in range(FRAMES):
        (tmp_path / f"pred/f_{t}.png").rename(tmp_path / "frames" / name.format(t))
    words = ("--predictions", "frames", "FLOW.preset=ultrafast", "TEST.save_folder=out")
    assert run("eval_tc", "--frames", "frames", *words) == 0
    scored = json.loads((tmp_path / "out/tc.json").read_text())
    assert figures(scored) == figures(expected)


@pytest.mark.parametrize("words", [["DATA.clip_list=x.lst"], ["DATA.clip_list", "x.lst"]])
def test_a_list_that_would_not_be_used_is_refused(clip, tmp_path, capsys, words):
    assert clip("--frames", "frames", *words) == 2
    assert "TEST.frames frames and DATA.clip_list x.lst both say which frames are read" in capsys.readouterr().err
    assert clip("--cityscapes", "sampled", *words) == 2
    assert "TEST.cityscapes sampled and DATA.clip_list x.lst" in capsys.readouterr().err


def test_a_list_with_masks_among_the_frames_is_refused(clip, tmp_path, capsys):
    for t in range(FRAMES):
        (tmp_path / f"pred/f_{t}.png").rename(tmp_path / f"frames/f_{t}_mask.png")
    names = sorted(path.name for path in (tmp_path / "frames").glob("*.png"))
    (tmp_path / "x.lst").write_text("\n".join(names))
    words = ["DATA.clip_list=x.lst", "DATA.data_root=frames", "DATA.layout=folder", "DATA.synthetic=false"]
    assert clip(*words) == 2
    assert "7 of the 14 frames of the clip of f_0.png seem to be masks of the others" in capsys.readouterr().err


def test_figures_of_a_protocol_that_labels_are_missing_for_are_named(clip, tmp_path, caplog):
    assert clip("--frames", "frames", "--vspw") == 0
    assert "no frame has a label (--labels FOLDER), which these figures need: mIoU of VSPW, weighted IoU" in caplog.text
    caplog.clear()
    assert clip("--frames", "frames", "--labels", "pred", "TEST.protocols=[vspw]", "DATA.label_map=none") == 0
    assert "no frame has a label" not in caplog.text
