"""Confusion counts, the figures made of them, and their intervals."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from etc.metrics import (
    bootstrap_difference,
    bootstrap_interval,
    confusion,
    frequency_weighted_iou,
    iou_counts,
    iou_scores,
    occurring_classes,
    pixel_accuracy,
)


def random_maps(shape, classes, seed=0, ignored=0.1):
    """A target with ignored pixels, and a prediction that is right in about 60 % of them."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, shape)
    pred = np.where(rng.random(shape) < 0.6, target, rng.integers(0, classes, shape))
    target[rng.random(shape) < ignored] = 255
    return torch.from_numpy(pred), torch.from_numpy(target)


def loop_confusion(pred, target, classes, ignore=255):
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t != ignore:
            counts[t, p] += 1
    return counts


def mean_iou(counts):
    return iou_scores(counts)["mIoU"]


@pytest.mark.parametrize("shape", [(7,), (5, 6), (2, 3, 4, 5), (300, 300)])
def test_confusion_equals_the_scalar_loop(shape):
    pred, target = random_maps(shape, 5)
    assert torch.equal(confusion(pred, target, 5), loop_confusion(pred, target, 5))


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint16, np.uint64, np.dtype(">i4"), np.dtype(">u2")]
)
def test_every_integer_dtype_gives_the_same_counts(dtype):
    pred, target = random_maps((9, 11), 4)
    expected = loop_confusion(pred, target, 4)
    pred, target = pred.numpy().astype(dtype), target.numpy().astype(dtype)
    assert torch.equal(confusion(pred, target, 4), expected)
    if np.dtype(dtype).isnative:
        assert torch.equal(confusion(torch.from_numpy(pred), torch.from_numpy(target), 4), expected)


def test_reversed_and_read_only_arrays_are_accepted():
    pred, target = random_maps((9, 11), 4)
    reversed_pred, frozen = pred.numpy()[::-1, ::-1], target.numpy().astype(np.uint8)
    frozen.flags.writeable = False
    assert torch.equal(confusion(reversed_pred, frozen, 4), loop_confusion(pred.flip(0).flip(1), target, 4))


@pytest.mark.parametrize("ignore", [0, 2, -1, -100, 300])
def test_the_ignored_label_may_be_a_class_or_any_other_number(ignore):
    pred, target = random_maps((20, 20), 4, ignored=0)
    target[:5] = ignore
    assert torch.equal(confusion(pred, target, 4, ignore), loop_confusion(pred, target, 4, ignore))


def test_more_classes_than_a_byte_holds():
    pred, target = random_maps((40, 40), 300, ignored=0)
    assert torch.equal(confusion(pred, target, 300, -1), loop_confusion(pred, target, 300, -1))


def test_what_is_predicted_at_ignored_pixels_does_not_matter():
    target, pred = torch.tensor([255, 1]), torch.tensor([255, 1])
    assert confusion(pred, target, 2).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(
    ("pred", "target", "ignore", "message"),
    [
        ([0, 0], [7, 255], 255, "target holds id 7: expected 0..2"),
        ([7, 0], [0, 255], 255, "pred holds id 7: expected 0..2"),
        ([0, 0], [255, 0], 0, "target holds id 255"),
        ([0, 0], [156, 0], -100, "target holds id 156"),
    ],
)
def test_an_id_outside_the_classes_is_refused_and_named(pred, target, ignore, message, dtype):
    with pytest.raises(ValueError, match=message):
        confusion(torch.tensor(pred, dtype=dtype), torch.tensor(target, dtype=dtype), 3, ignore)


def test_a_negative_id_is_refused_and_named():
    with pytest.raises(ValueError, match="pred holds id -1"):
        confusion(torch.tensor([-1]), torch.tensor([0]), 3)


def test_maps_of_different_shape_are_refused_with_both_shapes_named():
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[3, 2\]"):
        confusion(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.uint8), 2)


