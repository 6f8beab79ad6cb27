"""A finished network made steadier: what is refused, the settings, and what it still predicts."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from etc.config import load_settings
from etc.data.images import write_png
from etc.data.labels import voc_colors
from etc.display.mp4 import Mp4Writer
from etc.errors import UserError
from etc.evaluate.results import read_clip_scores
from etc.steady import agreement, check_folders, check_network, keep_settings, prepare
from model import build_model
from tests.scripts import load_script, run

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1))

    def forward(self, image):
        return self.conv(image)

def make(classes):
    torch.manual_seed(0)
    return Net(classes)
"""


def write_clip(folder, count=6, step=2, size=(64, 96)):
    """A texture that moves to the left, ``step`` pixels a frame."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[0] // 4, 60, 3), np.uint8)
    texture = Image.fromarray(noise).resize((240, size[0]), Image.Resampling.BICUBIC)
    for t in range(count):
        texture.crop((step * t, 0, step * t + size[1], size[0])).save(folder / f"{t:03d}.png")
    return folder


def prepared(video, out, **changes):
    given = {
        "network": "lraspp",
        "weights": "w.pth",
        "classes": 3,
        "steps": 30,
        "overrides": [],
        "videos": [str(video)],
    }
    return prepare(out=out, **(given | changes))


def test_a_single_frame_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--video .* holds no folder with two images or more"):
        prepared(write_clip(tmp_path / "v", count=1), tmp_path / "out")
    with pytest.raises(UserError, match="is one image"):
        prepared(tmp_path / "v/000.png", tmp_path / "out")


def test_a_video_of_one_frame_is_named(tmp_path):
    with Mp4Writer(tmp_path / "one.mp4", 10) as video:
        video.write(np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(UserError, match=r"one\.mp4 has one frame, temporal consistency needs two"):
        prepared(None, tmp_path / "out", videos=[str(write_clip(tmp_path / "v")), str(tmp_path / "one.mp4")])


def test_a_still_video_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing moves in it, so the motion loss has nothing to teach"):
        prepared(write_clip(tmp_path / "v", step=0), tmp_path / "out")


def test_two_still_pictures_are_still_though_one_follows_the_other(tmp_path):
    rng = np.random.default_rng(0)
    for number, picture in enumerate(rng.integers(0, 256, (2, 8, 12, 3), dtype=np.uint8).repeat(4, axis=0)):
        write_png(tmp_path / f"v/{number:03d}.png", picture.repeat(8, axis=0).repeat(8, axis=1))
    with pytest.raises(UserError, match="nothing moves in it"):
        prepared(tmp_path / "v", tmp_path / "out")


def test_a_video_that_is_given_twice_is_refused_before_the_training(tmp_path):
    folder = str(write_clip(tmp_path / "v"))
    with pytest.raises(UserError, match="names some frames twice"):
        prepared(None, tmp_path / "out", videos=[folder, f"{folder}/"])


def test_frames_too_small_for_flow_are_refused(tmp_path):
    with pytest.raises(UserError, match="too small for flow"):
        prepared(write_clip(tmp_path / "tiny", size=(8, 9)), tmp_path / "out")


def test_a_file_of_names_is_looked_for_before_a_video_is_unpacked(tmp_path):
    torch.save(build_model("lraspp", classes=5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"nothing\.txt"):
        check_network("lraspp", str(tmp_path / "w.pth"), 5, ["DATA.names_path=nothing.txt"])


def test_clips_of_several_sizes_are_refused(tmp_path):
    write_clip(tmp_path / "v/a")
    write_clip(tmp_path / "v/b", size=(48, 96))
    with pytest.raises(UserError, match=r"different sizes, .*v/a/000\.png of 96x64 and .*v/b/000\.png of 96x48"):
        prepared(tmp_path / "v", tmp_path / "out")
    Image.new("RGB", (48, 32)).save(write_clip(tmp_path / "w") / "003.png")
    with pytest.raises(UserError, match=r"w/003\.png of 48x32"):
        prepared(tmp_path / "w", tmp_path / "out")


def test_fewer_frames_than_a_training_step_has_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds 3 frames: a training step needs 4"):
        prepared(write_clip(tmp_path / "v", count=3), tmp_path / "out")
    prepared(tmp_path / "v", tmp_path / "out", overrides=["TRAIN.batch_size=2"])


def test_a_folder_of_another_video_is_refused_and_its_lists_stay(tmp_path):
    prepared(write_clip(tmp_path / "v"), tmp_path / "out")
    before = (tmp_path / "out/train.lst").read_text()
    with pytest.raises(UserError, match="holds the training on other frames: give another folder"):
        prepared(write_clip(tmp_path / "w"), tmp_path / "out")
    assert (tmp_path / "out/train.lst").read_text() == before
    prepared(tmp_path / "v", tmp_path / "out")  # goes on


def test_several_videos_are_trained_on_together(tmp_path):
    videos = [str(write_clip(tmp_path / name)) for name in "vw"]
    prepared(None, tmp_path / "out", videos=videos)
    assert len((tmp_path / "out/train.lst").read_text().split()) == 12
    assert len((tmp_path / "out/clips.lst").read_text().split("\n\n")) == 2


def test_networks_with_layer_norms_are_trained_with_adamw(tmp_path, monkeypatch):
    source = NETWORK.replace("nn.ReLU()", "nn.ReLU(), nn.GroupNorm(1, 8)")
    (tmp_path / "with_group_norm.py").write_text(source)
    (tmp_path / "with_layer_norm.py").write_text(source.replace("nn.GroupNorm(1, 8)", "nn.LayerNorm([32, 48])"))
    monkeypatch.syspath_prepend(tmp_path)
    video, used = write_clip(tmp_path / "v"), {}
    for network in ("lraspp", "with_group_norm:make", "with_layer_norm:make"):
        words = prepared(video, tmp_path / network.partition(":")[0], network=network)
        used[network] = load_settings(None, words).TRAIN.optimizer
    assert used == {"lraspp": "sgd", "with_group_norm:make": "sgd", "with_layer_norm:make": "adamw"}


@pytest.mark.parametrize(
    ("out", "message"), [("v", "is or lies in --video"), ("v/out", "is or lies in --video"), ("a b", "has spaces")]
)
def test_a_folder_in_the_video_or_with_spaces_is_refused(out, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check_folders([str(write_clip(tmp_path / "v"))], tmp_path / out)


def test_weights_that_do_not_fit_are_refused_by_the_names_of_the_arguments(tmp_path):
    path = str(tmp_path / "w.pth")
    torch.save(build_model("lraspp", classes=5).state_dict(), path)
    check_network("lraspp", path, 5, [])
    with pytest.raises(UserError, match=r"--network lraspp --classes 4 --weights .*w\.pth") as raised:
        check_network("lraspp", path, 4, [])
    assert "weight_strict" not in str(raised.value)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("return self.conv(image).softmax(1)", "returns probabilities, expected logits"),
        ("return self.conv(image).sigmoid()", "returns probabilities, expected logits"),
        ("return self.conv(image) / 0", "NaN or infinite: are these its weights"),
        ("return self.conv(image), self.conv(image)", "returned a tuple"),
        ("x = self.conv(image); return (x, x) if self.training else x", "returned a tuple"),
    ],
)
def test_a_network_that_returns_no_logits_is_refused_first(forward, message, tmp_path, monkeypatch):
    (tmp_path / "theirs_to_refuse.py").write_text(NETWORK.replace("return self.conv(image)", forward))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs_to_refuse", raising=False)
    import theirs_to_refuse

    torch.save(theirs_to_refuse.make(3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        check_network("theirs_to_refuse:make", str(tmp_path / "w.pth"), 3, [])


def test_a_frozen_network_is_refused_first(tmp_path, monkeypatch):
    (tmp_path / "frozen_to_refuse.py").write_text(
        NETWORK.replace("return Net(classes)", "return Net(classes).requires_grad_(False)")
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "frozen_to_refuse", raising=False)
    import frozen_to_refuse

    torch.save(frozen_to_refuse.make(3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"--network frozen_to_refuse:make .*w\.pth: all parameters are frozen"):
        check_network("frozen_to_refuse:make", str(tmp_path / "w.pth"), 3, [])


def test_a_run_of_other_settings_is_refused_by_the_argument_and_its_settings_stay(tmp_path):
    (tmp_path / "out").mkdir()
    words = prepared(write_clip(tmp_path / "v"), tmp_path / "out")
    path = keep_settings(load_settings(None, words), tmp_path / "out")
    before = path.read_text()
    for more, named in {
        "TRAIN.weight=x.pth": r"--weights w\.pth, now it is x\.pth: give another folder",
        "TRAIN.epochs=3": "--steps, in epochs 30, now it is 3",
        "TRAIN.st_weight=50": r"TRAIN\.st_weight 4\.0, now it is 50\.0",
    }.items():
        with pytest.raises(UserError, match=named):
            keep_settings(load_settings(None, [*words, more]), tmp_path / "out")
    assert path.read_text() == before
    keep_settings(load_settings(None, [*words, "TRAIN.workers=1"]), tmp_path / "out")


def test_crops_are_whole_frames_and_the_epochs_give_the_steps(tmp_path):
    words = prepared(write_clip(tmp_path / "v"), tmp_path / "out", overrides=["TRAIN.st_weight=4"])
    settings = load_settings(None, words)
    train = settings.TRAIN
    assert (train.train_h, train.train_w, train.scale_min, train.scale_max) == (64, 96, 1, 1)
    assert train.epochs == 30 and train.st_weight == 4 and train.weight == "w.pth"  # 30 steps of 4 of 6 frames
    assert (settings.DISTILL.teacher_arch, settings.DISTILL.teacher_weight) == ("lraspp", "w.pth")
    assert prepared(tmp_path / "v", tmp_path / "out", network="psp")[-1] == "TRAIN.weight=w.pth"


def test_colours_are_those_of_pascal_voc():
    assert voc_colors(5) == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert voc_colors(12)[8:10] == [(64, 0, 0), (192, 0, 0)] and len(set(voc_colors(200))) == 200


def test_agreement_equals_a_loop(tmp_path):
    settings = load_settings(None, prepared(write_clip(tmp_path / "v"), tmp_path / "out"))
    random = np.random.default_rng(1)
    ids = {name: random.integers(0, 3, (6, 64, 96), np.uint8) for name in ("before", "after")}
    ids["before"][ids["before"] == 2] = 1  # the third class was never predicted
    runs = []
    for name, frames in ids.items():
        runs.append(
            load_settings(None, [*prepared(tmp_path / "v", tmp_path / "out"), f"TEST.save_folder={tmp_path / name}"])
        )
        for t, frame in enumerate(frames):
            path = tmp_path / name / "video/gray" / f"{t:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path)
    kept, shares = agreement(*runs)
    same = ids["before"] == ids["after"]
    assert kept == pytest.approx(same.mean())
    assert shares == pytest.approx({f"class {k}": same[ids["before"] == k].mean() for k in (0, 1)})
    assert settings.DATA.classes == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", 0], "--steps 0: expected 1 or more"),
        (["--weights", "no.pth"], "--weights no.pth does not exist"),
        (["TRAIN.st_wait", 1], "st_wait"),
        (["--classes", 1], "classes"),
        (["--video", "no.mp4"], "--video no.mp4 does not exist"),
        (["--video", "v", "no.mp4"], "--video no.mp4 does not exist"),
        (["--video", "v", "TRAIN.st_wait", 1], "st_wait"),  # settings behind the videos
        (["--out", "v"], "--out v is or lies in --video"),
        ([], "--network lraspp --classes 3 --weights w.pth: TEST.ckpt_path"),
    ],
)
def test_wrong_arguments_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_bytes(b"")
    given = ["--network", "lraspp", "--weights", "w.pth", "--classes", 3, "--video", write_clip(tmp_path / "v")]
    assert run("steady", *given, "--out", "out", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ") and message in error[-1]


@pytest.mark.slow
def test_one_command_makes_a_network_of_ones_own_steadier(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "steadynet.py").write_text(NETWORK)
    import steadynet

    torch.save(steadynet.make(3).state_dict(), tmp_path / "w.pth")
    write_clip(tmp_path / "v", count=8)
    words = ["--network", "steadynet:make", "--weights", "w.pth", "--classes", "3", "--video", "v", "--out", "out"]
    assert load_script("steady").main([*words, "--steps", "6"]) == 0
    printed = capsys.readouterr().out
    assert "of all pixels" in printed
    before, after = (read_clip_scores(tmp_path / f"out/{name}/result") for name in ("before", "after"))
    assert before.checkpoint != after.checkpoint and before.frames_sha256 == after.frames_sha256
    old, new = (scores.first.results["pixel_consistency"] for scores in (before, after))
    assert ("the steadier network: out/after/last.pth" if new > old else "it did not become steadier") in printed
    assert (tmp_path / "out/comparison/report.html").is_file()
