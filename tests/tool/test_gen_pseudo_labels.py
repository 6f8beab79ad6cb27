"""The script that labels unlabelled video, with a teacher whose probabilities follow from a pixel's colour alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc.data.images import write_png
from etc.data.layouts import LAYOUTS
from etc.data.lists import read_clips, read_frames
from etc.data.origin import read_origin
from etc.data.transform import normalise
from etc.flow.files import data_set_flow, read_flow
from tests.scripts import TOOLS, run

# cityscapesScripts, labels.py: id of train id 0, 1, ...
LABEL_IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], np.uint8)
ALL_FRAMES, LISTED = 30, 5  # of the one training snippet of the tiny world


@pytest.fixture
def words(tiny_training, tmp_path, monkeypatch) -> list[str]:
    """Settings under which the teacher is one 1x1 convolution."""
    (tmp_path / "pixel_teacher.py").write_text(
        "from torch import nn\n\n\ndef build(*, classes):\n    return nn.Conv2d(3, classes, 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return [*tiny_training, "TRAIN.arch=pixel_teacher:build", f"TEST.ckpt_path={teacher(tmp_path / 'teacher.pth')}"]


def teacher(path: Path, *, seed: int = 0, spread: float = 1.5) -> Path:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(19, 3, 1, 1, generator=rng) * spread
    torch.save({"student": {"weight": weight, "bias": torch.zeros(19).index_fill_(0, torch.tensor([0]), 0.5)}}, path)
    return path


def probabilities(checkpoint: Path, image: Path) -> np.ndarray:
    """What the teacher says of a frame, float64 ``[19, H, W]``."""
    weights = torch.load(checkpoint, weights_only=True)["student"]
    colors = normalise(cv2.imread(str(image))[..., ::-1]).astype(np.float64)
    logits = np.einsum("kc,chw->khw", weights["weight"][..., 0, 0].double().numpy(), colors)
    exponentials = np.exp(logits + weights["bias"].double().numpy()[:, None, None])
    return exponentials / exponentials.sum(0)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def label_files(out: Path) -> list[Path]:
    return sorted((out / "labels").glob("*.png"))


def images_of(root: Path) -> list[Path]:
    return sorted((root / "leftImg8bit/train").rglob("*.png"))


def test_sure_pixels_get_the_teachers_class_as_label_ids_and_the_rest_is_ignored(words, tiny_world, tmp_path, capsys):
    out = tmp_path / "pseudo"
    assert run("gen_pseudo_labels", *words, "--threshold", 0.6, "--out", out) == 0
    kept, predicted, right = np.zeros(19), np.zeros(19), {"before": [0, 0], "after": [0, 0]}
    assert len(label_files(out)) == ALL_FRAMES
    for file, image in zip(label_files(out), images_of(tiny_world), strict=True):
        assert file.name == image.name
        said = probabilities(tmp_path / "teacher.pth", image)
        label, sure = read(file), said.max(0) >= 0.6
        clear = np.abs(said.max(0) - 0.6) > 0.002  # confidences are kept in steps
        expected = np.where(sure, LABEL_IDS[said.argmax(0)], 255)
        np.testing.assert_array_equal(label[clear], expected[clear])
        own = label != 255
        kept += np.bincount(said.argmax(0)[own], minlength=19)
        predicted += np.bincount(said.argmax(0).ravel(), minlength=19)
        truth = read(
            tiny_world / "gtFine/train" / image.parent.name / image.name.replace("leftImg8bit", "gtFine_labelIds")
        )
        counted = np.isin(truth, LABEL_IDS)
        for when, pixels in (("before", counted), ("after", counted & own)):
            right[when][0] += (truth == LABEL_IDS[said.argmax(0)])[pixels].sum()
            right[when][1] += pixels.sum()
    report = json.loads((out / "pseudo_labels.json").read_text())
    np.testing.assert_array_equal(report["predicted_pixels"], predicted)
    np.testing.assert_array_equal(report["kept_pixels"], kept)
    assert 0.1 < kept.sum() / predicted.sum() < 0.9
    for when, (hits, pixels) in right.items():
        assert report[when]["allAcc"] == pytest.approx(hits / pixels, abs=1e-12)
    text = capsys.readouterr().out
    assert "against the labels that 30 of the frames have" in text and max(map(len, text.splitlines()[:-1])) <= 100
    assert (out / "settings.yaml").is_file() and read(out / "examples.png").shape[2] == 3


@pytest.mark.slow
def test_the_list_trains_a_network_beside_the_labels_that_exist(words, tiny_training, tiny_world, tmp_path):
    out = tmp_path / "pseudo"
    assert run("gen_pseudo_labels", *words, "--out", out, "--threshold", 0.5) == 0
    frames = read_frames(out / "train.lst")
    own = {frame.image: frame.label for frame in read_frames(tiny_world / "list/train.lst")}
    assert len(frames) == ALL_FRAMES and len(own) == LISTED
    for frame in frames:
        file = (tiny_world / frame.label).resolve()
        if frame.image in own:
            assert frame.label == own[frame.image]
        else:
            assert file == (out / "labels" / Path(frame.image).name).resolve()
    more = [f"DATA.train_list={out}/train.lst", "TRAIN.st_weight=0", "TRAIN.epochs=1", "TRAIN.val_clips=1"]
    assert run("train_with_flow", *tiny_training, *more) == 0
    assert (tmp_path / "run/best.pth").is_file()


def test_of_each_class_the_surest_share_is_kept(words, tiny_world, tmp_path):
    out = tmp_path / "pseudo"
    assert run("gen_pseudo_labels", *words, "--keep-share", 0.3, "--out", out) == 0
    said = np.stack([probabilities(tmp_path / "teacher.pth", image) for image in images_of(tiny_world)])
    confidence, ids = said.max(1), said.argmax(1)
    kept = np.stack([read(file) for file in label_files(out)]) != 255
    report = json.loads((out / "pseudo_labels.json").read_text())
    for k in np.unique(ids):
        own = ids == k
        assert kept[own].sum() >= 0.3 * own.sum()
        assert report["kept_share"][k] == kept[own].mean()
        surest = np.sort(confidence[own])[::-1][int(np.ceil(0.3 * own.sum())) - 1]
        # One step of the confidence, 0.3% of 1 - p, is the resolution.
        assert 1 - confidence[own & kept].min() <= (1 - surest) * 1.003 + 1e-6
        assert confidence[own & ~kept].max(initial=0) <= surest + 1e-6
        assert report["least_confidence"][k] == pytest.approx(surest, abs=0.003)


def test_a_threshold_that_keeps_nothing_is_said_and_no_list_is_announced(words, tmp_path, capsys):
    assert run("gen_pseudo_labels", *words, "--out", tmp_path / "pseudo", "--threshold", 0.999999) == 2
    printed = capsys.readouterr()
    assert "no pixel of any frame was kept: lower --threshold" in printed.err and "to train on" not in printed.out


def test_a_second_run_predicts_only_what_is_missing_damaged_or_of_unknown_origin(words, tmp_path, capsys):
    out = tmp_path / "pseudo"
    assert run("gen_pseudo_labels", *words, "--out", out, "--threshold", 0.5) == 0
    raw = sorted((out / "teacher/raw").glob("*.png"))
    labels = [read(file) for file in label_files(out)]
    raw[0].unlink()
    raw[1].write_bytes(raw[1].read_bytes()[:-20])
    origin = read_origin(raw[2])
    write_png(raw[2], read(raw[2]))
    times = [path.stat().st_mtime_ns for path in raw[3:]]
    (out / "train.lst").unlink()
    assert run("gen_pseudo_labels", *words, "--out", out, "--threshold", 0.5) == 0
    assert [path.stat().st_mtime_ns for path in raw[3:]] == times
    assert read_origin(raw[2]) == origin
    for file, before in zip(label_files(out), labels, strict=True):
        np.testing.assert_array_equal(read(file), before)
    assert (out / "train.lst").is_file()
    assert run("gen_pseudo_labels", *words, "--out", out, "--keep-share", 0.9) == 0
    assert [path.stat().st_mtime_ns for path in raw[3:]] == times, "another choice needs no prediction"


def test_predictions_of_another_teacher_are_not_mixed_in(words, tiny_world, tmp_path, capsys):
    out = tmp_path / "pseudo"
    assert run("gen_pseudo_labels", *words, "--out", out) == 0
    other = f"TEST.ckpt_path={teacher(tmp_path / 'other.pth', seed=1)}"
    assert run("gen_pseudo_labels", *words, other, "--out", out) == 2
    assert "made with another checkpoint_sha256: use --overwrite" in capsys.readouterr().err
    assert (out / "train.lst").is_file()
    assert run("gen_pseudo_labels", *words, other, "--out", out, "--overwrite", "--threshold", 0) == 0
    image = read_frames(out / "train.lst")[0].image
    expected = probabilities(tmp_path / "other.pth", tiny_world / image)
    label = read(out / "labels" / Path(image).name)
    assert (label == LABEL_IDS[expected.argmax(0)]).mean() > 0.999


def test_a_constant_teacher_is_confirmed_wherever_a_neighbour_shows_the_pixel(words, tiny_world, tmp_path):
    constant = torch.load(teacher(tmp_path / "constant.pth", spread=0.0), weights_only=True)["student"]
    assert constant["weight"].abs().sum() == 0
    out, clips = tmp_path / "pseudo", tiny_world / "list/val_clips.lst"
    more = [f"TEST.ckpt_path={tmp_path}/constant.pth", "--frames", clips, "--threshold", 0, "--temporal"]
    assert run("gen_pseudo_labels", *words, *more, "--out", out) == 0
    shares = []
    for clip in read_clips(clips, layout=LAYOUTS["cityscapes"]):
        paths = [tiny_world / frame.image for frame in clip]
        for t, path in enumerate(paths):
            seen = np.zeros((64, 128), bool)
            for k in (t - 1, t + 1):
                if 0 <= k < len(paths):
                    seen |= read_flow(data_set_flow(path, paths[k]))[1]
            label = read(out / "labels" / path.name)
            np.testing.assert_array_equal(label, np.where(seen, 7, 255))
            shares.append(seen.mean())
    assert 0.5 < np.mean(shares) < 0.999
    report = json.loads((out / "pseudo_labels.json").read_text())
    assert report["choice"] == {"threshold": 0.0, "keep_share": None, "temporal": True}


def test_a_folder_of_frames_without_labels_needs_no_list(words, tiny_world, tmp_path, capsys):
    folder = tmp_path / "video"
    folder.mkdir()
    for i, image in enumerate(images_of(tiny_world)[:3]):
        (folder / f"shot_{i + 8}.png").write_bytes(image.read_bytes())
    more = [f"DATA.data_root={folder}", "DATA.layout=folder", "DATA.synthetic=false", "DATA.label_map=none"]
    more += ["--frames", folder, "--threshold", 0, "--out", tmp_path / "pseudo"]
    assert run("gen_pseudo_labels", *words, *more) == 0
    assert "right" not in capsys.readouterr().out
    frames = read_frames(tmp_path / "pseudo/train.lst")
    assert [frame.image for frame in frames] == ["shot_8.png", "shot_9.png", "shot_10.png"]
    for frame in frames:
        expected = probabilities(tmp_path / "teacher.pth", folder / frame.image).argmax(0)
        assert (read(folder / frame.label) == expected).mean() > 0.999, "train ids, as DATA.label_map none has them"
    assert run("gen_pseudo_labels", *words, *more, "--temporal", "FLOW.name=dis", "FLOW.preset=ultrafast") == 0


@pytest.mark.slow
def test_two_processes_make_the_same_labels(words, tmp_path):
    more = ["--keep-share", "0.4", "--temporal", "FLOW.name=dis", "FLOW.preset=ultrafast"]
    assert run("gen_pseudo_labels", *words, *more, "--out", tmp_path / "one") == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(TOOLS / "gen_pseudo_labels.py"), *words, *more, "--out", str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TOOLS.parent}:{tmp_path}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for one, two in zip(label_files(tmp_path / "one"), label_files(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(read(one), read(two))
    reports = [json.loads((tmp_path / name / "pseudo_labels.json").read_text()) for name in ("one", "two")]
    assert reports[0] == reports[1]
    lists = [(tmp_path / name / "train.lst").read_text().replace(f"/{name}/", "/") for name in ("one", "two")]
    assert lists[0] == lists[1]


def test_what_cannot_be_done_is_one_line_before_anything_is_written(words, tiny_world, tmp_path, capsys):
    out = tmp_path / "pseudo"
    (tmp_path / "empty").mkdir()
    spaced = tmp_path / "my video"
    spaced.mkdir()
    (spaced / "a.png").write_bytes(images_of(tiny_world)[0].read_bytes())
    (tmp_path / "apart.lst").write_text("".join(f"{f.image}\n" for f in read_frames(tiny_world / "list/train.lst")))
    for more, message in {
        ("--temporal",): "--temporal with FLOW.name dataset",
        ("--temporal", "--frames", f"{tmp_path}/apart.lst"): "no two of the frames follow each other",
        ("--threshold", "1"): "--threshold 1.0: expected 0 <= T < 1",
        ("--threshold", "0.5", "--keep-share", "0.5"): "either --threshold or --keep-share",
        ("--frames", f"{tmp_path}/empty"): "holds no image",
        ("--frames", f"{spaced}"): "holds white space",
        ("--frames", f"{tmp_path}/none.lst"): "cannot read the list file",
        (f"TEST.ckpt_path={tmp_path}/none.pth",): "none.pth does not exist",
    }.items():
        assert run("gen_pseudo_labels", *words, *more, "--out", out) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and message in errors[0]
        assert not out.exists()
