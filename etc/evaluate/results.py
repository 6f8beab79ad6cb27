"""Results of an evaluation as files: JSON for programs, CSV for spreadsheets, the settings beside them."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from etc.config import dump_settings, load_settings
from etc.config.schema import Settings
from etc.data.labels import class_names
from etc.errors import UserError
from etc.evaluate.metric_list import HEADLINE, ClipMetric, classes_averaged, metrics_in
from etc.metrics import iou_scores
from etc.metrics.bootstrap import parts_with_counts
from etc.predict.provenance import predictor_settings
from utils.files import regular_file, write_text

TC_FILE, TC_SETTINGS_FILE, MIOU_FILE = "tc.json", "tc_settings.yaml", "miou.json"

_NUMBER = r"(?:-?[\d.]+(?:[eE][-+]?\d+)?|null)"
_NUMBERS = re.compile(rf"\[\n\s*({_NUMBER}(?:,\n\s*{_NUMBER})*)\n\s*\]")  # no text in JSON holds a line break


class ClipFigures(NamedTuple):
    """The scores of one clip under one flow at one stride.

    Attributes:
        figures: metric -> its headline figure, a share in [0, 1], NaN where nothing was counted.
        pairs: strict TC of each of its pairs of frames, NaN where it was skipped.
        classes: metric that is a mean over classes -> how many it averages.
    """

    figures: dict[str, float]
    pairs: list[float]
    classes: dict[str, int]


class ConstantControl(NamedTuple):
    """The control, one class predicted everywhere: which class, and its mIoU on the labelled frames of the clips."""

    class_id: int
    mean_iou: float


@dataclass(frozen=True)
class FlowScores:
    """The scores of all clips under one flow at one stride; metrics that need no flow are the same under each.

    Attributes:
        name: the entry of ``FLOW.evaluate_with``.
        stride: distance of the frames of a pair.
        flow: key of the flow; equal keys mean equal flow.
        results: metric -> what its ``compute`` gives for all clips together.
        intervals: metric that has a statistic -> 95% interval of its figure over clips.
        coverage: share of the pixels of the scored pairs that strict TC counts.
        scored: pairs that were scored.
        skipped: pairs that lack a prediction.
        clips: one entry per clip.
    """

    name: str
    stride: int
    flow: str
    results: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    coverage: float
    scored: int
    skipped: int
    clips: list[ClipFigures]

    def figure(self, metric: ClipMetric) -> float:
        """The headline figure of a metric, a share in [0, 1]; NaN where nothing was counted."""
        return metric.figure(self.results[metric.key])

    def pixel_shares(self) -> list[float]:
        """For each class the share of the pixels that strict TC counts which have it in one of the two frames."""
        strict = self.results[HEADLINE]
        return [pixels / strict["pixels"] if strict["pixels"] else math.nan for pixels in strict["class_pixels"]]

    def record(self) -> dict[str, Any]:
        """The scores in the form of ``tc.json``, without the clips."""
        return {
            "flow_name": self.name,
            "stride": self.stride,
            "flow": self.flow,
            **self.results,
            **{f"{key}_interval": list(interval) for key, interval in self.intervals.items()},
            "coverage": self.coverage,
            "pairs": {"scored": self.scored, "skipped": self.skipped},
        }

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> FlowScores:
        """The inverse of :meth:`record`, which must hold ``clips`` too. KeyError and the like for another record."""
        metrics = metrics_in(record)
        keys = [metric.key for metric in metrics]
        scores = cls(
            name=record["flow_name"],
            stride=record["stride"],
            flow=record["flow"],
            results={key: record[key] for key in keys},
            intervals={m.key: tuple(record[f"{m.key}_interval"]) for m in metrics if m.statistic},
            coverage=record["coverage"],
            scored=record["pairs"]["scored"],
            skipped=record["pairs"]["skipped"],
            clips=[
                ClipFigures({key: clip[key] for key in keys}, clip["pairs"], clip["classes"])
                for clip in record["clips"]
            ],
        )
        for metric in metrics:
            scores.figure(metric)
        return scores


@dataclass(frozen=True)
class ClipScores:
    """The scores of clips, and what is needed to read and compare them.

    Attributes:
        classes: names of the classes.
        clips: names of the clips.
        by_flow: the scores under each flow and stride, the headline first.
        constant: the control.
        predictions: what was scored: folder, kind of ids, frames without a prediction, and what they were made with.
        clip_counts: metric that counts by itself and has a statistic -> its kept counts under the first flow, int64
            ``[parts, ...]``, for intervals and for a comparison of runs. The parts are the clips or, where there is a
            single clip, its segments.
        settings: the effective settings.
        gaps: the clips that begin after a gap in the frame numbers (``DATA.gaps``).
        cuts: the clips that begin after a cut (``DATA.cuts``).
        frames_sha256: tells the frames and labels from others; ``None`` in files of earlier versions.
    """

    classes: list[str]
    clips: list[str]
    by_flow: list[FlowScores]
    constant: ConstantControl
    predictions: dict[str, Any]
    clip_counts: dict[str, np.ndarray]
    settings: Settings
    gaps: list[str] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    frames_sha256: str | None = None

    @property
    def first(self) -> FlowScores:
        """The scores under the first flow and stride, which are the ones to quote."""
        return self.by_flow[0]

    @property
    def interval_parts(self) -> tuple[int, str]:
        """What intervals are drawn from: how many parts, and ``clips`` or ``segments of the clip``."""
        parts = len(self.clip_counts[HEADLINE])
        return parts, "clips" if parts == len(self.clips) else "segments of the clip"

    def parts_of(self, metric: ClipMetric) -> tuple[int, str]:
        """The :attr:`interval_parts` in which a metric counts anything: its interval is drawn from them."""
        return int(parts_with_counts(self.clip_counts[metric.counted_by]).sum()), self.interval_parts[1]

    @property
    def checkpoint(self) -> str | None:
        """SHA-256 of the checkpoint that made the predictions; ``None`` for predictions made by others."""
        return self.predictions.get("checkpoint_sha256")

    def save(self, folder: str | Path) -> None:
        """Write ``tc.json``, ``tc.csv`` (all clips together, classes, clips) and ``tc_settings.yaml``."""
        folder = Path(folder)
        content = {"classes": self.classes, **self.first.record()}
        content["constant"] = {"class": self.constant.class_id, "mIoU": self.constant.mean_iou}
        content["predictions"] = self.predictions
        content["frames_sha256"] = self.frames_sha256
        for what, names in (("gaps", self.gaps), ("cuts", self.cuts)):
            content[what] = {"count": len(names), "frames": names}
        if len(self.by_flow) > 1:
            content["flow_settings"] = [own.record() | {"clips": self._clip_records(own)} for own in self.by_flow]
        content["clips"] = self._clip_records(self.first)
        content["intervals_over"] = dict(zip(("count", "parts"), self.interval_parts, strict=True))
        content["clip_counts"] = {key: counts.tolist() for key, counts in self.clip_counts.items()}
        write_json(folder / TC_FILE, content)
        write_csv(folder / "tc.csv", self._rows())
        write_text(folder / TC_SETTINGS_FILE, dump_settings(self.settings))

    def _clip_records(self, scores: FlowScores) -> list[dict[str, Any]]:
        rows = zip(self.clips, scores.clips, strict=True)
        return [{"clip": name, **clip.figures, "classes": clip.classes, "pairs": clip.pairs} for name, clip in rows]

    def _rows(self) -> list[list[Any]]:
        """One row for all clips, one per class and one per clip, under each flow and stride.

        One column per metric; then, for each metric that is a mean over classes, how many it averages; then the share
        of the pixels that a class has.
        """
        metrics = metrics_in(self.first.results)
        means = [m.key for m in metrics if classes_averaged(self.first.results[m.key]) is not None]
        rows: list[list[Any]] = [["flow_name", "stride", "kind", "name", *(metric.key for metric in metrics)]]
        rows[0] += [*(f"{key}_classes" for key in means), "pixel_share"]
        for scores in self.by_flow:
            head = [scores.name, scores.stride]
            averaged = [classes_averaged(scores.results[key]) for key in means]
            rows.append([*head, "all", "", *map(scores.figure, metrics), *averaged, math.nan])
            nowhere = [math.nan for _ in means]
            for k, (name, share) in enumerate(zip(self.classes, scores.pixel_shares(), strict=True)):
                rows.append([*head, "class", name, *(_of_class(scores.results[m.key], k) for m in metrics)])
                rows[-1] += [*nowhere, share]
            for name, clip in zip(self.clips, scores.clips, strict=True):
                rows.append([*head, "clip", name, *(clip.figures[m.key] for m in metrics)])
                rows[-1] += [*(clip.classes[key] for key in means), math.nan]
        return rows


def _of_class(result: Any, k: int) -> float:
    """IoU of one class where a metric has one."""
    return result["iou"][k] if isinstance(result, dict) and "iou" in result else math.nan


def read_clip_scores(folder: Path) -> ClipScores:
    """Read what :meth:`ClipScores.save` wrote into a folder.

    Raises:
        UserError: a file is missing, or ``tc.json`` was written by another version of the toolkit.
    """
    path = folder / TC_FILE
    tc, settings = read_result(path), load_settings(folder / TC_SETTINGS_FILE)
    kept = [metric.key for metric in metrics_in(tc) if metric.statistic and not metric.counts_of]
    try:
        control = tc["constant"]
        return ClipScores(
            classes=tc["classes"],
            clips=[clip["clip"] for clip in tc["clips"]],
            by_flow=[FlowScores.of_record(record) for record in tc.get("flow_settings", [tc])],
            constant=ConstantControl(control["class"], control["mIoU"]),
            predictions=dict(tc["predictions"]),
            clip_counts={key: np.asarray(tc["clip_counts"][key], np.int64) for key in kept},
            settings=settings,
            gaps=list(tc.get("gaps", {}).get("frames", [])),
            cuts=list(tc.get("cuts", {}).get("frames", [])),
            frames_sha256=_text_or_none(tc.get("frames_sha256")),
        )
    except (KeyError, TypeError, ValueError) as error:
        lacking = f" (no {error})" if isinstance(error, KeyError) else ""
        again = f"score it again with tool/eval_tc.py TEST.save_folder {folder}"
        raise UserError(f"{path} was not written by this version of the toolkit{lacking}: {again}") from error


def _text_or_none(value: Any) -> str | None:
    """Absent values of a result are NaN."""
    return value if isinstance(value, str) else None


@dataclass(frozen=True)
class FrameScores:
    """mIoU over labelled frames.

    Attributes:
        counts: confusion counts, int64 ``[K, K]``, rows are the labels.
        frames: number of frames.
        checkpoint: SHA-256 of the checkpoint that predicted them.
        settings: the effective settings.
        frames_sha256: tells the frames and labels from others.
    """

    counts: Tensor
    frames: int
    checkpoint: str | None
    settings: Settings
    frames_sha256: str

    @property
    def figures(self) -> dict[str, Any]:
        """As :func:`etc.metrics.iou_scores`, averaged over the classes that occur, and the ``accuracy`` per class."""
        hits, labelled = self.counts.diagonal().tolist(), self.counts.sum(1).tolist()
        accuracy = [hit / pixels if pixels else math.nan for hit, pixels in zip(hits, labelled, strict=True)]
        return {**iou_scores(self.counts), "accuracy": accuracy}

    def save(self, folder: str | Path) -> None:
        """Write ``miou.json``, ``miou.csv`` and ``miou_settings.yaml``."""
        folder = Path(folder)
        names = class_names(self.settings)
        content = {"classes": names, "frames": self.frames, **self.figures, "confusion": self.counts.tolist()}
        content["checkpoint_sha256"] = self.checkpoint
        content |= {"frames_sha256": self.frames_sha256, "predictor": predictor_settings(self.settings)}
        ignored = self.settings.TRAIN.ignore_label
        content["labels"] = {"label_map": self.settings.DATA.label_map, "ignore_label": ignored}
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
        result = json.loads(regular_file(path).read_text(encoding="utf-8"), object_hook=with_nan)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise UserError(f"{path} is not a result file")
    return result


def with_nan(node: dict[str, Any]) -> dict[str, Any]:
    """A JSON object as it was before :func:`without_nan`, for ``object_hook``."""

    def value(x: Any) -> Any:
        return [value(v) for v in x] if isinstance(x, list) else math.nan if x is None else x

    return {key: value(x) for key, x in node.items()}


def without_nan(node: Any) -> Any:
    """What JSON can hold: NaN, a value that does not exist, becomes ``None``, which it writes as null."""
    if isinstance(node, dict):
        return {key: without_nan(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [without_nan(value) for value in node]
    return None if isinstance(node, float) and math.isnan(node) else node


def write_json(path: Path, content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write JSON, atomically; NaN, a value that does not exist, becomes null; lists of numbers take one line."""
    text = json.dumps(without_nan(content), indent=1)
    write_text(path, _NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of cells as CSV, atomically; NaN, a value that does not exist, becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows)
    write_text(path, text.getvalue())
