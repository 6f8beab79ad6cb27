"""Pictures of label maps."""

import numpy as np
import pytest

from etc.display.drawing import colorize, legend, overlay, side_by_side


@pytest.fixture
def palette() -> np.ndarray:
    colors = np.random.default_rng(0).integers(0, 200, (256, 3), dtype=np.uint8)
    colors[255] = 0
    return colors


def random_ids(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 19, shape, dtype=np.uint8)


def test_every_pixel_gets_the_colour_of_its_class(palette):
    ids = np.arange(256, dtype=np.uint8).reshape(8, 32)
    expected = np.array([[palette[i] for i in row] for row in ids])
    np.testing.assert_array_equal(colorize(ids, palette), expected)
    np.testing.assert_array_equal(colorize(ids[:, ::-2], palette), expected[:, ::-2])  # not contiguous


def test_an_overlay_is_the_weighted_mean_and_leaves_unlabelled_pixels(palette):
    ids = random_ids(9, 11)
    ids[2:4, 3:7] = 255
    frame = np.random.default_rng(2).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    kept = frame.copy()
    expected = np.where((ids == 255)[..., None], frame, 0.7 * frame + 0.3 * palette[ids])
    result = overlay(frame, ids, palette, alpha=0.3)
    assert result.dtype == np.uint8
    assert np.abs(result - expected).max() <= 0.5 + 1e-4  # rounded to the nearest
    np.testing.assert_array_equal(frame, kept)


def test_pictures_stand_in_a_grid_below_their_captions():
    pictures = [np.full((20, 60, 3), value, np.uint8) for value in (10, 20, 30)]
    captions = ["a", "b", "a caption that is far too long for its picture"]
    grid = side_by_side(list(zip(captions, pictures, strict=True)), columns=2, gap=4)
    bar = (grid.shape[0] - 4) // 2 - 20
    assert grid.shape == (2 * (bar + 20) + 4, 124, 3)
    np.testing.assert_array_equal(grid[bar : bar + 20, :60], pictures[0])
    np.testing.assert_array_equal(grid[bar : bar + 20, 64:], pictures[1])
    np.testing.assert_array_equal(grid[-20:, :60], pictures[2])
    assert (grid[-20 - bar - 4 :, 60:] == 255).all()  # the long caption stays within its picture
    for cell in (grid[:bar, :60], grid[:bar, 64:], grid[bar + 24 : -20, :60]):
        assert cell.min() < 100  # something is written


def test_without_captions_pictures_touch_only_the_gap():
    panels = [("", np.zeros((4, 5, 3), np.uint8))] * 3
    assert side_by_side(panels, gap=2).shape == (4, 19, 3)
    assert side_by_side(panels, gap=0).max() == 0


@pytest.mark.parametrize("width", [90, 240, 1000])
def test_a_legend_shows_the_colour_of_every_class(palette, width):
    names = [f"class {index}" for index in range(7)]
    picture = legend(names, palette, width=width, size=16)
    assert picture.shape[1] == width and picture.shape[0] % 16 == 0
    pixels = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
    assert {tuple(palette[index].tolist()) for index in range(7)} <= pixels


def test_wider_legends_need_fewer_lines(palette):
    heights = [legend(["road", "sky", "car"] * 4, palette, width=width).shape[0] for width in (80, 200, 2000)]
    assert heights[0] == 12 * 16 > heights[1] > heights[2] == 16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: colorize(np.zeros((2, 2)), p), r"ids must be uint8 \[H, W\], got float64 \[2, 2\]"),
        (lambda p: colorize(random_ids(2, 2), p[:19]), r"palette must be uint8 \[256, 3\], got uint8 \[19, 3\]"),
        (lambda p: overlay(np.zeros((4, 4, 3), np.uint8), random_ids(4, 5), p), "differ in size"),
        (lambda p: side_by_side([]), "expected pictures of one size"),
        (lambda p: side_by_side([("", np.zeros((2, n, 3), np.uint8)) for n in (2, 3)]), "of one size"),
        (lambda p: side_by_side([("", np.zeros((2, 2, 4), np.uint8))]), r"expected RGB uint8 \[H, W, 3\]"),
        (lambda p: legend([], p, width=9), "at least one name"),
    ],
)
def test_wrong_arrays_are_refused(palette, call, message):
    with pytest.raises(ValueError, match=message):
        call(palette)
