"""Which pixels of a frame are visible in its neighbour."""

import numpy as np
import torch

from etc.flow.visible import VisibleFlow, visible_in_pairs

SHAPE = (6, 8)


class Source:
    """Flow by one pixel to the right, and back; ``valid`` is what it knows itself."""

    key = "test"

    def __init__(self, valid=None, back: float = -1.0) -> None:
        self.valid, self.back = valid, back

    def __call__(self, path_t, path_k, shape):
        flow = np.zeros((2, *shape), np.float32)
        flow[0] = 1.0 if path_t < path_k else self.back
        return flow

    def with_validity(self, path_t, path_k, shape):
        return self(path_t, path_k, shape), self.valid


def test_a_source_that_knows_is_believed():
    known = np.random.default_rng(0).random(SHAPE) > 0.5
    flow, visible = VisibleFlow(Source(known))(0, 1, SHAPE)
    assert flow[0, 0, 0] == 1 and np.array_equal(visible, known)


def test_the_flow_back_must_agree_where_the_source_does_not_know():
    assert VisibleFlow(Source(back=-1.0))(0, 1, SHAPE)[1].all()
    assert not VisibleFlow(Source(back=1.0))(0, 1, SHAPE)[1].any()


def test_a_batch_is_checked_pair_by_pair():
    forward = torch.zeros(2, 2, *SHAPE)
    forward[:, 0] = 1
    backward = -forward
    backward[1] *= -1
    assert visible_in_pairs(forward, backward).tolist() == [
        [[[expected] * SHAPE[1]] * SHAPE[0]] for expected in (True, False)
    ]
