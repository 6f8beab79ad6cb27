"""How accurate an optical flow estimator is on frame pairs with ground truth, in numbers and in colours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torchvision.utils import flow_to_image
from tqdm import tqdm

from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.folders import check_name, files_below
from etc.data.frame_names import SUFFIXES_ON_DISK
from etc.data.images import read_image, write_png
from etc.display.drawing import side_by_side
from etc.display.tables import percent, table
from etc.errors import UserError
from etc.flow.estimators import FlowEstimator
from etc.flow.files import frames_of_flow, read_flow
from utils.files import write_text

FL_PIXELS, FL_SHARE = 3.0, 0.05  # KITTI: an outlier is off by more than both
_WHITE_ERROR = 10.0  # pixels; the end of the error picture's scale
LAYOUTS = (
    "00001_img1.ppm 00001_img2.ppm 00001_flow.flo (FlyingChairs), frame1.png frame2.png flow_gt.png, "
    "image_2/000000_10.png image_2/000000_11.png flow_occ/000000_10.png (KITTI 2015), or leftImg8bit/... and "
    "flow/{frame}_to_{number}_flow.png (Cityscapes layout)"
)


class TruePair(NamedTuple):
    """Two frames and the file of their true flow; ``name`` tells pairs of a folder apart."""

    name: str
    image_t: Path
    image_k: Path
    truth: Path


class FlowErrors(NamedTuple):
    """Sums over the valid pixels; adding two gives the sums over both.

    Attributes:
        end_point: of the end-point error, pixels.
        outliers: pixels whose end-point error exceeds 3 px and 5% of the true vector (KITTI's Fl-all).
        motion: of the lengths of the true vectors, pixels; the end-point error of no flow at all.
        pixels: valid pixels.
    """

    end_point: float
    outliers: int
    motion: float
    pixels: int

    def plus(self, other: FlowErrors) -> FlowErrors:
        """The sums over the pixels of both."""
        return FlowErrors(
            self.end_point + other.end_point,
            self.outliers + other.outliers,
            self.motion + other.motion,
            self.pixels + other.pixels,
        )

    def scores(self) -> dict[str, float]:
        """``epe`` and ``motion`` in pixels, ``fl_all`` in [0, 1], and ``pixels``.

        Raises:
            ValueError: no pixel is valid.
        """
        if not self.pixels:
            raise ValueError("no pixel of the true flow is valid")
        return {
            "epe": self.end_point / self.pixels,
            "fl_all": self.outliers / self.pixels,
            "motion": self.motion / self.pixels,
            "pixels": self.pixels,
        }


def flow_errors(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> FlowErrors:
    """Compare a flow with the truth.

    Args:
        flow: estimate, float ``[2, H, W]``, pixels.
        truth: the same shape.
        valid: where the truth is known, bool ``[H, W]``.

    Raises:
        ValueError: the shapes differ, or the estimate is not finite at a valid pixel.

    Source: KITTI 2015 development kit (Menze and Geiger, CVPR 2015).
    """
    if flow.shape != truth.shape or valid.shape != truth.shape[1:]:
        raise ValueError(f"flow {flow.shape}, truth {truth.shape} and valid {valid.shape} differ in size")
    known = truth[:, valid].astype(np.float64)
    error = np.hypot(*(flow[:, valid] - known))
    if not np.isfinite(error).all():
        raise ValueError(f"the flow is not finite at {np.count_nonzero(~np.isfinite(error))} of {error.size} pixels")
    length = np.hypot(*known)
    outliers = (error > FL_PIXELS) & (error > FL_SHARE * length)
    return FlowErrors(float(error.sum()), int(outliers.sum()), float(length.sum()), error.size)


def find_pairs(folder: str | Path) -> list[TruePair]:
    """All pairs with ground truth in a folder and the folders below it.

    Raises:
        UserError: no such folder, no pair in it, or ground truth without its frames.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    pairs = []
    for truth in files_below(folder, ".flo", ".png"):
        check_name(truth)
        is_truth, frames = _frames_of(truth)
        if is_truth and frames is None:
            raise UserError(f"{truth}: its two frames are missing; expected {LAYOUTS}")
        if frames is not None:
            pairs.append(TruePair(truth.relative_to(folder).with_suffix("").as_posix(), *frames, truth))
    if not pairs:
        raise UserError(f"{folder} holds no pair of frames with true flow; expected {LAYOUTS}")
    return pairs


def score_flow(
    estimator: FlowEstimator, pairs: Iterable[TruePair], *, pictures: str | Path | None = None
) -> dict[str, Any]:
    """Score an estimator.

    Args:
        estimator: any estimator; it is given one pair at a time.
        pairs: from :func:`find_pairs`.
        pictures: folder of one picture per pair (see :func:`flow_picture`); ``None`` writes none.

    Returns:
        ``{"estimator", "epe", "fl_all", "motion", "pixels", "pairs": [{"pair", "epe", ...}]}``, see
        :meth:`FlowErrors.scores`; the figures pool the valid pixels of all pairs.

    Raises:
        UserError: damaged files, frames and flow of different sizes, no valid pixel, or an estimate that is not finite.
    """
    total, rows = FlowErrors(0.0, 0, 0.0, 0), []
    for pair in tqdm(list(pairs), desc=f"flow {estimator.key}", unit="pair"):
        frame, flow, truth, valid = _estimated(estimator, pair)
        try:
            errors = flow_errors(flow, truth, valid)
            rows.append({"pair": pair.name, **errors.scores()})
        except ValueError as error:
            raise UserError(f"FLOW.name {estimator.name}, {pair.truth}: {error}") from error
        total = total.plus(errors)
        if pictures is not None:
            # Not a name that find_pairs takes for ground truth.
            write_png(Path(pictures) / f"{pair.name}_accuracy.png", flow_picture(frame, flow, truth, valid))
    return {"estimator": estimator.key, **total.scores(), "pairs": rows}


def accuracy_table(result: dict[str, Any], *, rows: int = 20) -> str:
    """The figures of :func:`score_flow` for people: the first ``rows`` pairs, then all of them pooled."""
    cells = [["pair", "EPE px", "Fl-all %", "motion px", "valid pixels"]]
    pooled = {"pair": f"all {len(result['pairs'])} pairs", **result}
    for row in [*result["pairs"][:rows], pooled]:
        figures = [f"{row['epe']:.3f}", percent(row["fl_all"]), f"{row['motion']:.3f}", str(row["pixels"])]
        cells.append([row["pair"], *figures])
    return f"{result['estimator']}\n{table(cells)}"


def check_not_of_others(path: Path, folder: Path) -> None:
    """Refuse to write over the figures of another folder of pairs, which has the same last name.

    Raises:
        UserError: ``path`` holds the figures of another folder.
    """
    try:
        before = json.loads(path.read_text(encoding="utf-8")).get("folder")
    except (OSError, ValueError, AttributeError):
        return
    if before is not None and before != str(folder.resolve()):
        raise UserError(f"{path} holds the figures of {before}: give another --out for those of {folder}")


def save_accuracy(result: dict[str, Any], path: Path, *, folder: Path, settings: Settings) -> None:
    """Write the figures of :func:`score_flow` on the pairs of a folder as JSON, and ``<stem>_settings.yaml``."""
    content = {"folder": str(folder.resolve()), **result}
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(path.with_name(f"{path.stem}_settings.yaml"), dump_settings(settings))


def flow_picture(frame: np.ndarray, flow: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Frame, true flow, estimate and error side by side, RGB uint8.

    Both flows share one scale of colours, whose most saturated one is the longest vector of the truth; where the
    truth is unknown it is white, and the error black. The error runs from black to white at 10 px.

    Args:
        frame: frame t, RGB uint8 ``[H, W, 3]``.
        flow: estimate, float ``[2, H, W]``.
        truth: the same shape.
        valid: where the truth is known, bool ``[H, W]``.
    """
    known = np.where(valid, truth, 0).astype(np.float32)
    longest = float(np.hypot(*known).max())
    # One far too long vector of the estimate must not make all others look like no motion.
    flow = np.nan_to_num(flow.astype(np.float32))
    bounded = flow * np.minimum(1, longest / np.maximum(np.hypot(*flow), 1e-6))
    true_colours, colours = flow_to_image(torch.from_numpy(np.stack([known, bounded]))).permute(0, 2, 3, 1).numpy()
    error = np.where(valid, np.hypot(*(flow - known)), 0) / _WHITE_ERROR
    grey = cv2.cvtColor((error.clip(0, 1) * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    panels = [("frame", frame), ("true flow", true_colours), ("estimate", colours), ("error, white 10 px", grey)]
    return side_by_side([(text, np.ascontiguousarray(picture)) for text, picture in panels], columns=2)


def _estimated(estimator: FlowEstimator, pair: TruePair) -> tuple[np.ndarray, ...]:
    """Frame t, the estimate, the true flow and where it is valid."""
    truth, valid = read_flow(pair.truth)
    images = [read_image(path) for path in (pair.image_t, pair.image_k)]
    for path, image in zip((pair.image_t, pair.image_k), images, strict=True):
        if image.shape[:2] != valid.shape:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (image.shape, valid.shape)]
            raise UserError(f"{path} is {sizes[0]}, its true flow {pair.truth} is {sizes[1]}")
    try:
        flow = estimator.estimate(*(torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in images))
    except ValueError as error:
        raise UserError(f"FLOW.name {estimator.name}, {pair.image_t} to {pair.image_k.name}: {error}") from error
    return images[0], flow[0].float().cpu().numpy(), truth, valid


def _frames_of(path: Path) -> tuple[bool, tuple[Path, Path] | None]:
    """Whether a file is named as ground truth, and the two frames that belong to it."""
    name = path.name
    if name.endswith(("_flow.flo", "_flow.png")) and "_to_" in name:
        return True, frames_of_flow(path)
    if name.endswith("_flow.flo"):
        stem = name.removesuffix("_flow.flo")
        return True, _existing(path.parent, f"{stem}_img1", f"{stem}_img2")
    if path.stem == "flow_gt":
        return True, _existing(path.parent, "frame1", "frame2")
    if path.parent.name == "flow_occ" and path.stem.endswith("_10"):
        return True, _existing(path.parent.parent / "image_2", path.stem, path.stem.removesuffix("_10") + "_11")
    return False, None


def _existing(folder: Path, stem_t: str, stem_k: str) -> tuple[Path, Path] | None:
    found: Iterator[tuple[Path, Path]] = (
        (folder / f"{stem_t}{suffix}", folder / f"{stem_k}{suffix}") for suffix in SUFFIXES_ON_DISK
    )
    return next((pair for pair in found if all(path.is_file() for path in pair)), None)
