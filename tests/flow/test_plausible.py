"""etc/flow/plausible.py: flow with the wrong sign, order or scale is named, true flow is not."""

import cv2
import numpy as np
import pytest

from etc.flow.plausible import advice_on
from tests.scripts import run

SIZE = (96, 128)


def texture(dx=0.0, dy=0.0, seed=0):
    """A smooth random RGB picture; its content moves by ``dx, dy`` to the right and down."""
    height, width = SIZE
    large = np.random.default_rng(seed).random((height + 64, width + 64)).astype(np.float32)
    large = cv2.normalize(cv2.GaussianBlur(large, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    picture = cv2.remap(large, columns + np.float32(32 - dx), rows + np.float32(32 - dy), cv2.INTER_LINEAR)
    return np.repeat(picture.astype(np.uint8)[..., None], 3, axis=2)


def moved(u, v):
    flow = np.empty((2, *SIZE), np.float32)
    flow[0], flow[1] = u, v
    return flow


FRAMES = texture(), texture(6, -2)


def advice(flow, frames=FRAMES, valid=None):
    return advice_on([(*frames, flow, valid)])


@pytest.mark.parametrize("flow", [moved(6, -2), moved(5.5, -2.4), moved(6, 0)], ids=["true", "rough", "rougher"])
def test_flow_that_explains_the_frames_is_not_warned_of(flow):
    assert advice(flow) is None


@pytest.mark.parametrize(
    ("flow", "named"),
    [
        (moved(-6, 2), "with the other sign by"),
        (moved(-2, 6), "with y and x exchanged by"),
        (moved(2, -6), "with y and x exchanged and the other sign by"),
        (moved(-6, -2), "with x of the other sign by"),
        (moved(6, 2), "with y of the other sign by"),
        (moved(12, -4), "with 1/2 of it by"),
        *((moved(6 * n, -2 * n), f"with 1/{n} of it by") for n in (4, 8, 10, 16, 20, 32, 64)),
        *((moved(6 / n, -2 / n), f"with {n} times it by") for n in (2, 4, 8, 10, 16, 20, 32, 64)),
        (moved(6 / 128, -2 / 96), "with the width and height times it by"),
        (moved(6 / 64, -2 / 48), "with half the width and height times it by"),
        (moved(-30, 25), "it explains nothing, and neither does another sign, order or scale"),
        (moved(0, 0), "it explains nothing"),
    ],
)
def test_what_would_explain_the_frames_is_named(flow, named):
    assert named in advice(flow)


def test_frames_that_do_not_move_say_nothing():
    assert advice(moved(9, 9), frames=(FRAMES[0], FRAMES[0])) is None
    assert advice_on([]) is None


def test_no_flow_on_a_still_scene_with_noise_is_no_fault():
    noise = np.random.default_rng(0).normal(0, 6, (2, *SIZE, 3))
    frames = [np.clip(texture() + own, 0, 255).astype(np.uint8) for own in noise]
    assert advice(moved(0, 0), frames) is None


def test_only_valid_pixels_count():
    valid = np.zeros(SIZE, bool)
    valid[:, 40:] = True
    flow = moved(6, -2)
    flow[:, :, :40] = -40
    assert advice(flow, valid=valid) is None
    assert advice(flow, valid=~valid) is not None
    assert advice(flow, valid=valid & ~valid) is None


def test_one_odd_pair_does_not_decide():
    still = (FRAMES[0], FRAMES[0], moved(9, 9), None)
    right = (*FRAMES, moved(6, -2), None)
    assert advice_on([still, right, right, (*FRAMES, moved(6.5, -1), None)]) is None


@pytest.mark.slow
def test_training_and_scoring_warn_of_flow_from_code_of_ones_own(tiny_training, tmp_path, monkeypatch, caplog):
    (tmp_path / "turned_flow.py").write_text(
        "from etc.flow.estimators import DisFlow\n"
        "class Turned:\n"
        "    def estimate(self, rgb_t, rgb_k): return -DisFlow().estimate(rgb_t, rgb_k)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    expected = "FLOW.name turned_flow:Turned: frames warped by it differ by"
    own = ["FLOW.name=turned_flow:Turned", "FLOW.preset=ultrafast"]
    for script, *words in (("train_with_flow", *own), ("gen_video",), ("eval_tc", "FLOW.name=dis"), ("eval_tc", *own)):
        caplog.clear()
        assert run(script, *tiny_training, *words) == 0
        warned = [r.getMessage() for r in caplog.records if "warped by it" in r.getMessage()]
        assert len(warned) == (own[0] in words), script
        assert all(line.startswith(expected) and "with the other sign by" in line for line in warned)
