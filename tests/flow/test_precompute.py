"""Filling the flow store ahead of time, by one process, in shares, and by two processes at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc import distributed
from etc.config import load_settings
from etc.data.images import read_image
from etc.data.layouts import LAYOUTS
from etc.data.lists import read_clips
from etc.errors import UserError
from etc.flow.build import flow_source
from etc.flow.files import read_flow
from etc.flow.precompute import duration, frame_pairs, precompute

REPOSITORY = Path(__file__).resolve().parents[2]

FILL = """
import sys, time
from pathlib import Path
from etc.config import load_settings
from etc.flow.precompute import precompute
print("ready", flush=True)
while not Path(sys.argv[1]).exists():
    time.sleep(0.001)
print(*precompute(load_settings(None, sys.argv[2:]), ["clips"]))
"""


@pytest.fixture
def words(tiny_training, tiny_world, tmp_path):
    """Overrides with DIS, and a clip list of one clip of six frames."""
    lines = (tiny_world / "list/val_clips.lst").read_text().split("\n\n")[0].splitlines()[:6]
    (tmp_path / "clips.lst").write_text("\n".join(lines) + "\n")
    own = [f"DATA.clip_list={tmp_path}/clips.lst", "FLOW.name=dis", "FLOW.preset=ultrafast"]
    return [*(word for word in tiny_training if not word.startswith("DATA.clip_list")), *own]


def stored_files(store: Path) -> list[Path]:
    """All files but the verdicts about cuts."""
    return sorted(path for path in store.rglob("*") if path.is_file() and path.parent.name != "cuts")


def slow_dis(pair, preset=cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST) -> np.ndarray:
    """DIS straight from OpenCV, on the frames as the estimator pads them: to 96 pixels at least."""
    gray = [cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY) for path in pair]
    height, width = gray[0].shape
    gray = [np.pad(g, ((0, max(0, 96 - height)), (0, max(0, 96 - width))), "edge") for g in gray]
    flow = cv2.DISOpticalFlow_create(preset).calc(*gray, None)[:height, :width]
    return flow.transpose(2, 0, 1)


def test_pairs_of_clips_are_consecutive_forward_and_backward(words, tiny_world):
    settings = load_settings(None, words)
    numbers = [tuple(int(path.stem.split("_")[2]) for path in pair) for pair in frame_pairs(settings, "clips")]
    assert sorted(numbers) == sorted([(i, i + 1) for i in range(5)] + [(i + 1, i) for i in range(5)])


def test_the_votes_of_five_frames_need_the_flow_from_the_middle_one(words):
    settings = load_settings(None, [*words, "TEST.protocols=[majority]"])
    numbers = {tuple(int(path.stem.split("_")[2]) for path in pair) for pair in frame_pairs(settings, "clips")}
    near = {(i, i + 1) for i in range(5)}
    assert numbers == near | {(k, t) for t, k in near} | {(m, m + o) for m in (2, 3) for o in (-2, 2)}


def test_pairs_of_overlapping_clips_stand_there_once(words, tmp_path):
    lines = (tmp_path / "clips.lst").read_text().splitlines()
    (tmp_path / "clips.lst").write_text("\n".join([*lines[:4], "", *lines[2:]]))
    settings = load_settings(None, words)
    assert len(read_clips(settings.DATA.clip_list, layout=LAYOUTS["cityscapes"])) == 2
    assert len(frame_pairs(settings, "clips")) == len(set(frame_pairs(settings, "clips"))) == 10


def test_pairs_of_the_training_are_all_that_may_be_drawn(words):
    settings = load_settings(None, [*words, "TRAIN.frame_gap=2"])
    numbers = {tuple(int(path.stem.split("_")[2]) for path in pair) for pair in frame_pairs(settings, "train")}
    assert numbers == {(t, t + o) for t in (4, 9, 14, 19, 24) for o in (-2, -1, 1, 2)}
    forward = load_settings(None, [*words, "TRAIN.frame_gap=2", "TRAIN.random_frame=false"])
    assert {k.stem[-18:-12] for _, k in frame_pairs(forward, "train")} == {f"{t + 2:06d}" for t in (4, 9, 14, 19, 24)}


def test_the_store_then_holds_what_the_estimator_gives(words, tmp_path):
    settings = load_settings(None, words)
    assert precompute(settings, ["clips"]) == (10, 0)
    store = flow_source(settings)
    for pair in frame_pairs(settings, "clips"):
        kept, _ = read_flow(store.path(*pair, (64, 128)))
        assert np.abs(kept - slow_dis(pair)).max() <= 1 / 128
    assert len(stored_files(tmp_path / "flow_store")) == 10


def test_a_second_run_computes_only_what_is_missing_or_damaged(words, tmp_path):
    settings = load_settings(None, words)
    precompute(settings, ["clips"])
    files = stored_files(tmp_path / "flow_store")
    content = [path.read_bytes() for path in files]
    files[0].unlink()
    files[1].write_bytes(content[1][:-30])
    files[2].write_bytes(b"")
    assert precompute(settings, ["clips"]) == (3, 7)
    assert [path.read_bytes() for path in files] == content
    assert precompute(settings, ["clips"]) == (0, 10)


def test_training_and_scoring_find_all_their_flow(words, monkeypatch):
    settings = load_settings(None, [*words, "TRAIN.frame_gap=1"])
    computed, _ = precompute(settings, ["train", "clips"])
    assert computed == 10 + 10
    store = flow_source(settings)
    monkeypatch.setattr(store, "compute", None)  # would fail
    for purpose in ("train", "clips"):
        for pair in frame_pairs(settings, purpose):
            assert store(*pair, (64, 128)).shape == (2, 64, 128)


@pytest.mark.parametrize(
    ("more", "back"),
    [(["TRAIN.visibility=forward_backward"], True), (["TRAIN.visibility=l1"], False)],
)
def test_training_that_checks_visible_pixels_gets_the_way_back(words, more, back):
    settings = load_settings(None, [*words, "TRAIN.frame_gap=1", "TRAIN.st_weight=1", *more])
    pairs = set(frame_pairs(settings, "train"))
    assert pairs and len(pairs) == len(frame_pairs(settings, "train"))
    assert {(k, t) in pairs for t, k in pairs} == {back}


def test_processes_share_the_pairs(words, tmp_path, monkeypatch):
    settings = load_settings(None, words)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(distributed, "sum_counts", lambda counts: counts)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        before = len(stored_files(tmp_path / "flow_store"))
        computed, kept = precompute(settings, ["clips"])
        assert kept == 0 and len(stored_files(tmp_path / "flow_store")) == before + computed
        shares.append(computed)
    assert shares == [4, 3, 3]


def test_a_damaged_frame_is_named_and_stops_the_run(words, tiny_world, tmp_path):
    copy = tmp_path / "world"
    names = (tmp_path / "clips.lst").read_text().split()[::2]
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((tiny_world / name).read_bytes())
    (tmp_path / "clips.lst").write_text("\n".join(names))
    (copy / names[3]).write_bytes((copy / names[3]).read_bytes()[:-100])
    settings = load_settings(None, [*words, f"DATA.data_root={copy}", "DATA.synthetic=false"])
    with pytest.raises(UserError, match=f"{Path(names[3]).name} is truncated"):
        precompute(settings, ["clips"])
    assert all(np.isfinite(read_flow(path)[0]).all() for path in stored_files(tmp_path / "flow_store"))


def test_flow_that_training_will_not_read_is_pointed_out(words, caplog):
    precompute(load_settings(None, [*words, "FLOW.source=online"]), ["train"])
    assert "FLOW.source online" in caplog.text


@pytest.mark.slow
def test_two_processes_that_fill_the_store_at_once_leave_whole_files(words, tiny_training, tmp_path):
    words = [*tiny_training, *words[-2:]]  # both clips, 116 pairs
    go, store = tmp_path / "go", tmp_path / "flow_store"
    command = [sys.executable, "-c", FILL, str(go), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    fillers = [
        subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    assert [filler.stdout.readline() for filler in fillers] == ["ready\n"] * 2
    go.touch()
    read = 0
    while any(filler.poll() is None for filler in fillers):
        for path in store.rglob("[!.]*.b2flow"):
            assert read_flow(path)[0].shape == (2, 64, 128)  # at any moment what has its name is whole
            read += 1
        time.sleep(0.05)
    counts = np.array([[int(n) for n in filler.communicate()[0].split()] for filler in fillers])
    assert [filler.returncode for filler in fillers] == [0, 0] and counts.sum(1).tolist() == [116, 116]
    assert counts[:, 0].sum() >= 116 and read > 0
    settings = load_settings(None, words)
    flow = flow_source(settings)
    expected = [flow.path(*pair, (64, 128)) for pair in frame_pairs(settings, "clips")]
    assert stored_files(store) == sorted(expected)  # no temporary files either
    for pair in frame_pairs(settings, "clips")[::7]:
        assert np.abs(read_flow(flow.path(*pair, (64, 128)))[0] - slow_dis(pair)).max() <= 1 / 128


def test_the_device_is_passed_on(words, monkeypatch):
    asked = []

    def estimator_on(settings, device):
        asked.append(device)
        return flow_source(settings)

    monkeypatch.setattr("etc.flow.precompute.cached_flow", estimator_on)
    precompute(load_settings(None, words), ["clips"], torch.device("cpu", 0))
    assert asked == [torch.device("cpu", 0)]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_times_are_said_as_exactly_as_they_are_known(seconds, words):
    assert duration(seconds) == words
