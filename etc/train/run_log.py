"""What a training leaves for those who ask later what it did: its log, its curves, and how it was called."""

from __future__ import annotations

import csv
import json
import logging
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

import etc
from etc import distributed
from etc.config import TOOLKIT
from etc.display.curves import HEAD, LOG_FILE, Curves, draw_curves, read_log
from etc.display.machine import machine
from etc.errors import UserError
from utils.files import write_bytes, write_text

logger = logging.getLogger(__name__)

CALLS_FILE = "calls.jsonl"
CURVES_FILE = "curves.png"
_LIBRARIES = (
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "timm",
    "transformers",
    "segmentation-models-pytorch",
)


class RunLog:
    """Writes TensorBoard and ``log.csv`` of a training.

    A training that goes on removes what was logged after the step that it goes on from, and a validation at that step
    if it will be done again: a kill came between its log and its checkpoint.

    Args:
        folder: ``TRAIN.save_path``.
        step: steps done before.
        validated: whether the validation at that step, if one is due, is done.
    """

    def __init__(self, folder: Path, step: int, *, validated: bool = True) -> None:
        self.folder = folder
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else 0)
        path, kept = folder / LOG_FILE, []
        if step and path.is_file():
            kept = [
                (at, name, value)
                for name, curve in _sound_log(folder).items()
                for at, value in curve
                if at < step or (at == step and (validated or not name.startswith("validation/")))
            ]
        rows = [HEAD, *sorted(kept, key=itemgetter(0))]
        write_text(path, "".join(f"{','.join(map(str, row))}\n" for row in rows))
        self._file = path.open("a", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file, lineterminator="\n")

    def add(self, step: int, values: dict[str, float]) -> None:
        """Log figures by name, such as ``loss/motion``, after a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
            self._rows.writerow((step, name, value))
        self._file.flush()

    def add_pictures(self, step: int, pictures: dict[str, Any]) -> None:
        """Log pictures by name, uint8 ``[3, H, W]``, in TensorBoard alone."""
        for name, picture in pictures.items():
            self.writer.add_image(name, picture, step)

    def close(self) -> None:
        """End the log, also where the training failed."""
        self.writer.close()
        self._file.close()


def draw_log(folder: Path) -> None:
    """Draw ``curves.png`` of all that a training logged; trainings of earlier versions have no log."""
    if (folder / LOG_FILE).is_file() and (curves := _sound_log(folder)):
        draw_curves({folder.name: curves}, folder / CURVES_FILE)


def _sound_log(folder: Path) -> Curves:
    """What a training logged. A damaged log is put aside with a warning: it stops no training that is sound."""
    try:
        return read_log(folder)
    except UserError as error:
        aside = folder / f"{LOG_FILE}.damaged"
        logger.warning("%s: it is kept as %s, and the curves lack what it held", error, aside)
        (folder / LOG_FILE).replace(aside)
        return {}


def record_call(folder: Path, step: int, device: torch.device) -> None:
    """Append how this process was called to ``calls.jsonl``: one line for each start of the training.

    Args:
        folder: ``TRAIN.save_path``; its ``settings.yaml`` has the settings and the seed.
        step: steps done before.
        device: where it computes.
    """
    record = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "processes": distributed.world_size(),
        "from_step": step,
        "toolkit": etc.__version__,
        "git": git_revision(TOOLKIT),
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),  # with the version of CUDA, which the package's name may lack
        **_versions(),
        "device": machine(device),
    }
    path = folder / CALLS_FILE
    before = path.read_bytes() if path.is_file() else b""  # as it is, also where it is damaged
    write_bytes(path, before + json.dumps(record).encode() + b"\n")


def _versions() -> dict[str, str]:
    """The versions of the libraries that compute something, those that are installed."""
    versions = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def git_revision(folder: Path) -> dict[str, Any] | None:
    """The commit of a clone, and whether its tracked files differ from it; ``None``: no clone, or no git."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout

    try:
        if Path(ask("rev-parse", "--show-toplevel").strip()).resolve() != folder.resolve():
            return None  # a copy inside of somebody's own repository
        status = ask("status", "--porcelain", "--untracked-files=no")
        return {"revision": ask("rev-parse", "HEAD").strip(), "dirty": bool(status.strip())}
    except (OSError, subprocess.CalledProcessError):
        return None
