"""The confusion matrix as a picture: what the pixels of each class were taken for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from utils.files import replacing

_CELL = 0.48  # inches: room for three digits
_DARK = 0.55  # share from which a number is white on blue
_LEAST = 0.005  # smaller shares would be printed as 0


def row_shares(counts: Tensor) -> np.ndarray:
    """Confusion counts, int64 ``[K, K]``, as shares of each row, float64; the row of an absent class is NaN."""
    table = counts.cpu().numpy().astype(np.float64)
    pixels = table.sum(1, keepdims=True)
    return np.divide(table, pixels, out=np.full_like(table, math.nan), where=pixels > 0)


def write_confusion(counts: Tensor, names: list[str], path: str | Path) -> None:
    """Write the picture of a confusion matrix as PNG, atomically.

    Each row sums to 100%: of the pixels labelled as a class, how many were predicted as each class. The rows of classes
    without a labelled pixel are hatched, and cells below 0.5% stay empty.

    Args:
        counts: int64 ``[K, K]``, rows are the labels.
        names: K class names.
        path: the file.

    Raises:
        ValueError: ``counts`` is not ``[K, K]`` for K names.
    """
    classes = len(names)
    if tuple(counts.shape) != (classes, classes):
        raise ValueError(f"counts are {list(counts.shape)}, there are {classes} names")
    shares = row_shares(counts)
    # Not pyplot: it keeps figures of its own, and looks for a display.
    side = _CELL * max(classes, 6)
    figure = Figure(figsize=(side + 2.6, side + 1.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(shares >= _LEAST), strict=True):
        share = shares[row, column]
        weight, color = ("bold" if row == column else "normal"), ("white" if share > _DARK else "black")
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=color, weight=weight)
    for row in np.flatnonzero(np.isnan(shares[:, 0])):
        axes.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="0.75", hatch="////", linewidth=0)
    axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled (hatched: no such pixel)" if np.isnan(shares).any() else "labelled")
    axes.set_title("of the pixels of each class, % predicted as", fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.6, format=lambda share, _: f"{100 * share:.0f}%")
    with replacing(path) as temporary:
        figure.savefig(temporary)
