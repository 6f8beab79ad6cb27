"""Which pseudo labels are kept: levels of confidence, shares of classes, confirmation by neighbours."""

import math

import numpy as np
import pytest
import torch

from etc.errors import UserError
from etc.pseudo_labels.selection import (
    LEVELS,
    Choice,
    Neighbour,
    confidence_levels,
    confidence_thresholds,
    temporally_consistent,
)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 0.999])
def test_a_threshold_keeps_nothing_below_it_and_next_to_nothing_above_it_is_lost(threshold):
    uncertainty = torch.rand(100_000, generator=torch.Generator().manual_seed(0)).double() * min(1, 3 * (1 - threshold))
    (least,) = confidence_thresholds(torch.zeros(1, LEVELS, dtype=torch.int64), Choice(threshold))
    kept = confidence_levels(uncertainty) >= least
    assert (1 - uncertainty[kept]).min() >= threshold - 1e-12
    assert kept[uncertainty <= 0.997 * (1 - threshold)].all()
    assert kept.any() and (threshold == 0) == bool(kept.all())


def test_levels_grow_with_confidence_and_stay_in_range():
    doubts = torch.tensor([1.0, 0.5, 0.25, 2.0**-10, 2.0**-24, 0.0])
    assert confidence_levels(doubts).tolist() == [0, 256, 512, 2560, 6144, 6144]
    assert confidence_levels(torch.tensor([-1e-7, 1 + 1e-7])).tolist() == [LEVELS - 1, 0]


@pytest.mark.parametrize("share", [0.07, 1 / 3, 0.5, 0.999, 1.0])
def test_the_surest_share_of_each_class_is_kept_as_sorting_finds_it(share):
    rng = np.random.default_rng(0)
    per_class = [rng.integers(0, LEVELS, n) for n in (100, 1, 7, 5000)]
    per_class.append(rng.integers(40, 43, 1000))  # many pixels on few levels
    histogram = torch.from_numpy(np.stack([np.bincount(levels, minlength=LEVELS) for levels in per_class]))
    least = confidence_thresholds(histogram, Choice(keep_share=share))
    for levels, found in zip(per_class, least.tolist(), strict=True):
        wanted = math.ceil(round(len(levels) * share, 6))
        assert found == np.sort(levels)[::-1][wanted - 1]


def test_a_class_without_pixels_and_counts_beyond_float32_do_no_harm():
    histogram = torch.zeros(2, LEVELS, dtype=torch.int64)
    histogram[1, 10], histogram[1, 20] = 2**25 + 1, 2**25 - 1  # half of 2**26 and one more lie below
    assert confidence_thresholds(histogram, Choice(keep_share=0.5)).tolist() == [0, 10]
    histogram[1, 10], histogram[1, 20] = 2**25, 2**25
    assert confidence_thresholds(histogram, Choice(keep_share=0.5)).tolist() == [0, 20]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(), "either"),
        (Choice(0.5, 0.5), "either"),
        (Choice(1.0), "--threshold 1.0: expected 0 <= T < 1"),
        (Choice(math.nan), "--threshold nan"),
        (Choice(keep_share=0.0), "--keep-share 0.0: expected 0 < S <= 1"),
        (Choice(keep_share=1.5), "--keep-share 1.5"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice, message):
    with pytest.raises(UserError, match=message):
        choice.check()


def loop_confirmed(ids, neighbours):
    """Pixel by pixel, for flows of whole pixels."""
    height, width = ids.shape
    result = np.zeros_like(ids, bool)
    for y in range(height):
        for x in range(width):
            verdicts = []
            for other, (u, v), visible in neighbours:
                x_k, y_k = x + u[y, x], y + v[y, x]
                if 0 <= x_k < width and 0 <= y_k < height and visible[y, x]:
                    verdicts.append(other[y_k, x_k] == ids[y, x])
            result[y, x] = bool(verdicts) and all(verdicts)
    return result


def test_confirmation_equals_the_loop_over_pixels():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2, (9, 12), dtype=np.uint8)
    others = [rng.integers(0, 2, ids.shape, dtype=np.uint8) for _ in range(2)]
    flows = [rng.integers(-4, 5, (2, *ids.shape)) for _ in range(2)]
    visible = [rng.random(ids.shape) < 0.7 for _ in range(2)]
    given = [
        Neighbour(torch.from_numpy(other), torch.from_numpy(flow).float(), None, torch.from_numpy(seen))
        for other, flow, seen in zip(others, flows, visible, strict=True)
    ]
    expected = loop_confirmed(ids, list(zip(others, flows, visible, strict=True)))
    np.testing.assert_array_equal(temporally_consistent(torch.from_numpy(ids), given, 2).numpy(), expected)
    assert 0.1 < expected.mean() < 0.5


def test_a_pixel_that_is_occluded_in_one_neighbour_is_judged_by_the_other():
    ids = torch.zeros(4, 6, dtype=torch.uint8)
    still, back = torch.zeros(2, 4, 6), torch.zeros(2, 4, 6)
    back[0, :, 3:] = 5  # the right half of frame k came from somewhere else: it hides that of frame t
    wrong, right = Neighbour(ids + 1, still, back), Neighbour(ids, still)
    judged = temporally_consistent(ids, [wrong, right], 2)
    assert not judged[:, :3].any() and judged[:, 3:].all()
    assert not temporally_consistent(ids, [Neighbour(ids, still, back)], 2)[:, 3:].any(), "no neighbour confirms these"
    assert not temporally_consistent(ids, [], 2).any()
