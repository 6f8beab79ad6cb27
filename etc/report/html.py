"""The comparison as one self-contained HTML file: tables, bars, curves, heat maps, pictures and videos."""

from __future__ import annotations

import base64
import importlib.metadata
import math
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.labels import read_colors
from etc.display.tables import percent
from etc.evaluate.metric_list import HEADLINE, SEGMENTATION
from etc.evaluate.tables import FEW_PIXELS, few_pixels
from etc.report.clip_views import HEAT_FULL, ClipView, ClipViewer, clips_to_show, heatmap
from etc.report.comparison import ComparisonRow, footnotes, format_rows
from etc.report.first_look import FirstLook
from etc.report.runs import Run
from utils.files import write_text

REPORT_FILE = "report.html"
CLIPS = 6  # clips with videos and pictures; a clip at 512x256 takes about 2 MB
FRAMES = 60  # of each of them

_LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "av", "pydantic", "jinja2")
_STILL_QUALITY = 82  # of WebP


def write_report(
    viewer: ClipViewer,
    rows: list[ComparisonRow],
    folder: Path,
    look: FirstLook,
    *,
    clips: int = CLIPS,
    frames: int = FRAMES,
) -> Path:
    """Write ``report.html``, which needs no network and no other file.

    Args:
        viewer: of the runs.
        rows: their figures, as of :func:`etc.report.comparison.compare`.
        folder: where to.
        look: the pictures that stand first.
        clips: how many clips are shown in pictures, those of the lowest TC.
        frames: how many frames of each clip are shown as video, around its worst moment.

    Returns:
        The path of the file.

    Raises:
        UserError: frames, predictions or flow that cannot be read.
    """
    runs, settings = viewer.runs, viewer.settings
    shown = clips_to_show(runs, clips)
    views = [viewer.view(index, frames) for index in shown]
    total = len(runs[0].scores.clips)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title="Temporal consistency: " + ", ".join(run.name for run in runs),
            runs=[run.name for run in runs],
            look=look,
            loop=_data_uri(look.loop, "image/webp"),
            profile=_data_uri(look.profile, "image/png"),
            scatter=_scatter(rows),
            summary=format_rows(rows),
            notes=footnotes(rows),
            classes=_classes(runs, settings),
            few=percent(FEW_PIXELS, 1),
            iou_source="frames of the test list" if all(run.miou for run in runs) else "labelled frames of the clips",
            clips=_clips(views),
            ticks=_ticks(views),
            total=total,
            all_clips=_all_clips(runs),
            players=[_player(view, viewer.fps(index)) for view, index in zip(views, shown, strict=True)],
            heat_colors=["rgb({}, {}, {})".format(*color) for color in heatmap(np.linspace(0, HEAT_FULL, 8)[None])[0]],
            heat_full=percent(HEAT_FULL, 0),
            details=[_details(run) for run in runs],
            versions=_versions(),
            written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    path = folder / REPORT_FILE
    write_text(path, page)
    return path


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etc.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["still"] = _still
    return environment


def _classes(runs: list[Run], settings: Settings) -> list[dict[str, Any]]:
    """Classes that occur: name, colour, and for each run the TC and the IoU."""
    palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
    tested = [run.miou for run in runs if run.miou]
    tables = tested if len(tested) == len(runs) else [run.scores.first.results[SEGMENTATION] for run in runs]
    strict = [run.scores.first.results[HEADLINE]["iou"] for run in runs]
    iou = [scores["iou"] for scores in tables]
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*palette[k]),
            "TC": [own[k] for own in strict],
            "IoU": [own[k] for own in iou],
            "few": any(few_pixels(run.scores.first.pixel_shares()[k]) for run in runs),
        }
        for k, name in enumerate(runs[0].scores.classes)
    ]
    return [row for row in found if not all(map(math.isnan, row["TC"] + row["IoU"]))]


def _clips(views: list[ClipView]) -> list[dict[str, Any]]:
    low = _lowest(views)
    return [{"view": view, "curves": [_path(own, low) for own in view.pairs]} for view in views]


def _path(values: list[float], low: float) -> str:
    """An SVG path over x = index, y = 0 (full consistency) to 100 (``low``); broken where there is no value."""
    words, pen = [], "M"
    for x, value in enumerate(values):
        if math.isnan(value):
            pen = "M"
            continue
        words.append(f"{pen}{x} {100 * (1 - value) / (1 - low):.2f}")
        pen = "L"
    return " ".join(words)


def _lowest(views: list[ClipView]) -> float:
    """The lower end of the axis of all curves: below all values, and a whole number of steps below 1."""
    values = [value for view in views for own in view.pairs for value in own if not math.isnan(value)]
    lowest = min(values, default=0.0)
    step = _step(lowest)
    return max(0.0, round(step * math.floor(lowest / step - 1e-9), 1))


def _step(lowest: float) -> float:
    return 0.1 if lowest > 0.5 else 0.2


def _ticks(views: list[ClipView]) -> list[tuple[float, str]]:
    """Lines across the curves: y in 0..100, and what it stands for."""
    low = _lowest(views)
    steps = round((1 - low) / _step(low + 1e-9))
    return [(round(100 * i / steps, 2), percent(1 - (1 - low) * i / steps, 0)) for i in range(steps + 1)]


def _all_clips(runs: list[Run]) -> list[tuple[str, list[float]]]:
    columns = [[clip.figures[HEADLINE] for clip in run.scores.first.clips] for run in runs]
    return [(name, list(row)) for name, *row in zip(runs[0].scores.clips, *columns, strict=True)]


def _player(view: ClipView, fps: float) -> dict[str, Any]:
    videos = [[caption, base64.b64encode(data).decode("ascii")] for caption, data in view.videos]
    return {"start": view.start, "count": view.count, "fps": fps, "videos": videos}


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _scatter(rows: list[ComparisonRow]) -> dict[str, Any] | None:
    """Where each run stands between mIoU (x) and strict TC (y), in percent; ``None`` where a run lacks one.

    ``points`` are x and y in 0..100 from the lower left corner of a plot whose axes reach from ``low`` to ``high``.
    """
    accuracy = "mIoU" if all(math.isfinite(row["mIoU"]) for row in rows) else SEGMENTATION
    values = 100 * np.array([[row[accuracy], row[HEADLINE]] for row in rows])
    if not np.isfinite(values).all():
        return None
    low, high = np.floor(values.min(0)) - 1, np.ceil(values.max(0)) + 1
    return {
        "points": (100 * (values - low) / (high - low)).round(2).tolist(),
        "texts": [[f"{value:.2f}" for value in point] for point in values],
        "low": [f"{value:g}" for value in low],
        "high": [f"{value:g}" for value in high],
    }


def _still(picture: np.ndarray) -> str:
    """A picture as data URI, WebP."""
    _, data = cv2.imencode(".webp", picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, _STILL_QUALITY])
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _details(run: Run) -> dict[str, str]:
    return {
        "name": run.name,
        "folder": str(run.folder),
        "checkpoint": run.scores.checkpoint or "",
        "settings": dump_settings(run.scores.settings),
    }


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for name in ("etc-segmentation", *_LIBRARIES):
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:  # another build of OpenCV, or the toolkit run from its folder
            found.append((name, "not installed under this name"))
    return found
