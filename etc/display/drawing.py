"""Label maps as pictures: colours, overlays, side by side, legends. Everything is RGB uint8 ``[H, W, 3]``."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from etc.data.labels import IGNORE

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def colorize(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The colour of every pixel's class.

    Args:
        ids: train ids, uint8 ``[H, W]``.
        palette: RGB uint8 ``[256, 3]``, as :func:`etc.data.labels.read_colors` makes it.

    Returns:
        RGB uint8 ``[H, W, 3]``.

    Raises:
        ValueError: another dtype or shape.
    """
    _check_ids(ids)
    if palette.shape != (256, 3) or palette.dtype != np.uint8:
        raise ValueError(f"palette must be uint8 [256, 3], got {palette.dtype} {list(palette.shape)}")
    return cv2.applyColorMap(np.ascontiguousarray(ids), np.ascontiguousarray(palette)[:, None])


def overlay(frame: np.ndarray, ids: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """A frame tinted with the colours of its classes; pixels without a class (255) stay as they are.

    Args:
        frame: RGB uint8 ``[H, W, 3]``.
        ids: train ids, uint8 ``[H, W]``.
        palette: RGB uint8 ``[256, 3]``.
        alpha: weight of the colours, in [0, 1].

    Returns:
        RGB uint8 ``[H, W, 3]``.

    Raises:
        ValueError: another dtype or shape, or frame and ids of different sizes.
    """
    _check_picture(frame)
    _check_ids(ids)
    if ids.shape != frame.shape[:2]:
        raise ValueError(f"ids {list(ids.shape)} and frame {list(frame.shape)} differ in size")
    blended = cv2.addWeighted(frame, 1 - alpha, colorize(ids, palette), alpha, 0)
    return cv2.copyTo(frame, (ids == IGNORE).view(np.uint8), blended)


def side_by_side(panels: Sequence[tuple[str, np.ndarray]], *, columns: int | None = None, gap: int = 4) -> np.ndarray:
    """Pictures of one size in a grid, each below its caption.

    Args:
        panels: caption and RGB uint8 ``[H, W, 3]``. A caption shrinks to the picture's width; where all are empty there
            are no caption bars.
        columns: pictures per row, those missing in the last row are white; ``None`` puts all into one row.
        gap: white pixels between pictures.

    Returns:
        RGB uint8.

    Raises:
        ValueError: no picture, pictures of different sizes, or no RGB uint8.
    """
    if len({picture.shape for _, picture in panels}) != 1:
        raise ValueError(f"expected pictures of one size, got {[list(picture.shape) for _, picture in panels]}")
    for _, picture in panels:
        _check_picture(picture)
    cells = [picture for _, picture in panels]
    if any(caption for caption, _ in panels):
        cells = [np.concatenate([_caption(text, picture.shape[:2]), picture]) for text, picture in panels]
    height, width = cells[0].shape[:2]
    columns = min(columns or len(cells), len(cells))
    rows = -(-len(cells) // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), _PAPER, np.uint8)
    for index, cell in enumerate(cells):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        canvas[y : y + height, x : x + width] = cell
    return canvas


def legend(names: Sequence[str], palette: np.ndarray, *, width: int, size: int = 16) -> np.ndarray:
    """Class names beside their colours, in as many columns as fit; one column at least, cut off at the border.

    Args:
        names: class names, id 0 first.
        palette: RGB uint8 ``[256, 3]``.
        width: width of the picture, pixels.
        size: height of a line, pixels.

    Returns:
        RGB uint8 ``[lines * size, width, 3]``, white elsewhere.

    Raises:
        ValueError: no name, or a palette of another shape.
    """
    if not names:
        raise ValueError("a legend needs at least one name")
    swatches = colorize(np.arange(len(names), dtype=np.uint8)[None], palette)[0]
    scale = _scale_of(size)
    longest = max(cv2.getTextSize(name, _FONT, scale, 1)[0][0] for name in names)
    columns = max(1, min(len(names), width // (longest + 3 * size)))
    lines = -(-len(names) // columns)
    columns = -(-len(names) // lines)  # the last columns may have become empty
    canvas = np.full((lines * size, width, 3), _PAPER, np.uint8)
    inset = max(1, size // 8)
    for index, name in enumerate(names):
        x, y = (index // lines) * (width // columns), (index % lines) * size
        canvas[y + inset : y + size - inset, x + inset : x + 2 * size] = swatches[index]
        _text(canvas, name, (x + 2 * size + size // 2, y + round(0.75 * size)), scale)
    return canvas


def _caption(text: str, shape: tuple[int, int]) -> np.ndarray:
    """A white bar with centred text, as wide as a picture of this height and width."""
    height, width = shape
    bar = max(14, round(0.06 * height))
    scale = _scale_of(bar)
    length = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    if length > width - 4:
        scale *= max(width - 4, 1) / length
        length = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    canvas = np.full((bar, width, 3), _PAPER, np.uint8)
    _text(canvas, text, (max(0, (width - length) // 2), round(0.75 * bar)), scale)
    return canvas


def _text(canvas: np.ndarray, text: str, baseline: tuple[int, int], scale: float) -> None:
    cv2.putText(canvas, text, baseline, _FONT, scale, _INK, max(1, round(1.4 * scale)), cv2.LINE_AA)


def _scale_of(line: int) -> float:
    """Font scale whose letters fill a line of this height; at scale 1 they are about 22 pixels high."""
    return 0.6 * line / 22


def _check_ids(ids: np.ndarray) -> None:
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f"ids must be uint8 [H, W], got {ids.dtype} {list(ids.shape)}")


def _check_picture(picture: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"expected RGB uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
