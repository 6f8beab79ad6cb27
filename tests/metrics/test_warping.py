"""Flow sampled between pixels: by OpenCV and by torch, against the formula in float64."""

import numpy as np
import pytest
import torch

from etc.metrics import warping


@pytest.fixture(params=["the installed OpenCV", "torch"])
def way(request, monkeypatch):
    if request.param == "torch":  # as with OpenCV 4, and on a GPU
        monkeypatch.setattr(warping, "_remap_is_exact", lambda: False)


def bilinear(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plane at positions, in float64; positions outside are moved to its border."""
    height, width = plane.shape
    padded = np.pad(plane.astype(np.float64), ((0, 1), (0, 1)), mode="edge")
    x, y = np.clip(x.astype(np.float64), 0, width - 1), np.clip(y.astype(np.float64), 0, height - 1)
    column, row = x.astype(int), y.astype(int)
    a, b = x - column, y - row
    top = (1 - a) * padded[row, column] + a * padded[row, column + 1]
    bottom = (1 - a) * padded[row + 1, column] + a * padded[row + 1, column + 1]
    return (1 - b) * top + b * bottom


@pytest.mark.parametrize("size", [(40, 70), (1, 70), (40, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("reach", [3.0, 100.0, 1e30])
def test_flow_between_pixels(way, size, reach):
    height, width = size
    random = np.random.default_rng(0)
    flow = random.normal(0, 20, (2, height, width)).astype(np.float32)
    x = (np.arange(width) + random.uniform(-reach, reach, (17, width))).astype(np.float32)
    y = (np.linspace(0, height - 1, 17)[:, None] + random.uniform(-reach, reach, (17, width))).astype(np.float32)
    sampled = warping._read_flow(torch.from_numpy(flow), torch.from_numpy(x), torch.from_numpy(y))
    for own, plane in zip(sampled, flow, strict=True):
        assert own.shape == (17, width) and own.dtype == torch.float32
        np.testing.assert_allclose(own, bilinear(plane, x, y), rtol=0, atol=2e-5)


def test_what_is_visible_is_the_same_both_ways(monkeypatch):
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.normal(0, 6, (1, 2, 5, 9)).astype(np.float32))
    flow = torch.nn.functional.interpolate(coarse, (90, 160), mode="bilinear", align_corners=True)[0]
    backward = -flow + torch.from_numpy(random.normal(0, 0.5, (2, 90, 160)).astype(np.float32))
    own = warping.visible_pixels(flow, backward)
    monkeypatch.setattr(warping, "_remap_is_exact", lambda: False)
    assert 0.1 < own.float().mean() < 0.9
    assert torch.equal(own, warping.visible_pixels(flow, backward))
