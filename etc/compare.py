"""Several runs side by side: one table, one video, one picture of where their predictions flicker."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from etc.config import UserError
from etc.config_schema import Settings
from etc.data.images import read_image, read_label, write_png
from etc.data.labels import read_colors
from etc.data.lists import Clip, prediction_names
from etc.datasets import clips_to_score, flow_of_pairs
from etc.flow_store import FlowOfPairs
from etc.pictures import colorize, side_by_side
from etc.report import percent, table
from etc.results import MIOU_FILE, TC_FILE, read_result, write_json
from etc.video import Mp4Writer
from utils.files import write_text

PANEL_WIDTH = 512  # pixels; frames of less than half of it are enlarged


@dataclass(frozen=True)
class Run:
    """A scored run: its name, its result folder, and what ``eval_tc`` and ``test`` wrote there."""

    name: str
    folder: Path
    tc: dict[str, Any]
    miou: dict[str, Any]


def read_run(name: str, folder: str | Path) -> Run:
    """Read a run's result folder.

    Raises:
        UserError: ``tc.json`` or ``miou.json`` is missing, or they are of different checkpoints.
    """
    folder = Path(folder)
    for file, tool in ((TC_FILE, "eval_tc"), (MIOU_FILE, "test")):
        if not (folder / file).is_file():
            raise UserError(f"{folder} has no {file}: write it with tool/{tool}.py TEST.save_folder {folder}")
    run = Run(name, folder, read_result(folder / TC_FILE), read_result(folder / MIOU_FILE))
    try:
        figures(run)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder}: {TC_FILE} or {MIOU_FILE} was not written by this version: score it again") from None
    predictions = run.tc.get("predictions") or {}
    if predictions.get("checkpoint_sha256", run.miou["checkpoint_sha256"]) != run.miou["checkpoint_sha256"]:
        raise UserError(f"{folder}: {TC_FILE} and {MIOU_FILE} are of different checkpoints: run tool/test.py again")
    return run


def figures(run: Run) -> dict[str, float]:
    """The figures of a run that are compared, as shares."""
    low, high = run.tc["strict_interval"]
    return {
        "mIoU": run.miou["mIoU"],
        "TC": run.tc["strict"]["mIoU"],
        "TC low": low,
        "TC high": high,
        "TC boundary": run.tc["boundary"]["mIoU"],
        "flicker": run.tc["flicker"],
        "VC8": run.tc["vc8_correct"],
        "TC published": run.tc["published"]["mIoU"],
    }


def comparison_table(runs: list[Run]) -> str:
    """Runs as rows, fit for 100 columns; the last row is the ground truth under the same flow."""
    head = ["run", "mIoU", "TC strict", "95% over clips", "boundary", "flicker", "VC8 correct", "TC publ."]
    rows = [head]
    for run in runs:
        f = figures(run)
        rows.append(
            [
                run.name,
                percent(f["mIoU"]),
                percent(f["TC"]),
                "-" if math.isnan(f["TC low"]) else f"{percent(f['TC low'])} - {percent(f['TC high'])}",
                percent(f["TC boundary"]),
                percent(f["flicker"], 3),
                percent(f["VC8"]),
                percent(f["TC published"]),
            ]
        )
    rows.append(["ground truth", "100", percent(runs[0].tc["ceiling"]), *["-"] * (len(head) - 3)])
    return table(rows)


def save_comparison(runs: list[Run], folder: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``."""
    rows = [{"run": run.name, **figures(run)} for run in runs]
    write_json(folder / "comparison.json", rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "comparison.csv", text.getvalue())


def write_pictures(runs: list[Run], settings: Settings, folder: Path) -> tuple[Path, Path]:
    """The clip on which the first run is least consistent: a side-by-side video and a picture of the flicker.

    Returns:
        The paths of the video and of the picture.
    """
    clips = clips_to_score(settings)
    scored = [clip["strict"] for clip in runs[0].tc["clips"]]
    if len(scored) != len(clips):
        raise UserError(f"{runs[0].folder} scored {len(scored)} clips, DATA.clip_list has {len(clips)}")
    # A clip on which nothing was counted has no figure; it is not the one to look at.
    index = int(np.argmin(np.nan_to_num(scored, nan=math.inf)))
    predictions = {run.name: _predictions(run, clips, index) for run in runs}
    root, palette = Path(settings.DATA.data_root), read_colors(settings.DATA.colors_path, settings.DATA.classes)
    paths = [root / frame.image for frame in clips[index]]
    video, picture = folder / "side_by_side.mp4", folder / "flicker.png"
    with Mp4Writer(video, settings.TEST.fps) as writer:
        for t, path in enumerate(paths):
            panels = [("frame", read_image(path))]
            panels += [(name, colorize(maps[t], palette)) for name, maps in predictions.items()]
            writer.write(side_by_side([(caption, _enlarged(picture)) for caption, picture in panels]))
    flow = flow_of_pairs(settings)
    panels = [("frame", read_image(paths[0]))]
    for name, maps in predictions.items():
        changes = flicker_map(maps, paths, flow)
        panels.append((f"{name}: labels that change along the flow, {percent(float(changes.mean()))}%", heat(changes)))
    write_png(picture, side_by_side([(caption, _enlarged(panel)) for caption, panel in panels]))
    return video, picture


def flicker_map(predictions: list[np.ndarray], paths: list[Path], flow: FlowOfPairs) -> np.ndarray:
    """How often the label of a pixel differs from that of the pixel it moves to.

    Args:
        predictions: label maps of consecutive frames, uint8 ``[H, W]``.
        paths: the frames.
        flow: gives the flow of a pair.

    Returns:
        Share of the pairs in [0, 1], float ``[H, W]``; pixels that leave the frame or are occluded do not change.
    """
    height, width = predictions[0].shape
    rows, columns = np.mgrid[:height, :width]
    changes = np.zeros((height, width))
    for t in range(len(predictions) - 1):
        forward, valid = flow.with_validity(paths[t], paths[t + 1], (height, width))
        x = np.floor(columns + forward[0] + 0.5).astype(int)
        y = np.floor(rows + forward[1] + 0.5).astype(int)
        seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if valid is not None:
            seen &= valid
        changes[seen] += predictions[t][seen] != predictions[t + 1][y[seen], x[seen]]
    return changes / max(1, len(predictions) - 1)


def heat(share: np.ndarray, full: float = 0.5) -> np.ndarray:
    """Shares as RGB uint8 ``[H, W, 3]``, black (never) to bright (``full`` or more)."""
    colors = matplotlib.colormaps["inferno"](np.clip(share / full, 0, 1))
    return (colors[:, :, :3] * 255).astype(np.uint8)


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Small frames by a whole factor, pixel for pixel, so that a caption fits above them."""
    factor = max(1, PANEL_WIDTH // picture.shape[1])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _predictions(run: Run, clips: list[Clip], index: int) -> list[np.ndarray]:
    names = prediction_names([frame for clip in clips for frame in clip])
    start = sum(map(len, clips[:index]))
    gray = run.folder / "video" / "gray"
    return [read_label(gray / f"{name}.png") for name in names[start : start + len(clips[index])]]
