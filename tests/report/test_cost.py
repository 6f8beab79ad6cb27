"""Parameters, arithmetic and latency of a predictor, against what a pencil says."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from etc.display.machine import machine
from etc.predict.predictor import Predictor
from etc.report.cost import FEWEST_ROUNDS, costs

FRAME = np.zeros((16, 24, 3), np.uint8)


def predictor(classes: int = 5, **options) -> Predictor:
    return Predictor(nn.Conv2d(3, classes, 3, padding=1), classes=classes, device="cpu", **options)


def test_a_convolution_is_counted_as_on_paper():
    cost = costs({"one": predictor()}, FRAME, speed=False)["one"]
    assert cost.parameters == 5 * 3 * 9 + 5
    assert cost.gflops == pytest.approx(2 * 16 * 24 * 5 * 3 * 9 / 1e9, rel=1e-9)


def test_the_mirrored_frame_costs_as_much_again():
    both = costs({"plain": predictor(), "flip": predictor(flip=True)}, FRAME, speed=False)
    assert both["flip"].gflops == pytest.approx(2 * both["plain"].gflops)


def test_without_speed_there_is_no_latency():
    cost = costs({"one": predictor()}, FRAME, speed=False)["one"]
    assert math.isnan(cost.fps) and math.isnan(cost.latency(0.5))


def test_latencies_come_from_as_many_frames_for_every_run():
    found = costs({"one": predictor(), "two": predictor()}, FRAME)
    assert len(found["one"].seconds) == len(found["two"].seconds) >= FEWEST_ROUNDS
    one = found["one"]
    assert min(one.seconds) <= one.latency(0.5) <= one.latency(0.95) <= max(one.seconds)
    assert 1 / max(one.seconds) <= one.fps <= 1 / min(one.seconds)


def test_the_machine_has_a_name():
    assert f"{torch.get_num_threads()} thread" in machine(torch.device("cpu"))
