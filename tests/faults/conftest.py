"""Tiny runs of the scripts that write folders, and what they write when nothing disturbs them."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import pytest
import torch

from etc.data.origin import Origin, read_origin
from etc.display.mp4 import Mp4Writer
from etc.flow.cache_files import FLOW_SUFFIX, read_flow_facts
from model import build_model
from tests.conftest import tiny_overrides
from tests.processes import import_everything, started

SECONDS = 300  # no run takes as long


class Undisturbed(NamedTuple):
    """A run of a script that nothing disturbed.

    Attributes:
        script: the script.
        words: its arguments; ``out`` is among them.
        out: the folder that it writes into.
        seconds: how long it took.
        files: what it wrote, name -> :func:`content`.
    """

    script: str
    words: list[str]
    out: Path
    seconds: float
    files: dict[str, object]


@pytest.fixture(scope="session")
def inputs(tiny_world, tmp_path_factory) -> Path:
    """Weights, lists of clips of the tiny world, and a video with predictions."""
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


@pytest.fixture(scope="session")
def undisturbed(tiny_world, inputs, tmp_path_factory) -> Callable[[str], Undisturbed]:
    """Gives the undisturbed run of a script, which is made once."""
    import_everything()
    runs: dict[str, Undisturbed] = {}

    def run(script: str) -> Undisturbed:
        if script not in runs:
            folder = tmp_path_factory.mktemp(script)
            out, log = folder / "out", folder / "log.txt"
            words = words_of(script, out, tiny_world, inputs)
            start = time.monotonic()
            finish(started(script, words, log), log)
            seconds = time.monotonic() - start
            files = contents_of(out)
            assert files and not [name for name in files if is_hidden(name)]
            runs[script] = Undisturbed(script, words, out, seconds, files)
        return runs[script]

    return run


def words_of(script: str, out: Path, tiny_world: Path, inputs: Path) -> list[str]:
    """The arguments of a tiny run that writes into ``out``."""
    world = [*tiny_overrides(tiny_world), "TEST.device=cpu"]
    predicting = [*world, f"TEST.ckpt_path={inputs}/psp18.pth", f"DATA.clip_list={inputs}/clips.lst"]
    dis = ["FLOW.name=dis", f"FLOW.cache={out}/flow"]
    return {
        "render": [
            *(word for word in world if word.startswith("DATA.synthetic_")),
            *(f"DATA.data_root={out}/world", "DATA.synthetic_width=64", "DATA.synthetic_val=1"),
        ],
        "train_with_flow": [
            *(*world, f"TRAIN.save_path={out}/run", "TRAIN.resume=auto", "TRAIN.train_h=33", "TRAIN.train_w=49"),
            *("TRAIN.batch_size=2", "TRAIN.st_weight=0.1", "TRAIN.epochs=3", "TRAIN.val_freq=2", "TRAIN.val_clips=1"),
            *("TRAIN.arch=lraspp", "TRAIN.aux_weight=0.0", "TRAIN.workers=0", f"DATA.clip_list={inputs}/clips.lst"),
        ],
        "gen_video": [*predicting, f"TEST.save_folder={out}/result"],
        "eval_tc": [
            *("--frames", f"{inputs}/ride.mp4", "--predictions", f"{inputs}/masks", f"TEST.save_folder={out}/result"),
            *(*dis, "TEST.device=cpu"),
        ],
        "precompute_flow": [*world, *dis, "FLOW.preset=medium", "--for", "train"],
        "gen_pseudo_labels": [
            *(*predicting, "--frames", f"{inputs}/frames.lst", "--keep-share", "0.5", "--out", f"{out}/pseudo")
        ],
        "test": [*predicting, f"TEST.save_folder={out}/result", "--export", f"{out}/upload"],
        "demo": [*predicting, f"TEST.demo_folder={out}/demo"],
        "compare": ["--no-speed", "--out", f"{out}/comparison", *predicting, "--runs", f"a={inputs}/psp18.pth"],
        "export_onnx": [*predicting, "--out", f"{out}/net.onnx"],
    }[script]


def finish(process, log: Path) -> None:
    process.join(SECONDS)
    assert process.exitcode == 0, f"exit code {process.exitcode}: {log.read_text()[-3000:]}"


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)


def contents_of(out: Path) -> dict[str, object]:
    """Every file below a folder but those that hold the time of day: name -> :func:`content`.

    These are the logs of TensorBoard and the calls of a training.

    Hidden files, which are temporaries and locks, give ``None``.
    """
    timed = (".tfevents.", "calls.jsonl")
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and not any(word in path.name for word in timed)]
    names = {path.relative_to(out).as_posix(): path for path in files}
    return {name: None if is_hidden(name) else content(path) for name, path in names.items()}


def content(path: Path) -> object:
    """All bytes of a file, but where these may differ for equal values.

    Of a checkpoint, whose bytes depend on which strings are one object, the values; of a PNG, a cached flow or a
    list of cuts with an origin, whose frames may have been written anew, what it holds and hashes; of a video the sizes
    and times of its pictures; of a report all but the time of day.
    """
    if path.suffix == ".mp4":  # FFmpeg does not always write the same bytes for the same pictures
        with av.open(str(path)) as video:
            return [(frame.width, frame.height, frame.pts) for frame in video.decode(video=0)]
    if path.parent.name == "mp4" and path.suffix == ".json":
        return json.loads(path.read_text()) | {"bytes": None}
    if path.suffix == ".html":
        return re.sub(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC", b"", path.read_bytes())
    if path.suffix == ".pth":
        return plain(torch.load(path, weights_only=True))
    if path.parent.name == "cuts":
        record = json.loads(path.read_text())
        origin = Origin.of_text(json.dumps(record["origin"]))
        return record["cuts"], [file.sha256 for file in origin.files], origin.made_with
    if path.suffix == FLOW_SUFFIX:
        facts = read_flow_facts(path)
        origin = Origin.of_text(facts.origin)
        return facts.sha256, facts.shape, [file.sha256 for file in origin.files], origin.made_with
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


def check_equal(found: dict[str, object], whole: dict[str, object]) -> None:
    """Without the contents, which would fill the report of a failure."""
    assert list(found) == list(whole)
    assert not [name for name in whole if found[name] != whole[name]]
