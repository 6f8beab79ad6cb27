"""Results of an evaluation as files: JSON for programs, CSV for spreadsheets, the settings beside them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.labels import class_names
from etc.errors import UserError
from etc.metrics import iou_counts, iou_scores
from utils.files import sha256_of, write_text

TC_FILE, MIOU_FILE = "tc.json", "miou.json"

_NUMBER = r"(?:-?[\d.]+(?:[eE][-+]?\d+)?|null)"
_NUMBERS = re.compile(rf"\[\s+({_NUMBER}(?:,\s+{_NUMBER})*)\s+\]")


@dataclass(frozen=True)
class ClipScores:
    """Temporal consistency and what must stand beside it.

    Attributes:
        figures: ``judge``, ``stride``, ``flow`` (whose flow it was), ``strict``, ``boundary``, ``published``,
            ``segmentation`` (each as :func:`etc.metrics.iou_scores`), ``strict_interval`` and ``published_interval``
            (95% over clips), ``ceiling``, ``flicker``, ``coverage``, ``pairs`` (``scored``, ``skipped``),
            ``vc{8,16}_{vspw,correct}``, ``constant`` (the control), ``predictions`` (what was scored), and where there
            are several judges or strides ``views``: the figures of each, with its ``clips``.
        clips: one row a clip; ``pairs`` is strict TC of each of its pairs of frames.
        counts: ``strict``, ``published`` and ``segmentation``, counts of each clip, int64 ``[clips, K, K]``.
        settings: the effective settings.
    """

    figures: dict[str, Any]
    clips: list[dict[str, Any]]
    counts: dict[str, Tensor]
    settings: Settings

    def save(self, folder: str | Path) -> None:
        """Write ``tc.json``, ``tc.csv`` (classes, then clips) and ``tc_settings.yaml``."""
        folder = Path(folder)
        names = class_names(self.settings)
        content = {"classes": names, **self.figures, "clips": self.clips}
        content["clip_counts"] = {name: iou_counts(table).tolist() for name, table in self.counts.items()}
        write_json(folder / TC_FILE, content)
        write_csv(folder / "tc.csv", self._rows(names))
        write_text(folder / "tc_settings.yaml", dump_settings(self.settings))

    def _rows(self, names: list[str]) -> list[list[Any]]:
        """Every view's figure of all clips, of each class and of each clip."""
        first = self.figures | {"clips": self.clips}
        rows: list[list[Any]] = [["judge", "stride", "kind", "name", "strict", "published"]]
        for view in self.figures.get("views", [first]):
            strict, published = view["strict"], view["published"]
            head = [view["judge"], view["stride"]]
            rows.append([*head, "all", "", strict["mIoU"], published["mIoU"]])
            classes = zip(names, strict["iou"], published["iou"], strict=True)
            rows += [[*head, "class", *row] for row in classes]
            clips = zip(self.clips, view["clips"], strict=True)
            rows += [[*head, "clip", clip["clip"], own["strict"], own["published"]] for clip, own in clips]
        return rows


@dataclass(frozen=True)
class FrameScores:
    """mIoU over labelled frames.

    Attributes:
        counts: confusion counts, int64 ``[K, K]``, rows are the labels.
        frames: number of frames.
        settings: the effective settings.
    """

    counts: Tensor
    frames: int
    settings: Settings

    @property
    def figures(self) -> dict[str, Any]:
        """As :func:`etc.metrics.iou_scores`, averaged over the classes that occur, and the ``accuracy`` per class."""
        hits, labelled = self.counts.diagonal().tolist(), self.counts.sum(1).tolist()
        accuracy = [hit / pixels if pixels else math.nan for hit, pixels in zip(hits, labelled, strict=True)]
        return iou_scores(self.counts) | {"accuracy": accuracy}

    def save(self, folder: str | Path) -> None:
        """Write ``miou.json``, ``miou.csv`` and ``miou_settings.yaml``."""
        folder = Path(folder)
        names = class_names(self.settings)
        content = {"classes": names, "frames": self.frames, **self.figures, "confusion": self.counts.tolist()}
        content["checkpoint_sha256"] = sha256_of(self.settings.TEST.ckpt_path)
        write_json(folder / MIOU_FILE, content)
        figures = self.figures
        rows = zip(names, figures["iou"], figures["accuracy"], strict=True)
        write_csv(folder / "miou.csv", [["class", "iou", "accuracy"], *rows])
        write_text(folder / "miou_settings.yaml", dump_settings(self.settings))


def read_result(path: Path) -> dict[str, Any]:
    """Read ``tc.json`` or ``miou.json``; absent values are NaN.

    Raises:
        UserError: the file is missing or no result.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_hook=_with_nan)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is not a result file") from None


def clip_counts(tc: dict[str, Any], protocol: Literal["strict", "published", "segmentation"]) -> np.ndarray:
    """The counts of each clip in a read ``tc.json``, for a comparison of two runs over the same clips.

    Returns:
        int64 ``[clips, 3, K]``, rows as of :func:`etc.metrics.iou_counts`; the statistic over it is
        :func:`etc.metrics.mean_iou`.
    """
    return np.asarray(tc["clip_counts"][protocol], dtype=np.int64)


def _with_nan(node: dict[str, Any]) -> dict[str, Any]:
    def value(x: Any) -> Any:
        return [value(v) for v in x] if isinstance(x, list) else math.nan if x is None else x

    return {key: value(x) for key, x in node.items()}


def _without_nan(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_without_nan(value) for value in node]
    return None if isinstance(node, float) and math.isnan(node) else node


def write_json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write JSON, atomically; NaN, a value that does not exist, becomes null; lists of numbers take one line."""
    text = json.dumps(_without_nan(content), indent=1)
    write_text(path, _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of cells as CSV, atomically; NaN, a value that does not exist, becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())
