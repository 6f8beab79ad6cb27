"""The page of a study: a table, the frontier of accuracy against changed pixels, and the learning curves."""

from __future__ import annotations

from math import cos, radians, sin
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etc.display.curves import LOG_FILE, draw_curve, read_log
from etc.study.controls import Filter
from etc.study.plan import Overrides, Study
from etc.study.runs import FinishedRun
from etc.study.summary import HEAD, Row, cells
from utils.files import replacing, write_text


def write_page(study: Study, config: str, runs: list[FinishedRun], rows: list[Row], folder: Path) -> Path:
    """Write ``<study>.md``, ``<study>_frontier.png`` and, for each seed, ``<study>_curves_seed<seed>.png``.

    The curves of a seed that was trained on another machine stay as they are.

    Args:
        study: the plan.
        config: its file.
        runs: the finished runs.
        rows: their figures.
        folder: where to.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _draw_frontier(rows, study.baseline, folder / f"{study.name}_frontier.png")
    for seed in study.seeds:
        _draw_curves(study, seed, folder / _curves(study, seed))
    curves = [_curves(study, seed) for seed in study.seeds if (folder / _curves(study, seed)).is_file()]
    lines = [
        f"# Study: {study.name}",
        "",
        f"Written by `python tool/study.py --config {config}`; do not edit. The runs are kept beside this page: with"
        " `--results FOLDER` all of them are trained again.",
        f"{len(runs)} of {len(study.rows) * len(study.seeds)} runs are done, on {_clips(runs[0])};"
        f" {sum(run.minutes for run in runs) / 60:.1f} hours of computing without the first trainings.",
        "",
        *([study.note, ""] if study.note else []),
        "All figures in percent, means over the seeds (± standard deviation). `mIoU more` and `relative`"
        " say how a row differs from the one that it is `compared with`, with 95% intervals over seeds and"
        f" {runs[0].counted_in}: in percentage points of mIoU, and in percent of the share of pixels that change their"
        " class between frames;"
        " `relative by flow` is the latter when frames are compared along the flow of another estimator."
        " `VC8`: pixels that keep the right class for eight frames. `regions`: connected regions of one class in a"
        " frame.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
        *(f"| {' | '.join(cells(row))} |" for row in rows),
        "",
        f"![accuracy against changed pixels]({study.name}_frontier.png)",
        "",
        *(f"![learning curves]({name})\n" for name in curves),
        "## Variants",
        "",
        *(f"- `{name}`: {_listed(own) or f'`{study.config}` as it is'}" for name, own in study.variants.items()),
        *(f"- `{name}`: {_control(study, control)}" for name, control in study.controls.items()),
        "",
    ]
    path = folder / f"{study.name}.md"
    write_text(path, "\n".join(lines))
    return path


def _clips(run: FinishedRun) -> str:
    """What a run was scored on, in words."""
    parts = len(run.strict)
    return f"{parts} clips" if run.counted_in == "clips" else f"one clip in {parts} segments"


def _listed(overrides: Overrides) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in overrides.items())


def _control(study: Study, control: Filter | Overrides) -> str:
    if isinstance(control, dict):
        return f"not trained: the frames predicted with {_listed(control)}"
    if control == "constant":
        return f"the most frequent class of the predictions of `{study.baseline}`, everywhere"
    frames, rows, columns = control
    return f"the predictions of `{study.baseline}`, the majority of {frames} frames, {rows}x{columns} pixels"


def _draw_frontier(rows: list[Row], baseline: str, path: Path) -> None:
    # A constant prediction would press all others into a corner; it stays in the table.
    best = max(row.miou for row in rows)
    drawn = [row for row in rows if row.miou > best / 2]
    columns = _legend_columns(len(drawn), 30)
    figure = Figure(figsize=(6 + 3 * columns, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = [(100 * (1 - row.pixel_consistency), 100 * row.miou) for row in drawn]
    for number, (row, (x, y)) in enumerate(zip(drawn, points, strict=True), start=1):
        # NaN, the spread of one seed, is not drawn.
        across, up = 100 * row.spread_pixel_consistency, 100 * row.spread_miou
        color = "black" if row.variant == baseline else None
        name = f"{number} {row.variant}"
        marker = "osD^v"[number // 10 % 5]  # the colours come again
        axes.errorbar(x, y, xerr=across, yerr=up, fmt=marker, color=color, elinewidth=0.8, alpha=0.9, label=name)
    figure.legend(loc="outside right upper", fontsize=8, ncols=columns)
    axes.invert_xaxis()
    axes.set_xlabel("pixels that change their class between frames, % (fewer to the right)")
    axes.set_ylabel("mIoU, %")
    axes.grid(color="0.9")
    _number(figure, axes, points)
    _save(figure, path)


def _number(figure: Figure, axes: Axes, points: list[tuple[float, float]]) -> None:
    """Write 1, 2, ... beside the points, further away where points or other numbers are close, with a line then."""
    figure.draw_without_rendering()  # lays the axes out
    at = axes.transData.transform(points)  # pixels
    taken = list(at)
    for number, (point, own) in enumerate(zip(points, at, strict=True), start=1):
        ring = [(cos(radians(turn)), sin(radians(turn))) for turn in range(45, 405, 45)]
        spots = [own + radius * np.array(way) for radius in (12, 18, 26, 36, 48) for way in ring]
        spot = next((s for s in spots if all(abs(s - other).max() > 11 for other in taken)), spots[0])
        taken.append(spot)
        line = {"arrowstyle": "-", "linewidth": 0.4} if np.hypot(*(spot - own)) > 15 else None
        places = {"xytext": spot, "textcoords": "figure pixels", "ha": "center", "va": "center"}
        axes.annotate(str(number), point, fontsize=8, arrowprops=line, **places)


def _curves(study: Study, seed: int) -> str:
    return f"{study.name}_curves_seed{seed}.png"


def _draw_curves(study: Study, seed: int, path: Path) -> None:
    """Validations and segmentation loss of the first training of a seed, and the loss of its variants."""
    here = [variant for variant in study.variants if (study.run_folder(variant, seed) / LOG_FILE).is_file()]
    if not here:
        return
    variants = {variant: read_log(study.run_folder(variant, seed)) for variant in here}
    panels = [(f"variants, seed {seed}: segmentation loss", "loss/segmentation", variants)]
    if study.start is not None and (study.start_folder(seed) / LOG_FILE).is_file():
        start = {"start": read_log(study.start_folder(seed))}
        titles = {"validation/mIoU": "mIoU, %", "loss/segmentation": "segmentation loss"}
        panels[:0] = [
            (f"first training, seed {seed}: {title}", name, start)
            for name, title in titles.items()
            if name in start["start"]
        ]
    columns = _legend_columns(len(here), 24)
    figure = Figure(figsize=(4 * len(panels) + 2 * columns, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for ax, (title, name, curves) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        for label, own in curves.items():
            draw_curve(ax, own, name, label)
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.grid(color="0.9")
    if len(here) > 10:  # the colours come again
        for line in ax.lines[10:]:
            line.set_linestyle("--")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=7, ncols=columns)
    _save(figure, path)


def _legend_columns(entries: int, rows: int) -> int:
    return -(-entries // rows)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary)
