"""What a clip looks like: changes along the flow against a loop, which moments and which frames are shown."""

import math

import numpy as np
import pytest

from etc.flow.pair_flow import PairFlow
from etc.metrics.warping import visible_pixels
from etc.report.clip_views import (
    PANEL_WIDTH,
    fit_to_panel,
    heatmap,
    highlight_changes,
    label_changes,
    part_to_show,
    worst_pairs,
)

NAN = math.nan


def loop_changes(before, after, flow, valid):
    """What changes and what counts, pixel by pixel."""
    height, width = before.shape
    changed, counted = np.zeros((2, height, width), bool)
    for y in range(height):
        for x in range(width):
            tx, ty = math.floor(x + flow[0, y, x] + 0.5), math.floor(y + flow[1, y, x] + 0.5)
            if not valid[y, x] or not (0 <= tx < width and 0 <= ty < height):
                continue
            if 255 in (before[y, x], after[ty, tx]):
                continue
            counted[y, x] = True
            changed[y, x] = before[y, x] != after[ty, tx]
    return changed, counted


def test_label_changes_equal_the_loop():
    random = np.random.default_rng(0)
    before, after = random.choice(np.array([0, 1, 2, 255], np.uint8), (2, 9, 11))
    flow = random.normal(0, 2, (2, 9, 11)).astype(np.float32)
    valid = random.random((9, 11)) < 0.8
    found = label_changes(before, after, PairFlow(flow, valid, valid))
    expected = loop_changes(before, after, flow, valid)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert 10 < expected[0].sum() < expected[1].sum() < valid.sum()


def test_a_pixel_that_the_backward_flow_does_not_confirm_does_not_count():
    before, after = np.zeros((4, 8), np.uint8), np.ones((4, 8), np.uint8)
    forward, backward = np.zeros((2, 2, 4, 8), np.float32)
    backward[0, :, 5:] = 3.0  # there the way back ends three pixels off
    changed, counted = label_changes(
        before, after, PairFlow(forward, visible=visible_pixels(forward, backward).numpy())
    )
    np.testing.assert_array_equal(counted, np.arange(8)[None].repeat(4, 0) < 5)
    np.testing.assert_array_equal(changed, counted)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([[0.9, 0.2, 0.8], [0.9, 0.8, 0.1]], {1: ["a"], 2: ["b"]}),
        ([[0.9, 0.2, 0.8], [0.9, 0.1, 0.8]], {1: ["a", "b"]}),
        ([[NAN, 0.5, 0.4], [NAN, NAN, NAN]], {2: ["a"]}),
        ([[NAN], [NAN]], {}),
    ],
)
def test_the_worst_moment_of_each_run(pairs, expected):
    assert worst_pairs(pairs, ["a", "b"]) == expected


@pytest.mark.parametrize(
    ("length", "first", "limit", "expected"),
    [(30, 12, 60, range(30)), (100, 50, 20, range(40, 60)), (100, 3, 20, range(20)), (100, 98, 20, range(80, 100))],
)
def test_the_part_that_is_shown_lies_around_the_worst_moment(length, first, limit, expected):
    assert part_to_show(length, {first: ["a"]}, limit) == expected


def test_a_clip_without_any_figure_is_shown_from_its_start():
    assert part_to_show(100, {}, 20) == range(20)


def test_heat_is_black_where_nothing_changes_and_bright_where_all_does():
    picture = heatmap(np.array([[0.0, 0.5, 1.0]]))
    assert picture.dtype == np.uint8 and picture.shape == (1, 3, 3)
    assert picture[0, 0].max() < 5 and picture[0, 1].min() > 100
    np.testing.assert_array_equal(picture[0, 1], picture[0, 2])


def test_marked_pixels_are_coloured_and_the_others_gray():
    frame = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    changed = np.zeros((4, 5), bool)
    changed[1, 2] = True
    picture = highlight_changes(frame, changed)
    spread = np.ptp(picture.astype(int), axis=2)
    assert spread[1, 2] > 100 and (spread[~changed] == 0).all()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((50, 100), (250, 500)), ((300, 512), (300, 512)), ((300, 400), (300, 400)), ((1024, 2048), (256, 512))],
)
def test_pictures_fit_their_panel(shape, expected):
    assert fit_to_panel(np.zeros((*shape, 3), np.uint8)).shape == (*expected, 3)
    assert expected[1] <= PANEL_WIDTH