@pytest.mark.parametrize("wrong", [torch.zeros(2), torch.zeros(2, dtype=torch.bool), np.zeros(2)])
def test_maps_that_hold_no_integers_are_refused(wrong):
    with pytest.raises(ValueError, match="pred must hold integers"):
        confusion(wrong, torch.zeros(2, dtype=torch.uint8), 2)


def test_scores_equal_torchmetrics_accumulated_over_batches_with_an_absent_class():
    jaccard = {
        average: MulticlassJaccardIndex(num_classes=6, average=average, ignore_index=255)
        for average in ("macro", "none", "weighted")
    }
    accuracy = {
        average: MulticlassAccuracy(num_classes=6, average=average, ignore_index=255) for average in ("micro", "none")
    }
    counts = torch.zeros(6, 6, dtype=torch.int64)
    for seed in range(4):
        pred, target = random_maps((2, 8, 9), 5, seed)  # class 5 never occurs
        counts += confusion(pred, target, 6)
        for metric in (*jaccard.values(), *accuracy.values()):
            metric.update(pred, target)
    got = iou_scores(counts)
    assert got["mIoU"] == pytest.approx(jaccard["macro"].compute().item(), abs=1e-6)
    assert got["iou"][:5] == pytest.approx(jaccard["none"].compute().tolist()[:5], abs=1e-6)
    assert math.isnan(got["iou"][5])
    assert got["allAcc"] == pytest.approx(accuracy["micro"].compute().item(), abs=1e-6)
    totals = iou_counts(counts).numpy()
    assert frequency_weighted_iou(totals) == pytest.approx(jaccard["weighted"].compute().item(), abs=1e-6)
    assert pixel_accuracy(totals) == got["allAcc"]
    assert occurring_classes(totals).tolist() == [True] * 5 + [False] and got["mIoU_classes"] == 5
    assert got["mAcc"] == pytest.approx(accuracy["none"].compute()[:5].mean().item(), abs=1e-6)


def test_scores_of_a_table_worked_out_by_hand():
    counts = torch.tensor([[3, 1, 0], [0, 0, 0], [0, 2, 2]])  # class 1: predicted, never true
    got = iou_scores(counts)
    assert got["iou"] == [3 / 4, 0.0, 2 / 4]
    assert got["mIoU"] == pytest.approx((3 / 4 + 0 + 2 / 4) / 3)
    assert got["mAcc"] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert got["allAcc"] == 5 / 8
    assert got["pixels"] == 8
    assert (got["mIoU_classes"], got["mAcc_classes"], got["class_pixels"]) == (3, 2, [4, 3, 4])
    assert frequency_weighted_iou(iou_counts(counts).numpy()) == pytest.approx(4 / 8 * 3 / 4 + 4 / 8 * 2 / 4)
    published = iou_scores(counts, "published")
    assert published["mIoU"] == pytest.approx((3 / 4 + 0 + 2 / 4) / 3)
    assert published["mAcc"] == pytest.approx((3 / 4 + 0 + 2 / 4) / 3)


def test_the_published_convention_counts_an_absent_class_as_zero():
    counts = np.array([[4, 0, 0], [2, 2, 0], [0, 0, 0]])
    assert iou_scores(counts)["mIoU"] == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert iou_scores(counts, "published")["mIoU"] == pytest.approx((4 / 6 + 2 / 4) / 3)
    assert iou_scores(counts, "published")["iou"] == [4 / 6, 2 / 4, 0.0]


@pytest.mark.parametrize("convention", ["present", "published"])
def test_without_a_pixel_the_figures_are_nan(convention):
    got = iou_scores(torch.zeros(3, 3, dtype=torch.int64), convention)
    assert got["pixels"] == 0
    assert all(math.isnan(value) for value in (got["mIoU"], got["mAcc"], got["allAcc"], *got["iou"]))
    empty = np.zeros((3, 4), np.int64)
    assert math.isnan(pixel_accuracy(empty)) and math.isnan(frequency_weighted_iou(empty))


