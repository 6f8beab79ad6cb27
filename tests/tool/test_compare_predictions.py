"""Two methods on one video, by one command: what it computes once, what it writes, and what it refuses."""

import json
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from etc.config import load_settings
from etc.data.images import read_image, write_png
from etc.data.sources import clips_to_score
from etc.display.mp4 import Mp4Writer
from tests.scripts import run

FRAMES, SHAPE = 10, (48, 64)
WORDS = ("FLOW.preset=ultrafast", "DATA.classes=5", "DATA.names_path=names.txt", "DATA.colors_path=colors.txt")
TRAIN_IDS = ("TEST.prediction_ids=train", "DATA.label_map=none")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A video at 12.5 frames per second, two methods' predictions of it, and the labels of two frames."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    texture = cv2.GaussianBlur(random.integers(0, 256, (48, 96, 3)).astype(np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    classes = cv2.resize(random.integers(0, 5, (4, 8)).astype(np.uint8), (96, 48), interpolation=cv2.INTER_NEAREST)
    with Mp4Writer(tmp_path / "ride.mp4", 12.5) as video:
        for t in range(FRAMES):
            window = slice(None), slice(2 * t, 2 * t + 64)
            video.write(np.ascontiguousarray(texture[window]))
            for name, share in (("one", 0.02), ("two", 0.1)):
                noise = random.random(SHAPE) < share
                ids = np.where(noise, (classes[window] + 1) % 5, classes[window])
                write_png(tmp_path / name / f"ride_{t:06d}.png", ids.astype(np.uint8))
            if t in (2, 7):
                write_png(tmp_path / f"labels/ride_{t:06d}.png", classes[window])
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    (tmp_path / "colors.txt").write_text("\n".join(f"{50 * k} {200 - 40 * k} 100" for k in range(5)))
    return tmp_path


def compare(*words: str) -> int:
    return run("compare", *words, "--out", "out", "--no-speed", *WORDS, *TRAIN_IDS)


def both(frames: str = "ride.mp4", one: str = "A=one", two: str = "B=two") -> list[str]:
    return ["--frames", frames, "--predictions", one, two]


def score(frames: str, predictions: str, folder: str, *words: str) -> dict:
    own = [*WORDS, *TRAIN_IDS, f"TEST.save_folder={folder}", *words]
    assert run("eval_tc", "--frames", frames, "--predictions", predictions, *own) == 0
    return json.loads(Path(folder, "tc.json").read_text())


def test_two_methods_are_scored_as_each_alone_on_one_set_of_frames_and_flow(here, caplog):
    with caplog.at_level("INFO", logger="etc"):
        assert compare(*both(), "--labels", "labels") == 0
    said = [record.message for record in caplog.records]
    assert (
        sum("unpacking ride.mp4" in line for line in said) == sum("are not in FLOW.cache" in line for line in said) == 1
    )
    assert len(list(here.rglob("ride_000003.png"))) == 3  # the frame and two predictions
    assert len(list(here.rglob("*.b2flow"))) == 2 * (FRAMES - 1)
    for name, folder in (("A", "one"), ("B", "two")):
        alone = score("ride.mp4", folder, f"alone_{name}", "TEST.labels=labels", f"FLOW.cache={here}/another")
        together = json.loads((here / f"out/runs/{name}/tc.json").read_text())
        for key in ("strict", "published", "flicker", "segmentation", "clip_counts", "strict_interval"):
            assert together[key] == alone[key]
        assert together["segmentation"]["pixels"] == 2 * SHAPE[0] * SHAPE[1]
    first, second = json.loads((here / "out/comparison.json").read_text())
    assert (first["run"], second["run"]) == ("A", "B") and second["strict difference high"] < 0


def test_what_is_shown_has_the_frame_rate_of_the_video(here):
    assert compare(*both(), "TEST.fps=5") == 0
    with av.open(str(here / "out/side_by_side.mp4")) as container:
        assert container.streams.video[0].average_rate == 12.5
    assert '"fps": 12.5' in (here / "out/report.html").read_text()


