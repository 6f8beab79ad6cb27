"""Five frames of a clip, the others aligned to the middle one: what metrics of windows are counted from."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np

from etc.errors import UserError
from etc.evaluate.metric_list import Accumulator
from etc.flow.build import FlowSource
from etc.metrics.protocols import REACH


class _Frame(NamedTuple):
    path: Path
    prediction: np.ndarray


class WindowScorer:
    """Counts the windows t - 2, t - 1, t, t + 1, t + 2 (times the stride) of the frames of one clip.

    Args:
        accumulators: what counts them.
        flow: gives the flow from the middle frame to each of the others by their paths.
        stride: distance of the frames of a window.
    """

    def __init__(self, accumulators: list[Accumulator], flow: FlowSource, stride: int) -> None:
        self.accumulators, self.flow, self.stride = accumulators, flow, stride
        self.frames: deque[_Frame | None] = deque(maxlen=REACH * stride + 1)

    def add(self, path: Path, prediction: np.ndarray, *, counted: bool = True) -> None:
        """Count the window that ends at the next frame of the clip, given with its ids, uint8 ``[H, W]``.

        A window that is not counted leaves its frames for those that follow.

        Raises:
            UserError: the flow cannot be read or computed, or the data set lacks it.
        """
        if not self.accumulators:
            return
        self.frames.append(_Frame(path, prediction))
        window = [frame for frame in list(self.frames)[:: self.stride] if frame is not None]
        if len(window) <= REACH or not counted:
            return
        middle = window[REACH // 2]
        flows = [self._flow(middle, other) for other in window if other is not middle]
        for accumulator in self.accumulators:
            accumulator.update(np.stack([frame.prediction for frame in window]), np.stack(flows))

    def add_gap(self) -> None:
        """The next frame of the clip has no prediction."""
        self.frames.append(None)

    def _flow(self, middle: _Frame, other: _Frame) -> np.ndarray:
        if not self.flow.available(middle.path, other.path):
            raise UserError(
                f"TEST.protocols majority needs the flow from {middle.path.name} to {other.path.name}, which the data "
                "set lacks: leave out majority, or score with an estimator (FLOW.evaluate_with dis)"
            )
        return self.flow(middle.path, other.path, middle.prediction.shape)
