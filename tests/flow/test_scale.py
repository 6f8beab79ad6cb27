"""Flow estimated on reduced images."""

import cv2
import numpy as np
import pytest
import torch

from etc.config import load_settings
from etc.errors import ConfigError, UserError
from etc.flow.build import flow_estimator, flow_source
from etc.flow.estimators import DisFlow, ScaledFlow, build_flow


class Recorder:
    """Gives one fixed flow and remembers what it was shown."""

    name, key = "recorder", "recorder-1"

    def __init__(self, flow_of):
        self.flow_of, self.seen = flow_of, []

    def estimate(self, rgb_t, rgb_k):
        self.seen = [rgb_t, rgb_k]
        return self.flow_of(*rgb_t.shape[-2:]).expand(len(rgb_t), -1, -1, -1)


def random_flow(height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 2, height, width, generator=generator)


def textures(*offsets, size=(128, 160)):
    """Views of one smooth texture; an offset (x, y) moves its content to the right and down."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0] + 64, size[1] + 64, 3), dtype=np.uint8)
    noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    views = [noise[32 - y : 32 - y + size[0], 32 - x : 32 - x + size[1]] for x, y in offsets]
    return [torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() for view in views]


def test_a_known_motion_is_found_in_pixels_of_the_full_size():
    flow = build_flow("dis", scale=0.5).estimate(*textures((0, 0), (8, -4)))
    assert flow.shape == (1, 2, 128, 160)
    inner = flow[0, :, 24:-24, 24:-24]
    torch.testing.assert_close(inner.mean((1, 2)), torch.tensor([8.0, -4.0]), rtol=0, atol=0.2)


@pytest.mark.parametrize(("size", "scale", "reduced"), [((45, 62), 0.5, (22, 31)), ((7, 100), 0.3, (2, 30))])
def test_flow_comes_back_resized_with_each_axis_by_its_own_ratio(size, scale, reduced):
    recorder = Recorder(random_flow)
    images = torch.rand(2, 2, 3, *size) * 255
    flow = ScaledFlow(recorder, scale=scale).estimate(*images)
    assert [tuple(image.shape) for image in recorder.seen] == [(2, 3, *reduced)] * 2
    small = random_flow(*reduced)[0].permute(1, 2, 0).numpy()
    large = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    expected = large * [size[1] / reduced[1], size[0] / reduced[0]]
    assert flow.shape == (2, 2, *size)
    np.testing.assert_allclose(flow[1].permute(1, 2, 0), expected, rtol=0, atol=1e-4)


def test_images_are_reduced_without_aliasing():
    stripes = torch.zeros(1, 3, 32, 64)
    stripes[..., ::2] = 255  # the finest pattern there is: reduced to a third it is an even grey
    recorder = Recorder(random_flow)
    ScaledFlow(recorder, scale=1 / 3).estimate(stripes, stripes)
    inner = recorder.seen[0][..., 2:-2]
    assert (inner - 127.5).abs().max() < 20


def test_scale_is_part_of_the_key_unless_it_is_one():
    keys = [build_flow("dis", scale=scale).key for scale in (1.0, 0.5, 0.25)]
    assert keys[0] == DisFlow().key and len(set(keys)) == 3
    assert build_flow("dis", scale=0.5, normalized=True).key not in (keys[1], build_flow("dis", normalized=True).key)


def test_the_setting_reaches_the_estimator_and_the_store():
    settings = load_settings(None, ["FLOW.name=dis", "FLOW.scale=0.5", "FLOW.cache=store"])
    assert flow_estimator(settings).key == "dis-medium-x0.5"
    assert flow_source(settings).estimator.key == "dis-medium-x0.5"


@pytest.mark.parametrize("scale", [0, -0.5, 1.01])
def test_a_scale_outside_0_to_1_is_refused(scale):
    with pytest.raises(ConfigError, match=r"FLOW\.scale"):
        load_settings(None, [f"FLOW.scale={scale}"])
    with pytest.raises(UserError, match=r"FLOW\.scale"):
        build_flow("dis", scale=scale)


def test_images_that_become_too_small_are_a_value_error_with_their_size():
    with pytest.raises(ValueError, match=r"\(10, 20\) are too small for flow: 16"):
        build_flow("dis", scale=0.25).estimate(torch.zeros(1, 3, 40, 80), torch.zeros(1, 3, 40, 80))
