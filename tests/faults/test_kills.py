"""Scripts that are killed at any moment, and started again: the same results, bit for bit, and nothing left behind."""

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

from etc.data.origin import read_origin
from etc.display.mp4 import Mp4Writer
from etc.train.checkpoint import load_checkpoint
from model import build_model
from tests.conftest import tiny_overrides
from tests.processes import import_everything, started

pytestmark = pytest.mark.faults

SIGKILL = -9
SECONDS = 300  # no run takes as long


class Command(NamedTuple):
    """A script with its arguments; ``{out}`` stands for the folder that it writes into."""

    script: str
    words: list[str]


@pytest.fixture(scope="module")
def inputs(tiny_world, tmp_path_factory) -> Path:
    """Weights, lists of clips of the tiny world, and a video with predictions."""
    import_everything()
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    torch.save({"student": build_model("psp18", classes=19).state_dict()}, folder / "psp18.pth")
    clips = (tiny_world / "list/val_clips.lst").read_text().split("\n\n")
    lines = [clip.split("\n")[:8] for clip in clips]
    (folder / "clips.lst").write_text("\n\n".join(map("\n".join, lines)) + "\n")
    (folder / "frames.lst").write_text("\n".join(line.split()[0] for clip in lines for line in clip) + "\n")
    pictures = np.random.default_rng(0).integers(0, 256, (8, 12, 16, 3), np.uint8)
    (folder / "masks").mkdir()
    with Mp4Writer(folder / "ride.mp4", 10) as video:
        for index, picture in enumerate(pictures):
            video.write(cv2.resize(picture, (96, 64), interpolation=cv2.INTER_CUBIC))
            cv2.imwrite(str(folder / f"masks/ride_{index:06d}.png"), cv2.resize(picture[..., 0] % 19, (96, 64)))
    return folder


@pytest.fixture(params=["render", "train_with_flow", "gen_video", "eval_tc", "precompute_flow", "gen_pseudo_labels"])
def command(request, tiny_world, inputs) -> Command:
    world = [*tiny_overrides(tiny_world), "TEST.device=cpu"]
    weights = f"TEST.ckpt_path={inputs}/psp18.pth"
    dis = ["FLOW.name=dis", "FLOW.cache={out}/flow"]
    words = {
        "render": [
            *(word for word in world if word.startswith("DATA.synthetic_")),
            *("DATA.data_root={out}/world", "DATA.synthetic_width=64", "DATA.synthetic_val=1"),
        ],
        "train_with_flow": [
            *(*world, "TRAIN.save_path={out}/run", "TRAIN.resume=auto", "TRAIN.train_h=33", "TRAIN.train_w=49"),
            *("TRAIN.batch_size=2", "TRAIN.st_weight=0.1", "TRAIN.epochs=3", "TRAIN.val_freq=2", "TRAIN.val_clips=1"),
            *("TRAIN.arch=lraspp", "TRAIN.aux_weight=0.0"),
            *("TRAIN.workers=0", f"DATA.clip_list={inputs}/clips.lst"),
        ],
        "gen_video": [*world, weights, f"DATA.clip_list={inputs}/clips.lst", "TEST.save_folder={out}/result"],
        "eval_tc": [
            *("--frames", f"{inputs}/ride.mp4", "--predictions", f"{inputs}/masks", "TEST.save_folder={out}/result"),
            *(*dis, "TEST.device=cpu"),
        ],
        "precompute_flow": [*world, *dis, "FLOW.preset=medium", "--for", "train"],
        "gen_pseudo_labels": [
            *(*world, weights, "--frames", f"{inputs}/frames.lst", "--keep-share", "0.5", "--out", "{out}/pseudo")
        ],
    }
    return Command(request.param, words[request.param])


def finish(process, log: Path) -> None:
    process.join(SECONDS)
    assert process.exitcode == 0, f"exit code {process.exitcode}: {log.read_text()[-3000:]}"


def files_below(out: Path) -> Iterator[tuple[str, Path]]:
    """Every file but the logs of TensorBoard, which hold the time of day."""
    for path in sorted(out.rglob("*")):
        if path.is_file() and not path.name.startswith("events.out.tfevents"):
            yield path.relative_to(out).as_posix(), path


def content(path: Path) -> object:
    """All bytes of a file, but where these may differ for equal values.

    Of a checkpoint, whose bytes depend on which strings are one object, the values; of a PNG with an origin, whose
    frames may have been written anew, pixels and hashes.
    """
    if path.suffix == ".pth":
        return plain(torch.load(path, weights_only=True))
    origin = read_origin(path)
    if origin is None:
        return path.read_bytes()
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return pixels.tobytes(), pixels.shape, [file.sha256 for file in origin.files], origin.made_with


def plain(value: object) -> object:
    """Tensors as bytes, which can be compared."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def check_what_a_kill_left(out: Path, whole: dict[str, object]) -> None:
    """Files under their final names are whole; those of a training, which are replaced epoch by epoch, can be read."""
    for name, path in files_below(out):
        if any(part.startswith(".") for part in Path(name).parts):
            continue
        if path.suffix == ".pth":
            load_checkpoint(path)
        else:
            assert content(path) == whole[name], f"{name} is not what the undisturbed run writes"


def check_equal(found: dict[str, object], whole: dict[str, object]) -> None:
    """Without the contents, which would fill the report of a failure."""
    assert list(found) == list(whole)
    assert not [name for name in whole if found[name] != whole[name]]


def test_a_killed_run_that_is_started_again_gives_the_same_bits(command, tmp_path, request):
    out, log = tmp_path / "out", tmp_path / "log.txt"
    words = [word.format(out=out) for word in command.words]
    start = time.monotonic()
    finish(started(command.script, words, log), log)
    seconds = time.monotonic() - start
    whole = {name: content(path) for name, path in files_below(out)}
    assert len(whole) >= 3 and not [name for name in whole if "/." in f"/{name}"]

    generator, kills = random.Random(command.script), 0
    wanted = 20 if request.config.getoption("--long") else 1
    for _ in range(3 * wanted):
        shutil.rmtree(out)
        process = started(command.script, words, log)
        time.sleep(generator.uniform(0, 0.9 * seconds))
        process.kill()
        process.join(SECONDS)
        kills += process.exitcode == SIGKILL
        out.mkdir(exist_ok=True)
        check_what_a_kill_left(out, whole)
        finish(started(command.script, words, log), log)
        check_equal({name: content(path) for name, path in files_below(out)}, whole)
        if kills == wanted:
            break
    print(f"{command.script}: {kills} kills, {kills} runs with equal bits ({seconds:.1f} s undisturbed)")
    assert kills == wanted
