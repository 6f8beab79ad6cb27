"""The results of pseudo-labelling: a table, JSON and list files, and a picture of examples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.images import read_image, write_png
from etc.data.labels import class_names, label_table_of, read_colors, read_train_ids
from etc.display.drawing import legend, overlay, side_by_side
from etc.display.tables import percent, table
from etc.evaluate.results import write_json
from etc.metrics import iou_scores
from etc.pseudo_labels.generate import LIST_FILE, PseudoLabels, read_teacher, training_list
from etc.pseudo_labels.selection import Choice
from utils.files import write_text

EXAMPLES, EXAMPLE_WIDTH = 4, 512


def save(made: PseudoLabels, settings: Settings, choice: Choice, out: str | Path, *, keep_listed: bool) -> Path:
    """Write ``pseudo_labels.json``, ``settings.yaml``, ``examples.png`` and, last, the list to train on into a folder.

    Returns:
        The list; ``keep_listed`` as in :func:`etc.pseudo_labels.generate.training_list`.
    """
    out = Path(out)
    write_json(out / "pseudo_labels.json", {"choice": choice._asdict(), **figures(made, settings)})
    write_text(out / "settings.yaml", dump_settings(settings))
    write_png(out / "examples.png", examples(made, settings))
    write_text(out / LIST_FILE, training_list(made, settings, keep_listed=keep_listed))
    return out / LIST_FILE


def figures(made: PseudoLabels, settings: Settings) -> dict[str, Any]:
    """Every figure by name, lists of one value per class; NaN where it is undefined.

    ``before`` is what the teacher predicted, ``after`` what was kept of it, both over pixels with a ground-truth label;
    ``precision`` there is the share of a class's pseudo labels that are right.
    """
    result: dict[str, Any] = {
        "classes": class_names(settings),
        "frames": len(made.frames),
        "frames_with_labels_left": int(made.filled.sum()),
        "frames_with_own_label": sum(frame.label is not None for frame in made.frames),
        "predicted_pixels": made.predicted.tolist(),
        "kept_pixels": made.kept.tolist(),
        "kept_share": _shares(made.kept, made.predicted),
        "least_confidence": made.least.tolist(),
    }
    for name, counts in (("before", made.before), ("after", made.after)):
        result[name] = iou_scores(counts) | {"precision": _shares(counts.diagonal(), counts.sum(0))}
    return result


def pseudo_table(made: PseudoLabels, settings: Settings) -> str:
    """The figures for people, at most 100 columns wide."""
    data = figures(made, settings)
    compared = data["before"]["pixels"] > 0
    rows = [["class", "of the teacher's pixels %", "kept %", "least confidence"]]
    rows[0] += ["right % before", "right % after"] if compared else []
    pixels = made.predicted.sum()
    for i, name in enumerate(data["classes"]):
        predicted = bool(made.predicted[i])
        row = [name, percent((made.predicted[i] / pixels).item()), percent(data["kept_share"][i])]
        row.append(f"{made.least[i]:.4f}" if predicted else "-")
        row += [percent(data[when]["precision"][i]) for when in ("before", "after")] if compared else []
        rows.append(row)
    share = percent((made.kept.sum() / pixels).item())
    lines = [
        table(rows),
        "",
        f"kept {share}% of all pixels; {data['frames_with_labels_left']} of {data['frames']} frames have labels left",
    ]
    if compared:
        before, after = data["before"], data["after"]
        lines += [
            f"against the labels that {data['frames_with_own_label']} of the frames have:",
            f"  all pixels:  {percent(before['allAcc'])}% right, mIoU {percent(before['mIoU'])}",
            f"  kept pixels: {percent(after['allAcc'])}% right, mIoU {percent(after['mIoU'])}",
        ]
    return "\n".join(lines)


def examples(made: PseudoLabels, settings: Settings) -> np.ndarray:
    """Frames spread over the list, the teacher's prediction and the labels that are kept, RGB uint8 ``[H, W, 3]``."""
    data = settings.DATA
    palette = read_colors(data.colors_path, data.classes)
    encoded = label_table_of(settings)
    count = min(EXAMPLES, len(made.frames))
    rows = []
    for index in np.linspace(0, len(made.frames) - 1, count).round().astype(int):
        rgb = read_image(Path(data.data_root) / made.frames[index].image)
        scale = min(1, EXAMPLE_WIDTH / rgb.shape[1])
        size = round(rgb.shape[1] * scale), max(1, round(rgb.shape[0] * scale))
        small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        panels = [("frame", small)]
        for name, ids in (
            ("teacher", read_teacher(made.raw[index], data.classes)[0].numpy()),
            ("kept", read_train_ids(made.labels[index], encoded)),
        ):
            panels.append((name, overlay(small, cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST), palette, 0.7)))
        rows.append(side_by_side(panels))
    width = max(row.shape[1] for row in rows)
    rows.append(legend(class_names(settings), palette, width=width))
    return np.concatenate(
        [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _shares(part: Tensor, whole: Tensor) -> list[float]:
    return [p / w if w else math.nan for p, w in zip(part.tolist(), whole.tolist(), strict=True)]