def test_counts_beyond_32_bits_stay_exact():
    counts = torch.tensor([[2**40 + 1, 1], [0, 1]])
    assert iou_scores(counts)["pixels"] == 2**40 + 3
    assert iou_scores(counts)["iou"][0] == (2**40 + 1) / (2**40 + 2)


@pytest.mark.parametrize("wrong", [torch.zeros(2, 3), torch.zeros(2, 2, 2)])
def test_counts_that_are_no_square_table_are_refused(wrong):
    with pytest.raises(ValueError, match="counts must be"):
        iou_scores(wrong)


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="present, published"):
        iou_scores(torch.zeros(2, 2), "macro")


def per_clip_tables(clips=12, classes=4, seed=3):
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.integers(0, 30, (classes, classes)) + np.diag(rng.integers(20, 300, classes)) for _ in range(clips)]
    )


def test_the_interval_equals_scipys_percentile_bootstrap_of_the_same_draws():
    tables = per_clip_tables()

    def of_clips(indices):
        return mean_iou(tables[indices].sum(0))

    expected = stats.bootstrap(
        (np.arange(len(tables)),),
        of_clips,
        n_resamples=400,
        confidence_level=0.9,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(7),
    ).confidence_interval
    got = bootstrap_interval(torch.from_numpy(tables), mean_iou, samples=400, level=0.9, seed=7)
    assert got == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert got[0] < mean_iou(tables.sum(0)) < got[1]


def test_the_interval_is_the_same_for_the_same_seed_only():
    tables = per_clip_tables()
    first, again, other = (bootstrap_interval(tables, mean_iou, samples=50, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_the_difference_draws_the_same_clips_of_both_systems():
    tables = per_clip_tables()
    drawn = np.random.default_rng(5).integers(0, len(tables), (200, len(tables)))
    better = tables + np.eye(4, dtype=np.int64) * np.arange(1, 13)[:, None, None] * 20
    figures = [mean_iou(better[d].sum(0)) - mean_iou(tables[d].sum(0)) for d in drawn]
    expected = np.percentile(figures, [2.5, 97.5])
    assert bootstrap_difference(tables, better, mean_iou, samples=200, seed=5) == pytest.approx(expected)


def test_the_difference_of_a_system_to_itself_is_exactly_zero():
    tables = per_clip_tables()
    assert bootstrap_difference(tables, tables, mean_iou, samples=50) == (0.0, 0.0)


def test_one_clip_has_no_interval():
    assert all(math.isnan(end) for end in bootstrap_interval(per_clip_tables(1), mean_iou))


def test_clips_without_a_pixel_do_not_count_as_clips():
    tables, better = per_clip_tables(4), per_clip_tables(4, seed=4)
    empty = np.zeros((6, 4, 4), np.int64)
    with_empty, better_with_empty = np.concatenate([empty, tables]), np.concatenate([empty, better])
    assert bootstrap_interval(with_empty, mean_iou) == bootstrap_interval(tables, mean_iou)
    expected = bootstrap_difference(tables, better, mean_iou)
    assert bootstrap_difference(with_empty, better_with_empty, mean_iou) == expected
    assert expected[0] < expected[1]
    assert all(map(math.isnan, bootstrap_interval(with_empty[:7], mean_iou)))
    with_empty[0] = tables[0]  # counted in one of the two alone
    assert bootstrap_difference(with_empty, better_with_empty, mean_iou) != expected


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"level": 0.0}, {"level": 1.0}])
def test_impossible_bootstrap_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bootstrap_interval(per_clip_tables(), mean_iou, **wrong)


def test_two_systems_on_different_clips_are_refused():
    with pytest.raises(ValueError, match=r"\[12, 4, 4\].*\[11, 4, 4\]"):
        bootstrap_difference(per_clip_tables(12), per_clip_tables(11), mean_iou)
