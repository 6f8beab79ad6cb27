"""Scoring in worker processes: the same files as in one, errors that look the same, and workers that always end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.data.images import write_png
from etc.data.lists import Frame
from etc.errors import UserError
from etc.evaluate import workers
from etc.evaluate.clips import score_clips
from etc.evaluate.flows import flow_settings
from etc.evaluate.workers import number_of_workers
from tests.processes import REPOSITORY, children, runs, wait_until
from tests.scripts import run

SHAPE = (32, 48)

ESTIMATOR = """
import multiprocessing, os, pathlib, signal, time
import torch

class Estimator:
    key = "own"
    def estimate(self, rgb_t, rgb_k):
        if multiprocessing.parent_process() is not None:
            {in_a_worker}
        return torch.zeros(1, 2, *rgb_t.shape[2:])
"""


def write_clip(root: Path, name: str, numbers: list[int], labelled: bool) -> list[str]:
    """Frames of a texture that moves, labels that move with it, and predictions with noise; lines of a list."""
    random = np.random.default_rng(len(numbers))
    texture = cv2.GaussianBlur(random.integers(0, 256, (40, 400, 3)).astype(np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    lines = []
    for t in numbers:
        picture = texture[4:36, 2 * t : 2 * t + SHAPE[1]]
        ids = np.digitize(picture[..., 1], (110, 150)).astype(np.uint8)
        write_png(root / f"frames/{name}/{t:03d}.png", picture)
        write_png(root / f"labels/{name}/{t:03d}.png", ids)
        noise = random.random(SHAPE) < 0.03
        write_png(root / f"masks/{name}/{t:03d}.png", np.where(noise, (ids + 1) % 3, ids).astype(np.uint8))
        frame = f"frames/{name}/{t:03d}.png"
        lines.append(f"{frame} labels/{name}/{t:03d}.png" if labelled and t % 25 else frame)
    return lines


def words(root: Path, clips: list[list[str]], *more: str) -> list[str]:
    """The settings that score clips, each given by its lines of a list."""
    (root / "clips.lst").write_text("\n\n".join("\n".join(lines) for lines in clips) + "\n")
    (root / "names.txt").write_text("low\nmiddle\nhigh\n")
    given = {
        "DATA.synthetic": "false",
        "DATA.data_root": root,
        "DATA.clip_list": root / "clips.lst",
        "DATA.layout": "folder",
        "DATA.label_map": "none",
        "DATA.classes": 3,
        "DATA.names_path": root / "names.txt",
        "FLOW.name": "dis",
        "FLOW.preset": "ultrafast",
        "FLOW.cache": root / "flow",
        "TEST.predictions": root / "masks",
        "TEST.prediction_ids": "train",
        "TEST.save_folder": root / "result",
        "TEST.device": "cpu",
    }
    return [*(f"{key}={value}" for key, value in given.items()), *more]


@pytest.fixture
def long_clip(tmp_path) -> list[str]:
    """The settings of one labelled clip of 70 frames."""
    return words(tmp_path, [write_clip(tmp_path, "long", list(range(70)), True)])


@pytest.fixture
def uneven_clips(tmp_path) -> list[str]:
    """Clips of 60, 20 and 4 frames; the first one with a gap in its numbers, and two frames without prediction."""
    numbers = {"a": [*range(40), *range(50, 70)], "b": list(range(20)), "c": list(range(4))}
    clips = [write_clip(tmp_path, name, own, name != "b") for name, own in numbers.items()]
    for frame in ("a/007", "a/037"):
        (tmp_path / f"masks/{frame}.png").unlink()
    return words(tmp_path, clips, "TEST.allow_gaps=true", "TEST.strides=[1, 3]")


@pytest.mark.parametrize(
    ("clips", "count"),
    [
        ("long_clip", 2),
        pytest.param("uneven_clips", 2, marks=pytest.mark.slow),
        pytest.param("long_clip", 3, marks=pytest.mark.slow),
        pytest.param("uneven_clips", 3, marks=pytest.mark.slow),
    ],
)
def test_workers_write_the_files_of_one_process_whoever_computes_the_flow(clips, count, request, tmp_path, monkeypatch):
    settings = load_settings(None, request.getfixturevalue(clips))
    started = []
    pool = workers.ProcessPoolExecutor
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda n, **given: started.append(n) or pool(n, **given))
    score_clips(settings, workers=count).save(tmp_path / "shared")
    assert started == [count]
    shared = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "flow").rglob("*.b2*")}
    assert len(shared) > 100
    for path in shared:
        (tmp_path / path).unlink()
    score_clips(settings).save(tmp_path / "alone")
    assert started == [count]
    for name in ("tc.json", "tc.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    alone = {path.relative_to(tmp_path) for path in (tmp_path / "flow").rglob("*.b2*")}
    assert shared.keys() == alone


def own_estimator(folder: Path, in_a_worker: str) -> str:
    """A flow estimator that does something in worker processes; the override that names it."""
    name = f"estimator_{len(in_a_worker)}"
    (folder / f"{name}.py").write_text(ESTIMATOR.format(in_a_worker=in_a_worker))
    return f"FLOW.name={name}:Estimator"


def test_a_killed_worker_is_one_line_and_hangs_nothing(long_clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    killed = own_estimator(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert run("eval_tc", "--workers", 2, *long_clip, killed) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: a worker process was killed, often by lack of memory") and "--workers" in line
    assert not (tmp_path / "result/tc.json").exists()


@pytest.mark.slow
def test_an_error_of_the_user_in_a_worker_is_its_own_line(long_clip, tmp_path, monkeypatch, capsys):
    (tmp_path / "masks/long/055.png").write_bytes((tmp_path / "masks/long/055.png").read_bytes()[:-30])
    assert run("eval_tc", "--workers", 2, *long_clip) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and "055.png" in line and "worker" not in line


@pytest.mark.slow
def test_a_defect_in_a_worker_keeps_its_traceback(long_clip, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_settings(None, [*long_clip, own_estimator(tmp_path, "self.key['a defect']")])
    with pytest.raises(TypeError) as raised:
        score_clips(settings, workers=2)
    assert "self.key['a defect']" in str(raised.value.__cause__)  # the line of the estimator


@pytest.mark.slow
@pytest.mark.skipif("not __import__('os').path.isdir('/proc/self/task')", reason="reads /proc")
@pytest.mark.parametrize("moment", ["workers import", "workers compute"])
def test_ctrl_c_ends_all_workers_with_one_line(moment, long_clip, tmp_path):
    computing = tmp_path / "computing"
    computing.mkdir()
    wait = f"pathlib.Path({str(computing)!r}, str(os.getpid())).touch(); time.sleep(3600)"
    command = [sys.executable, str(REPOSITORY / "tool/eval_tc.py"), "--workers", "2", *long_clip]
    process = subprocess.Popen(
        [*command, own_estimator(tmp_path, wait)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        if moment == "workers import":
            assert wait_until(lambda: len(children(process.pid)) >= 3, 120)  # two workers, and Python's own tracker
        else:
            assert wait_until(lambda: len(list(computing.iterdir())) == 2, 120)
        started = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, error = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert error.endswith("interrupted\n") and "Traceback" not in error
    assert wait_until(lambda: not any(map(runs, started)))


def test_a_number_of_workers_below_one_and_pixels_set_aside_by_workers_are_refused(long_clip):
    settings = load_settings(None, long_clip)
    with pytest.raises(UserError, match="0 workers: expected 1 or more"):
        score_clips(settings, workers=0)
    with pytest.raises(ValueError, match="set_aside"):
        score_clips(settings, workers=2, set_aside=lambda clip, t: None)


@pytest.mark.parametrize(
    ("size", "pairs", "cores", "expected"),
    [
        ((1024, 2048), 16 * 64, 8, 8),  # all cores
        ((1024, 2048), 40, 8, 2),
        ((1024, 2048), 31, 8, 1),  # starting a second worker would take longer
        ((64, 128), 1000, 8, 1),
    ],
)
def test_by_default_each_worker_has_16_pairs_of_1024x2048_pixels(size, pairs, cores, expected, monkeypatch):
    settings = load_settings(None, ["DATA.data_root=.", "FLOW.name=dis"])
    flows = flow_settings(settings, torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(workers, "image_size", lambda path: size[::-1])
    clips = [[Frame("0.png", None)] * (pairs + 1)]
    for wanted, number in ((None, expected), (3, 3)):
        assert number_of_workers(wanted, settings, torch.device("cpu"), flows, clips, computing=["dis"]) == number


def test_a_network_on_a_gpu_stays_in_one_process(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    clips, gpu = [[Frame("0.png", None)] * 10_000], torch.device("cuda")
    monkeypatch.setattr(workers, "image_size", lambda path: (2048, 1024))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    own = load_settings(None, ["DATA.data_root=.", own_estimator(tmp_path, "pass")])
    flows = flow_settings(own, gpu)
    computing = [flow.name for flow in flows]
    assert number_of_workers(None, own, gpu, flows, clips, computing=computing) == 1 and not caplog.text
    assert number_of_workers(4, own, gpu, flows, clips, computing=computing) == 1
    assert "one process scores" in caplog.text
    assert number_of_workers(None, own, gpu, flows, clips, computing=[]) == 8, "its flow is in the cache"
    dis = load_settings(None, ["DATA.data_root=.", "FLOW.name=dis"])
    assert number_of_workers(None, dis, gpu, flow_settings(dis, gpu), clips, computing=["dis"]) == 8
