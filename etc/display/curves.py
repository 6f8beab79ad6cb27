"""The log of a training, ``log.csv``, and the curves drawn from it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etc.errors import UserError
from utils.files import replacing

LOG_FILE = "log.csv"
HEAD = ("step", "name", "value")

_POINTS = 100  # of a loss curve: each is the mean of its part of the entries
_COLUMNS = 3
_PERCENT = "validation/"  # names of shares, which are shown in percent

Curves = dict[str, list[tuple[int, float]]]  # name -> (step, value) in the order of the steps


def read_log(folder: str | Path) -> Curves:
    """What a training logged: losses, learning rate and validations by name.

    A last line without its end, which a killed training may leave, is not read.

    Raises:
        UserError: no log there, or a file that is none.
    """
    path = Path(folder) / LOG_FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist: trainings of this version write it; give the TRAIN.save_path of one")
    curves: Curves = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = csv.reader(line for line in lines if line.endswith("\n"))
        if tuple(next(rows)) != HEAD:
            raise ValueError("another head")
        for step, name, value in rows:
            curves.setdefault(name, []).append((int(step), float(value)))
    except (ValueError, csv.Error, StopIteration) as error:
        raise UserError(
            f"{path} is damaged, or no log of a training: expected lines of {', '.join(HEAD)} alone; delete the others"
        ) from error
    return curves


def drawable_log(folder: str | Path) -> Curves:
    """:func:`read_log` of a training that logged something that can be drawn.

    Raises:
        UserError: as there, or nothing was logged yet, or no finite figure.
    """
    curves = read_log(folder)
    if not any(math.isfinite(value) for curve in curves.values() for _, value in curve):
        raise UserError(
            f"{Path(folder) / LOG_FILE} holds no figure yet: a training logs every TRAIN.print_freq steps; leave it out"
        )
    return curves


def draw_curve(axes: Axes, curves: Curves, name: str, label: str, color: str | None = None) -> None:
    """Draw one curve into axes, if it was logged: losses as means of neighbouring entries, scores in percent."""
    entries = curves.get(name, [])
    steps: list[float] = [step for step, _ in entries]
    values = [value for _, value in entries]
    if name.startswith(_PERCENT):
        values = [100 * value for value in values]
    else:
        size = math.ceil(len(entries) / _POINTS) or 1
        parts = [slice(i, i + size) for i in range(0, len(entries), size)]
        steps, values = ([sum(xs[part]) / len(xs[part]) for part in parts] for xs in (steps, values))
    if entries:
        axes.plot(steps, values, marker="." if len(steps) < 30 else None, label=label, color=color)


def draw_curves(runs: dict[str, Curves], path: Path) -> None:
    """Draw all that runs logged, one panel per name, the runs over each other.

    Args:
        runs: name of a run -> what it logged.
        path: the PNG.
    """
    names = sorted({name for curves in runs.values() for name in curves}, key=_order)
    rows = math.ceil(len(names) / _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 3 * max(1, rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(max(1, rows), _COLUMNS, squeeze=False).flat)
    for axes, name in zip(panels, names, strict=False):
        for number, (run, curves) in enumerate(runs.items()):
            draw_curve(axes, curves, name, run, f"C{number % 10}")  # a run without an entry here keeps its colour, too
        axes.set_title(f"{name}, %" if name.startswith(_PERCENT) else name, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.grid(color="0.9")
        if len(runs) > 1:
            axes.legend(fontsize=7)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _order(name: str) -> tuple[int, str]:
    """Losses first, of these the sum, then validations, then the rest."""
    if name == "loss/loss":
        return 0, name
    return (1 if name.startswith("loss/") else 2 if name.startswith(_PERCENT) else 3), name
