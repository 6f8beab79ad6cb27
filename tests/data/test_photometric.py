"""Random colours: against Pillow and closed forms, and that geometry and other frames stay as they were."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from etc.data.photometric import ColorChange, add_noise, draw_color_change
from tests.data.test_clip_dataset import data_set, root  # noqa: F401  (a fixture)

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_a_change_of_nothing_changes_nothing():
    assert np.abs(ColorChange()(PIXELS).astype(int) - PIXELS).max() <= 1  # hue goes through HSV and back


@pytest.mark.parametrize(
    ("name", "enhancer"), [("brightness", ImageEnhance.Brightness), ("saturation", ImageEnhance.Color)]
)
def test_factors_are_those_of_pillow(name, enhancer):
    expected = np.asarray(enhancer(Image.fromarray(PIXELS)).enhance(0.6))
    found = ColorChange(**{name: 0.6})(PIXELS)
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_gray_has_three_equal_channels_and_blur_smooths():
    gray = ColorChange(gray=True)(PIXELS)
    assert (gray == gray[..., :1]).all()
    assert ColorChange(sigma=2.0)(PIXELS).std() < 0.5 * PIXELS.std()


def test_noise_has_its_deviation_and_differs_each_time():
    flat = np.full((200, 200, 3), 128, np.uint8)
    rng = np.random.default_rng(3)
    first, second = (add_noise(flat, 6.0, rng).astype(float) for _ in range(2))
    assert first.std() == pytest.approx(6.0, rel=0.02) and first.mean() == pytest.approx(128, abs=0.1)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02


def test_the_probability_is_that_of_a_change():
    rng = np.random.default_rng(1)
    drawn = [draw_color_change(rng, 0.3) for _ in range(2000)]
    assert sum(change is not None for change in drawn) / 2000 == pytest.approx(0.3, abs=0.03)


def test_the_colours_of_a_clip_change_alike_or_those_of_frame_t_alone(root):  # noqa: F811
    plain = data_set(root)[0, 3]
    clip, frame = data_set(root, jitter=1.0)[0, 3], data_set(root, jitter=1.0, jitter_clip=False)[0, 3]
    for sample in (clip, frame):
        assert not torch.equal(sample["image"], plain["image"])
        assert torch.equal(sample["label"], plain["label"]) and torch.equal(sample["flow"], plain["flow"])
    assert torch.equal(clip["image"], frame["image"])
    assert torch.equal(frame["neighbour"], plain["neighbour"])
    assert not torch.equal(clip["neighbour"], plain["neighbour"])


def test_noise_differs_between_the_frames_of_a_clip_and_padding_stays_zero(root):  # noqa: F811
    plain, noisy = (data_set(root, noise=noise)[0, 2] for noise in (0.0, 5.0))
    difference = {name: noisy[name] - plain[name] for name in ("image", "neighbour")}
    assert all(each.abs().max() > 0 for each in difference.values())
    assert not torch.allclose(difference["image"], difference["neighbour"])
    padding = (plain["image"] == 0).all(0)
    assert (noisy["image"][:, padding] == 0).all()


def test_the_same_key_gives_the_same_sample(root):  # noqa: F811
    first, second = (data_set(root, jitter=0.5, noise=2.0)[4, 1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
