"""Cuts of a video: pairs of frames whose motion explains nothing of the picture.

A pair is a cut if optical flow cannot make one frame from the other. The flow is always the same (OpenCV's DIS on small
gray copies of the frames), so that cuts depend on the frames alone, not on the estimator or the predictions that are
scored. docs/scoring.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np

from etc.data.images import read_image
from utils.threads import ordered_map

# Below this share of explained pixels a pair is a cut. docs/scoring.md has the measurements that it comes from.
EXPLAINED = 0.35
# The same after the picture was moved as a whole. What is left to compare is smaller, so that chance explains more.
EXPLAINED_BY_PAN = 0.5
# Whatever changes a verdict changes this text.
METHOD = "one size, dis-medium, 256 pixels, explained 0.35, by a pan 0.5"

_SIDE = 256  # pixels, longer side of the small copies
_SHORTEST = 96  # pixels, shorter side: OpenCV's DIS crashes on smaller ones
_WINDOW = 9  # pixels, within which the two frames are correlated
_CORRELATED = 0.6  # correlation from which a pixel is explained
_TEXTURE = 25.0  # variance of gray values in the window, below which there is nothing to compare
_ENOUGH = 0.01  # share of pixels with texture, below which a frame says nothing
_CONTRAST = 48.0  # standard deviation of the gray values of every small copy
_FLAT = 2.0  # standard deviation of the gray values of a frame below which noise would be raised
_MARGIN = 6  # 1/6 of each side is left out: bars, logos and subtitles stay where they are over a cut
_READERS = 2  # threads


def starts_after_cuts(paths: Iterable[Path]) -> list[int]:
    """Index of every frame of a clip that begins after a cut.

    Args:
        paths: the frames, in order.

    Raises:
        UserError: a frame that cannot be read.
    """
    found, last = [], None
    with closing(ordered_map(_read_small, paths, workers=_READERS, ahead=2 * _READERS)) as frames:
        for index, (size, frame) in enumerate(frames):
            # Between frames of two sizes there is no flow, whatever they show.
            if last is not None and (last[0] != size or is_cut(last[1], frame)):
                found.append(index)
            last = size, frame
    return found


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether there is a cut between two small copies, as :func:`small_copy` makes them."""
    if before.shape != after.shape:
        return True
    share = explained_share(before, after)
    if np.isnan(share) or share >= EXPLAINED:
        return False  # of two frames without any texture, nothing tells whether they belong together
    return not _explained_by_pan(before, after)


def small_copy(rgb: np.ndarray) -> np.ndarray:
    """A small gray copy of a frame with the same mean and contrast for all frames: exposure must not look like a cut.

    Args:
        rgb: uint8 ``[H, W, 3]``.

    Returns:
        uint8 ``[h, w]``.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    scale = _SIDE / max(gray.shape)
    height, width = (max(_SHORTEST, round(side * scale)) for side in gray.shape)
    small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    smooth = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1.0)  # against noise
    spread = max(float(smooth.std()), _FLAT)
    return np.clip((smooth - smooth.mean()) * (_CONTRAST / spread) + 128, 0, 255).astype(np.uint8)


def explained_share(before: np.ndarray, after: np.ndarray) -> float:
    """How much of the textured pixels of two small copies the flow between them explains.

    A pixel is explained if it looks like the pixel that it moves to (the surroundings of both are correlated) and the
    flow back returns to it. An unrelated frame has such pixels too, by chance, but few.

    Args:
        before: uint8 ``[h, w]``.
        after: same shape.

    Returns:
        Share in [0, 1]: of the frame for which it is larger, so that what comes into view does not count against it;
        NaN if neither frame has texture.
    """
    # A new solver per call: OpenCV's holds buffers of the last size and is not safe between threads.
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forward = solver.calc(before, after, None)  # type: ignore[call-overload]  # the stubs ask for an initial flow
    backward = solver.calc(after, before, None)  # type: ignore[call-overload]
    shares = [
        _share_of_first(before, after, forward, backward),
        _share_of_first(after, before, backward, forward),
    ]
    known = [share for share in shares if not np.isnan(share)]
    return max(known) if known else float("nan")


def _explained_by_pan(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether flow explains the frames once the picture is moved as a whole.

    The flow alone misses motion beyond about a fifth of the picture.
    """
    window = cv2.createHanningWindow((before.shape[1], before.shape[0]), cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(before.astype(np.float32), after.astype(np.float32), window)
    x, y = round(dx), round(dy)
    first, second = _overlap(before, -x, -y), _overlap(after, x, y)
    if (x, y) == (0, 0) or min(first.shape) < _SHORTEST:
        return False
    return explained_share(first, second) >= EXPLAINED_BY_PAN


def _read_small(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Height and width of a frame, and its small copy."""
    image = read_image(path)
    return image.shape[:2], small_copy(image)


def _overlap(image: np.ndarray, x: int, y: int) -> np.ndarray:
    """What remains of a frame without its first ``x`` columns and ``y`` rows; negative: without the last ones."""
    height, width = image.shape
    part = image[max(0, y) : max(0, height + min(0, y)), max(0, x) : max(0, width + min(0, x))]
    return np.ascontiguousarray(part)


def _share_of_first(first: np.ndarray, second: np.ndarray, flow: np.ndarray, back: np.ndarray) -> float:
    """The share of the textured pixels of ``first`` that are explained by ``second``; NaN if they are too few."""
    height, width = first.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    counted = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    rows, columns = height // _MARGIN, width // _MARGIN
    middle = np.zeros_like(counted)
    middle[rows : height - rows, columns : width - columns] = True
    back = cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    apart, long = ((flow + back) ** 2).sum(-1), (flow**2).sum(-1) + (back**2).sum(-1)
    returns = apart <= 0.05 * long + 1
    own = first.astype(np.float32)
    other = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    own_mean, other_mean = _mean(own), _mean(other)
    own_variance, other_variance = _mean(own * own) - own_mean**2, _mean(other * other) - other_mean**2
    covariance = _mean(own * other) - own_mean * other_mean
    counted &= middle & (own_variance > _TEXTURE)
    if counted.mean() < _ENOUGH:
        return float("nan")
    alike = covariance > _CORRELATED * np.sqrt(np.maximum(own_variance, 1) * np.maximum(other_variance, 1))
    return float((alike & returns)[counted].mean())


def _mean(image: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image, -1, (_WINDOW, _WINDOW), borderType=cv2.BORDER_REFLECT)
