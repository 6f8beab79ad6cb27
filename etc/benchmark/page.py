"""The results of a run as a table for the terminal, as a page of Markdown and as JSON."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import cv2
import torch

from etc.benchmark.measure import Figure
from etc.display.machine import machine
from etc.display.tables import table
from utils.files import write_text

_INTRO = """# Benchmarks

The command below writes this whole page. Each time is given as a ratio or a share of another time. The two times are
measured alternately in one run, so that a slow or busy machine affects both alike. The tables give the median of the
rounds and the range of the middle 50% of them (with fewer than four rounds: the smallest and the largest value). A
budget is a limit that the toolkit sets itself; a figure outside its budget is marked `over`.
"""


class Measured(NamedTuple):
    """A benchmark that ran: its name on the command line, its title, what it measures, and what came out."""

    name: str
    title: str
    explanation: str
    figures: list[Figure]


class Origin(NamedTuple):
    """How the figures came about: the command, the machine, and what frames were worked on."""

    command: str
    machine: str
    frames: str


def machine_and_versions() -> str:
    """Processor, threads and versions, in one line."""
    return (
        f"{machine(torch.device('cpu'))}, torch {torch.__version__}, OpenCV {cv2.__version__}, "
        f"Python {platform.python_version()}"
    )


def text_table(measured: list[Measured]) -> str:
    """For the terminal."""
    rows = [["benchmark", "what", "median", "middle 50%", "budget", ""]]
    rows += [[m.name, *_cells(figure)] for m in measured for figure in m.figures]
    return table(rows)


def markdown(measured: list[Measured], origin: Origin) -> str:
    """The page."""
    lines = [_INTRO, "```", origin.command, "```", "", f"{origin.machine}. {origin.frames}", ""]
    for m in measured:
        lines += [f"## {m.title}", "", fill(" ".join(m.explanation.split()), 118), ""]
        lines += ["| what | median | middle 50% | budget | verdict |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_cells(figure))} |" for figure in m.figures]
        lines += ["", f"`python tool/benchmark.py {m.name}`", ""]
    return "\n".join(lines)


def as_json(measured: list[Measured], origin: Origin) -> str:
    """Everything, with the value of every round."""
    content: dict[str, Any] = origin._asdict()
    content["benchmarks"] = {m.name: [_record(figure) for figure in m.figures] for m in measured}
    return json.dumps(content, indent=1) + "\n"


def save(measured: list[Measured], origin: Origin, path: Path) -> None:
    """Write the page, or JSON where the name ends in ``.json``; atomically."""
    write_text(path, (as_json if path.suffix == ".json" else markdown)(measured, origin))


def _record(figure: Figure) -> dict[str, Any]:
    return {
        "work": figure.work,
        "unit": figure.unit,
        "measured": None if figure.skipped else figure.measured,  # JSON has no NaN
        "rounds": list(figure.values),
        "budget": figure.budget,
        "at_least": figure.at_least,
        "verdict": figure.verdict,
    }


def _cells(figure: Figure) -> list[str]:
    low, high = figure.spread
    unit = f" {figure.unit}"
    spread = f"{_number(low)} - {_number(high)}" if len(figure.values) > 1 else "-"
    bound = "at least" if figure.at_least else "at most"
    budget = "-" if figure.budget is None else f"{bound} {figure.budget:g}{unit}"
    measured = "-" if figure.skipped else _number(figure.measured) + unit
    return [figure.work, measured, spread, budget, figure.verdict]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
