"""What predicting a frame costs: parameters, arithmetic and latency."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from etc.predict.predictor import Predictor

ROUNDS = 30
SECONDS = 10.0  # for each predictor; slow networks get fewer rounds than ROUNDS, but at least FEWEST_ROUNDS
FEWEST_ROUNDS = 5


class Cost(NamedTuple):
    """What a predictor needs.

    Attributes:
        parameters: number of parameters of the network.
        gflops: 10^9 floating-point operations per frame, a multiplication and an addition counting as two.
        seconds: how long single frames took, from the frame in memory to the label map in memory; empty where
            nothing was measured.
    """

    parameters: int
    gflops: float
    seconds: tuple[float, ...] = ()

    def latency(self, share: float) -> float:
        """The latency that this share of the frames stays below, in seconds; NaN where nothing was measured."""
        return float(np.quantile(self.seconds, share)) if self.seconds else math.nan

    @property
    def fps(self) -> float:
        """Frames per second at the mean latency."""
        return len(self.seconds) / sum(self.seconds) if self.seconds else math.nan


def costs(predictors: dict[str, Predictor], frame: np.ndarray, *, speed: bool = True) -> dict[str, Cost]:
    """The cost of predicting one frame with each predictor, everything it does (windows, scales, mirroring) included.

    The predictors take turns, so that a machine that is busy or throttles for a while slows all of them alike.

    Args:
        predictors: by the name of their run.
        frame: RGB uint8 ``[H, W, 3]``.
        speed: whether to measure latencies.
    """
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    gflops = {name: _gflops(predictor, frame) for name, predictor in predictors.items()}  # also warms up
    start = time.perf_counter()
    for done in range(ROUNDS if speed else 0):
        if done >= FEWEST_ROUNDS and time.perf_counter() - start > SECONDS * len(predictors):
            break
        for name, predictor in predictors.items():
            before = time.perf_counter()
            predictor([frame])
            seconds[name].append(time.perf_counter() - before)
    return {
        name: Cost(sum(p.numel() for p in predictor.network.parameters()), gflops[name], tuple(seconds[name]))
        for name, predictor in predictors.items()
    }


def _gflops(predictor: Predictor, frame: np.ndarray) -> float:
    with FlopCounterMode(display=False) as counter:
        predictor([frame])
    return counter.get_total_flops() / 1e9
