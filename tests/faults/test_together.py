"""Two runs at once with one output folder: the second is refused in one line, or waits and gets the same result."""

import os
import random
import shutil
import signal
import time

import av
import numpy as np
import pytest
import torch

from etc.data import sources
from model import build_model
from tests.conftest import REPOSITORY
from tests.faults.conftest import SECONDS, check_equal, contents_of
from tests.processes import children, command_of, running, runs, started, wait_until
from tests.scripts import load_script, run
from tests.utils.test_locks import HOLDER
from utils import locks
from utils.files import sha256_of

pytestmark = pytest.mark.faults

SCRIPTS = ["render", "train_with_flow", "gen_video", "eval_tc", "precompute_flow", "gen_pseudo_labels"]
SLOW_SCRIPTS = ["test", "demo", "compare", "export_onnx"]


def pytest_generate_tests(metafunc):
    if "script_run_twice" in metafunc.fixturenames:
        more = SLOW_SCRIPTS if metafunc.config.getoption("--long") else []
        metafunc.parametrize("script_run_twice", [*SCRIPTS, *more])


def test_of_two_runs_at_once_one_gives_the_result_and_the_other_the_same_or_one_line(
    script_run_twice, undisturbed, tmp_path, request
):
    whole, logs = undisturbed(script_run_twice), [tmp_path / "one.txt", tmp_path / "two.txt"]
    generator, refused = random.Random(script_run_twice), 0
    pairs = 20 if request.config.getoption("--long") else 1
    for _ in range(pairs):
        shutil.rmtree(whole.out)
        processes = []
        for log in logs:
            processes.append(started(whole.script, whole.words, log))
            time.sleep(generator.uniform(0, 0.5 * whole.seconds))
        for process in processes:
            process.join(SECONDS)
        said = {log: log.read_text() for log in logs}
        codes = [process.exitcode for process in processes]
        assert codes in ([0, 0], [0, 2], [2, 0]), said
        for log, code in zip(logs, codes, strict=True):
            if code == 2:
                refused += 1
                last = said[log].splitlines()[-1]
                assert last.startswith(f"error: {whole.out}") and "is being written by another process" in last
        check_equal(contents_of(whole.out), whole.files)
    print(f"{whole.script}: {pairs} pairs at once, {refused} times the second was refused, all results equal")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "psp18.pth"
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, path)
    return path


@pytest.mark.parametrize(
    ("script", "words", "lock"),
    [
        ("train_with_flow", [], ["run"]),
        ("gen_video", [], ["run/result/video"]),
        ("eval_tc", [], ["run/result", "tc"]),
        ("test", [], ["run/result", "miou"]),
        ("test", ["--export", "{tmp}/upload"], ["upload"]),
        ("demo", [], ["run/demo"]),
        ("gen_pseudo_labels", ["--out", "{tmp}/pseudo"], ["pseudo"]),
        ("compare", ["--out", "{tmp}/comparison", "--runs", "a=nowhere"], ["comparison"]),
        ("export_onnx", ["--out", "{tmp}/onnx/net.onnx"], ["onnx", "net.onnx"]),
        ("make_lists", ["folder", "{tmp}", "--out", "{tmp}/lists"], ["lists", "lists"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_second_run_is_refused_in_one_line_and_writes_nothing(
    script, words, lock, tiny_training, tmp_path, checkpoint, capsys
):
    if script == "make_lists":
        (tmp_path / "clip").mkdir()
        for name in ("a_0.png", "a_1.png"):
            (tmp_path / "clip" / name).write_bytes(b"")
    overrides = [] if script == "make_lists" else [*tiny_training, f"TEST.ckpt_path={checkpoint}"]
    folder = tmp_path / lock[0]
    with running(HOLDER, folder, *lock[1:]) as other:
        other.stdout.readline()
        before = set(folder.rglob("*"))
        code = run(script, *[word.format(tmp=tmp_path) for word in words], *overrides)
        assert set(folder.rglob("*")) == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert error.startswith(f"error: {folder} is being written by another process (pid {other.pid} on host ")
    assert error.endswith("wait for it to end, or give another folder")


def test_a_second_quickstart_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = load_script("quickstart")
    with running(HOLDER, tmp_path / script.FOLDER) as other:
        other.stdout.readline()
        assert run("quickstart") == 2
    assert "exp/quickstart is being written by another process" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")
def test_a_quickstart_that_is_terminated_ends_the_script_that_it_runs(tmp_path):
    script = REPOSITORY / "tool/quickstart.py"
    command = f"import os, runpy, sys; os.chdir({str(tmp_path)!r}); sys.argv = ['quickstart']; "
    with running(command + f"runpy.run_path({str(script)!r}, run_name='__main__')") as parent:
        # Importing torch starts other programs, for a moment.
        assert wait_until(lambda: any(b"train_with_flow" in command_of(pid) for pid in children(parent.pid)), 120)
        workers = children(parent.pid)
        parent.terminate()
        assert parent.wait() == 128 + signal.SIGTERM
        assert wait_until(lambda: not any(map(runs, workers)))


def test_two_runs_that_score_one_video_unpack_it_once(tmp_path, monkeypatch):
    video = tmp_path / "rgb.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for level in (0, 80, 160):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    folder = tmp_path / "out/frames"
    unpacked = folder / f"rgb-{sha256_of(video)[:12]}"
    with running(HOLDER, folder, unpacked.name) as other:
        other.stdout.readline()

        def unpacked_by_the_other(*message):
            sources._unpack(video, unpacked)
            monkeypatch.setattr(sources, "_unpack", lambda *_: pytest.fail("unpacked a second time"))
            other.stdin.write("\n")
            other.stdin.flush()

        monkeypatch.setattr(locks.logger, "info", unpacked_by_the_other)
        assert sources._unpacked(video, folder) == unpacked
    frames = [f"rgb_{i:06d}.png" for i in range(3)]
    assert [path.name for path in sorted(unpacked.iterdir())] == [*frames, "unpacked.json"]
    assert list(folder.iterdir()) == [unpacked]
