"""Which pixels of a frame are visible in its neighbour."""

import numpy as np
import pytest
import torch

from etc.data.images import write_png
from etc.errors import UserError
from etc.flow.dataset import DatasetFlow
from etc.flow.files import write_flo, write_kitti
from etc.flow.visible import VisibleFlow, visible_in_pairs

SHAPE = (6, 8)


@pytest.fixture
def frames(tmp_path):
    paths = [tmp_path / f"s_0{number}.png" for number in (1, 2)]
    for path in paths:
        write_png(path, np.zeros((*SHAPE, 3), np.uint8))
    return paths


def to_the_right(pixels: float) -> np.ndarray:
    flow = np.zeros((2, *SHAPE), np.float32)
    flow[0] = pixels
    return flow


def test_a_source_that_knows_is_believed(frames, tmp_path):
    known = np.random.default_rng(0).random(SHAPE) > 0.5
    write_kitti(tmp_path / "flow/s_01_to_02_flow.png", to_the_right(1), known)
    write_kitti(tmp_path / "flow/s_02_to_01_flow.png", to_the_right(1))  # does not agree, and is not asked
    flow, visible = VisibleFlow(DatasetFlow())(*frames, SHAPE)
    assert flow[0, 0, 0] == 1 and np.array_equal(visible, known)


@pytest.mark.parametrize("back", [-1.0, 1.0])
def test_the_flow_back_must_agree_where_the_source_does_not_know(frames, tmp_path, back):
    write_flo(tmp_path / "flow/s_01_to_02_flow.flo", to_the_right(1))
    write_flo(tmp_path / "flow/s_02_to_01_flow.flo", to_the_right(back))
    visible = VisibleFlow(DatasetFlow())(*frames, SHAPE)[1]
    assert visible.all() if back == -1.0 else not visible.any()


def test_a_flow_back_that_is_missing_is_named(frames, tmp_path):
    write_flo(tmp_path / "flow/s_01_to_02_flow.flo", to_the_right(1))
    with pytest.raises(UserError, match=r"no flow file beside .*s_02\.png for s_01\.png"):
        VisibleFlow(DatasetFlow())(*frames, SHAPE)


def test_a_batch_is_checked_pair_by_pair():
    forward = torch.zeros(2, 2, *SHAPE)
    forward[:, 0] = 1
    backward = -forward
    backward[1] *= -1
    assert visible_in_pairs(forward, backward).tolist() == [
        [[[expected] * SHAPE[1]] * SHAPE[0]] for expected in (True, False)
    ]