def test_frames_of_a_folder_are_shown_at_the_rate_of_the_settings(here):
    unpack(here / "frames")
    assert compare(*both("frames"), "TEST.fps=5") == 0
    with av.open(str(here / "out/side_by_side.mp4")) as container:
        assert container.streams.video[0].average_rate == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "ride.mp4"], "--frames goes with --predictions NAME=FOLDER ..."),
        (["--frames", "ride.mp4", "--runs", "A=one"], "--frames goes with --predictions NAME=FOLDER ..."),
        (["--labels", "labels"], "--labels goes with --predictions NAME=FOLDER ..."),
        (["--predictions", "A=one"], "--predictions needs --frames, or --config FILE that names the clips"),
        ([*both(), "--runs", "A=one"], "--runs and --predictions exclude each other"),
        (["--frames", "ride.mp4", "--predictions", "one", "two"], "--predictions takes NAME=FOLDER, got one two"),
        (both(two="A=two"), "--predictions: two runs are called A"),
        (both(two="../B=two"), "'../B' cannot be the name of a run"),
        (both(two="B=nothing"), "nothing holds no predictions"),
        (both("nothing.mp4"), "TEST.frames nothing.mp4 does not exist"),
        (both(two="B=labels"), "8 of 10 predictions are missing, the first is labels/ride_000000.png"),
        (both("."), "--predictions A=one lies below --frames ., whose folders are read as frames"),
        ([*both(), "--labels", "nothing"], "TEST.labels nothing is no folder"),
        ([*both(), "DATA.clip_list=x.lst"], "TEST.frames ride.mp4 and DATA.clip_list x.lst both say"),
    ],
)
def test_what_cannot_be_compared_is_one_line_before_any_flow_is_computed(here, capsys, words, message):
    assert compare(*words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line
    assert not list(here.rglob("*.b2flow")) and not list(here.rglob("tc.json"))


def unpack(folder: Path, first: int = 0, name: str = "ride_{:06d}") -> None:
    """The frames of the video, as somebody else unpacks them: other numbers, other files, the same pixels."""
    with av.open("ride.mp4") as container:
        for t, frame in enumerate(container.decode(video=0), start=first):
            write_png(folder / f"{name.format(t)}.png", frame.to_ndarray(format="rgb24"), compression=9)


@pytest.mark.parametrize("order", [("film", "folder"), ("folder", "film")])
def test_a_video_and_the_folder_of_its_frames_are_the_same_whatever_the_names(here, order):
    """The names of the folder begin with 1: matched by them, its predictions would be those of the frames before."""
    unpack(here / "frames", first=1)
    for t in range(FRAMES):
        write_png(here / f"renamed/ride_{t + 1:06d}.png", cv2.imread(f"two/ride_{t:06d}.png", cv2.IMREAD_UNCHANGED))
    score("ride.mp4", "one", "film")
    score("frames", "renamed", "folder")
    assert compare("--runs", *(f"{name}={name}" for name in order)) == 0
    mixed = {row["run"]: row for row in json.loads((here / "out/comparison.json").read_text())}
    score("ride.mp4", "two", "other")
    assert compare("--runs", "film=film", "other=other") == 0
    pure = {row["run"]: row for row in json.loads((here / "out/comparison.json").read_text())}
    for one, other in (("film", "film"), ("folder", "other")):
        assert [mixed[one][key] for key in ("strict", "flicker")] == [pure[other][key] for key in ("strict", "flicker")]
    sign = 1 if order[0] == "film" else -1
    assert mixed[order[1]]["strict difference"] == pytest.approx(sign * pure["other"]["strict difference"], abs=1e-12)


def test_classes_in_common_are_scored_again_on_the_own_frames_of_each_run(here):
    """The second method lacks a class: then every run is scored again, each by the names of its own frames."""
    unpack(here / "frames", first=1)
    for t in range(FRAMES):
        ids = cv2.imread(f"one/ride_{t:06d}.png", cv2.IMREAD_UNCHANGED)
        painted = np.where(ids == 4, 0, ids).astype(np.uint8)
        write_png(here / f"painted/ride_{t:06d}.png", painted)
        write_png(here / f"renamed/ride_{t + 1:06d}.png", painted)
    for folder, frames, predictions in (
        ("film", "ride.mp4", "one"),
        ("alike", "ride.mp4", "painted"),
        ("folder", "frames", "renamed"),
    ):
        score(frames, predictions, folder)
    found = []
    for other in ("alike", "folder"):
        assert compare("--runs", "film=film", f"other={other}") == 0
        found.append(json.loads((here / "out/comparison.json").read_text()))
    assert found[0] == found[1] and found[0][1]["lacks"] == "e"


def test_other_frames_of_the_same_number_are_refused(here, capsys):
    unpack(here / "frames")
    path = here / "frames/ride_000004.png"
    changed = read_image(path)
    changed[0, 0, 0] ^= 1
    write_png(path, changed, compression=9)
    score("ride.mp4", "one", "film")
    score("frames", "two", "folder")
    assert compare("--runs", "a=film", "b=folder") == 2
    assert "a and b were scored on different frames: those of" in (line := capsys.readouterr().err.splitlines()[-1])
    assert "ride_000004.png are not the same, pixel by pixel" in line


def test_frames_with_other_labels_are_refused(here, capsys):
    unpack(here / "frames", first=1)
    for t in range(FRAMES):
        write_png(here / f"renamed/ride_{t + 1:06d}.png", cv2.imread(f"two/ride_{t:06d}.png", cv2.IMREAD_UNCHANGED))
    score("ride.mp4", "one", "film", "TEST.labels=labels")
    score("frames", "renamed", "folder")
    assert compare("--runs", "a=film", "b=folder") == 2
    assert "a and b were scored on different labels: those of" in capsys.readouterr().err.splitlines()[-1]


def test_frames_that_changed_after_the_scoring_cannot_tell(here, capsys):
    unpack(here / "frames", first=1, name="other_{}")
    for t in range(FRAMES):
        write_png(here / f"renamed/other_{t + 1}.png", cv2.imread(f"two/ride_{t:06d}.png", cv2.IMREAD_UNCHANGED))
    score("ride.mp4", "one", "film")
    score("frames", "renamed", "folder")
    write_png(here / "frames/other_3.png", np.zeros((*SHAPE, 3), np.uint8))
    assert compare("--runs", "a=film", "b=folder") == 2
    assert "no longer holds the frames and labels that b was scored on" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("out", ["one", "one/scores", "labels/x"])
def test_output_does_not_go_into_what_is_read(here, capsys, out):
    before = sorted(here.rglob("*"))
    assert run("compare", *both(), "--labels", "labels", "--out", out, *WORDS, *TRAIN_IDS) == 2
    assert f"--out {out} is or lies in" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_predictions_of_several_videos_lie_in_folders_of_their_names(here):
    """Their files are numbered as another tool numbered them."""
    for name in ("a", "b"):
        (here / "rides").mkdir(exist_ok=True)
        (here / f"rides/{name}.mp4").write_bytes((here / "ride.mp4").read_bytes() + name.encode())
        for method in ("one", "two"):
            (here / f"by_{method}/{name}").mkdir(parents=True)
            for t in range(FRAMES):
                own = here / f"{method}/ride_{t:06d}.png"
                (here / f"by_{method}/{name}/{t + 1:03d}.png").write_bytes(own.read_bytes())
    assert compare(*both("rides", "A=by_one", "B=by_two")) == 0
    one = json.loads((here / "out/runs/A/tc.json").read_text())
    alone = score("ride.mp4", "one", "alone")
    assert one["strict"]["mIoU"] == pytest.approx(alone["strict"]["mIoU"]) and len(one["clips"]) == 2


def test_the_frames_themselves_are_no_predictions(here, capsys):
    unpack(here / "frames")
    assert compare(*both("frames", "A=frames", "B=two")) == 2
    assert "the PNG files there are the frames themselves" in capsys.readouterr().err


def test_a_video_with_spaces_in_its_name_is_unpacked_into_names_that_lists_take(here, caplog):
    Path("ride.mp4").rename("my ride.mp4")
    settings = load_settings(None, ["TEST.frames=my ride.mp4", f"FLOW.cache={here / 'cache'}"])
    with caplog.at_level("INFO", logger="etc"):
        (clip,) = clips_to_score(settings)
    assert [Path(frame.image).name for frame in clip] == [f"my_ride_{t:06d}.png" for t in range(FRAMES)]
    assert not any(character.isspace() for frame in clip for character in frame.image)
    assert re.search(rf"{FRAMES} frames: about \d.*B of disk, \d\d:\d\d \(minutes:seconds\) to go", caplog.text)
