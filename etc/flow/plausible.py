"""Warns of flow with the wrong sign, order or scale: warping the neighbour by it must explain the frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from etc.config.schema import Settings
from etc.data.images import read_image
from etc.flow.build import FlowSource

logger = logging.getLogger(__name__)

_PAIRS = 4  # that are looked at
_STILL = 1.0  # gray levels: two frames that differ by less say nothing about motion
_BLUR = 2.0  # pixels: standard deviation of the Gaussian that takes the noise away
_CLEARLY = 0.85  # of the error of the flow as it is: only what does better than that is named
_BARELY = 0.95  # of the error without flow: a flow that does no better explains nothing
_LARGEST_ERROR = 30.0  # gray levels: occluded pixels must not decide
_SCALES = (1 / 64, 1 / 32, 1 / 20, 1 / 16, 1 / 10, 1 / 8, 1 / 4, 1 / 2, 2, 4, 8, 10, 16, 20, 32, 64)

AS_IT_IS, NO_FLOW = "as it is", "no flow"


def warn_if_implausible(settings: Settings, name: str, source: FlowSource, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Look at a few of the pairs, where the flow comes from somebody's code or files; all others are known to be right.

    Args:
        settings: the settings.
        name: of the flow, as in ``FLOW.name``.
        source: gives the flow.
        pairs: frames t and k, as the work will use them.

    Raises:
        UserError: as :meth:`etc.flow.build.FlowSource.with_validity`.
    """
    if ":" not in name and not (name == "dataset" and not settings.DATA.synthetic):
        return
    chosen = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, _PAIRS).round().astype(int))] if pairs else []
    samples = []
    for path_t, path_k in chosen:
        images = read_image(path_t), read_image(path_k)
        flow, valid = source.with_validity(path_t, path_k, images[0].shape[:2])
        samples.append((*images, flow, valid))
    advice = advice_on(samples)
    if advice:
        logger.warning("FLOW.name %s: %s. Expected: pixels, x first, from frame t to frame k", name, advice)


def advice_on(samples: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]]) -> str | None:
    """What seems to be wrong with flow; ``None``: nothing, or the frames do not say.

    Args:
        samples: RGB uint8 ``[H, W, 3]`` of frame t and of frame k, flow t -> k float32 ``[2, H, W]``, and where it is
            valid, bool ``[H, W]``, or ``None``: everywhere.
    """
    each = [errors_of(*sample) for sample in samples]
    moving = [errors for errors in each if errors and errors[NO_FLOW] >= _STILL]
    if not moving:
        return None
    total = {what: sum(errors[what] for errors in moving) / len(moving) for what in moving[0]}
    best = min((what for what in total if what != NO_FLOW), key=total.__getitem__)
    said = f"frames warped by it differ by {total[AS_IT_IS]:.1f} gray levels, without flow by {total[NO_FLOW]:.1f}"
    if total[best] < _CLEARLY * min(total[AS_IT_IS], total[NO_FLOW]):
        return f"{said}, and with {best} by {total[best]:.1f}"
    if total[AS_IT_IS] > _BARELY * total[NO_FLOW]:
        return f"{said}: it explains nothing, and neither does another sign, order or scale"
    return None


def errors_of(image_t: np.ndarray, image_k: np.ndarray, flow: np.ndarray, valid: np.ndarray | None) -> dict[str, float]:
    """Mean difference of frame t from frame k warped by the flow, and by what the flow might be meant as.

    Empty where no pixel is valid. Shapes as of :func:`advice_on`.
    """
    height, width = flow.shape[1:]
    valid = np.ones((height, width), bool) if valid is None else valid
    if not valid.any():
        return {}
    gray = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (image_t, image_k))
    # Frames of a camera that stands still differ by its noise, which no flow explains.
    t, k = (cv2.GaussianBlur(image, (0, 0), _BLUR) for image in gray)
    meant = {
        AS_IT_IS: flow,
        NO_FLOW: flow * 0,
        "the other sign": -flow,
        "x of the other sign": np.stack([-flow[0], flow[1]]),
        "y of the other sign": np.stack([flow[0], -flow[1]]),
        "y and x exchanged": flow[::-1],
        "y and x exchanged and the other sign": -flow[::-1],
        "the width and height times it": np.stack([flow[0] * width, flow[1] * height]),
        "half the width and height times it": np.stack([flow[0] * (width / 2), flow[1] * (height / 2)]),
        **{f"{scale:g} times it" if scale > 1 else f"1/{1 / scale:g} of it": flow * scale for scale in _SCALES},
    }
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    errors = {}
    for what, (u, v) in meant.items():
        x, y = (columns + u).astype(np.float32), (rows + v).astype(np.float32)
        warped = cv2.remap(k, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        errors[what] = float(np.minimum(np.abs(warped - t), _LARGEST_ERROR)[valid].mean())
    return errors
