"""Segmentation losses against scalar loops: absent classes, ignored pixels, resizing, hard pixels."""

import math

import pytest
import torch
from torch.nn import functional as F

from utils.crit import (
    CITYSCAPES_CLASS_WEIGHT,
    CriterionCrossEntropy,
    CriterionDSN,
    CriterionOhemDSN,
    CriterionOhemDSN_single,
    OhemCrossEntropy2d,
)

WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 1.5])  # for four classes


def logits_of(shape, *, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()


def target_of(shape, *, classes=(0, 1, 3), ignored=0.3, seed=1):
    """Labels in which class 2 is absent."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.tensor(classes)[torch.randint(len(classes), shape, generator=generator)]
    target[torch.rand(shape, generator=generator) < ignored] = 255
    return target


def loop_cross_entropy(logits, target, weights=None, keep=lambda probability: True):
    """Value and gradient of the weighted mean over the kept pixels, one pixel at a time."""
    n, k, height, width = logits.shape
    gradient = torch.zeros_like(logits)
    total = weight_sum = 0.0
    for b in range(n):
        for y in range(height):
            for x in range(width):
                label = int(target[b, y, x])
                if label == 255:
                    continue
                exps = [math.exp(float(logits[b, c, y, x])) for c in range(k)]
                probability = exps[label] / sum(exps)
                if not keep(probability):
                    continue
                weight = 1.0 if weights is None else float(weights[label])
                total -= weight * math.log(probability)
                weight_sum += weight
                for c in range(k):
                    gradient[b, c, y, x] = weight * (exps[c] / sum(exps) - (c == label))
    if weight_sum == 0:
        return 0.0, gradient
    return total / weight_sum, gradient / weight_sum


def probabilities(logits, target):
    """The true class's probability at the valid pixels, ascending."""
    chosen = logits.detach().softmax(1).gather(1, target.where(target != 255, 0)[:, None])[:, 0]
    return sorted(chosen[target != 255].tolist())


def assert_value_and_gradient(loss, logits, expected):
    value, gradient = expected
    assert float(loss.detach()) == pytest.approx(value, rel=1e-7, abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_equals_the_scalar_loop(weights):
    logits, target = logits_of((2, 4, 5, 6)), target_of((2, 5, 6))
    loss = CriterionCrossEntropy(class_weight=weights)({"logits": logits}, target)
    assert_value_and_gradient(loss, logits, loop_cross_entropy(logits.detach(), target, weights))


def test_plain_logits_count_as_the_main_head():
    logits, target = logits_of((2, 4, 5, 6)), target_of((2, 5, 6))
    for criterion in (CriterionCrossEntropy(), CriterionDSN(), CriterionOhemDSN(), CriterionOhemDSN_single()):
        torch.testing.assert_close(criterion(logits, target), criterion({"logits": logits}, target))


def test_dsn_adds_four_tenths_of_the_auxiliary_head():
    logits, dsn, target = logits_of((2, 4, 5, 6)), logits_of((2, 4, 5, 6), seed=7), target_of((2, 5, 6))
    loss = CriterionDSN(class_weight=WEIGHTS)({"logits": logits, "dsn": dsn}, target)
    main, main_gradient = loop_cross_entropy(logits.detach(), target, WEIGHTS)
    auxiliary, dsn_gradient = loop_cross_entropy(dsn.detach(), target, WEIGHTS)
    expected = (main + 0.4 * auxiliary, main_gradient)
    assert_value_and_gradient(loss, logits, expected)
    loss = CriterionDSN(class_weight=WEIGHTS)({"logits": logits, "dsn": dsn}, target)
    assert_value_and_gradient(loss, dsn, (expected[0], 0.4 * dsn_gradient))


def test_logits_are_resized_to_the_label_with_aligned_corners():
    coarse, target = logits_of((1, 4, 2, 3)), target_of((1, 4, 7))
    fine = torch.empty(1, 4, 4, 7, dtype=torch.float64)
    for y in range(4):
        for x in range(7):
            v, u = y * (2 - 1) / (4 - 1), x * (3 - 1) / (7 - 1)
            top, left = min(int(v), 0), min(int(u), 1)
            b, a = v - top, u - left
            corner = coarse.detach()[0, :, top : top + 2, left : left + 2]
            fine[0, :, y, x] = (1 - b) * ((1 - a) * corner[:, 0, 0] + a * corner[:, 0, 1]) + b * (
                (1 - a) * corner[:, 1, 0] + a * corner[:, 1, 1]
            )
    loss = CriterionCrossEntropy()({"logits": coarse}, target)
    assert float(loss.detach()) == pytest.approx(loop_cross_entropy(fine, target)[0], rel=1e-7)


CRITERIA = [CriterionCrossEntropy, CriterionDSN, CriterionOhemDSN, CriterionOhemDSN_single]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_all_ignored_gives_zero_and_a_gradient_of_zero(criterion, weights):
    logits, dsn = logits_of((2, 4, 5, 6)), logits_of((2, 4, 5, 6), seed=7)
    loss = criterion(class_weight=weights)({"logits": logits, "dsn": dsn}, torch.full((2, 10, 12), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    assert dsn.grad is None or not dsn.grad.any()


def test_labels_may_be_uint8():
    logits, target = logits_of((2, 4, 5, 6)), target_of((2, 5, 6))
    for criterion in (CriterionDSN(), CriterionOhemDSN(min_kept=5)):
        assert criterion(logits, target.to(torch.uint8)) == criterion(logits, target)


def test_another_ignore_label_is_respected():
    logits, target = logits_of((2, 4, 5, 6)), target_of((2, 5, 6))
    renamed = target.where(target != 255, 99)
    assert CriterionDSN(ignore_index=99)(logits, renamed) == CriterionDSN()(logits, target)


# 60 pixels, about 42 of them valid: below, between and above what the threshold alone keeps
@pytest.mark.parametrize("min_kept", [0, 1, 10, 30, 41, 60, 100])
@pytest.mark.parametrize("thresh", [0.0, 0.05, 0.7])
def test_ohem_equals_the_scalar_loop(min_kept, thresh):
    logits, target = logits_of((2, 4, 5, 6)), target_of((2, 5, 6))
    ranked = probabilities(logits, target)
    limit = thresh
    if min_kept >= len(ranked):
        limit = 1.0
    elif min_kept > 0:
        limit = max(thresh, ranked[min_kept - 1])
    loss = OhemCrossEntropy2d(class_weight=WEIGHTS, thresh=thresh, min_kept=min_kept)(logits, target)
    expected = loop_cross_entropy(logits.detach(), target, WEIGHTS, keep=lambda p: p <= limit + 1e-12)
    assert_value_and_gradient(loss, logits, expected)


def test_ohem_ranks_over_the_whole_batch():
    logits, target = logits_of((2, 4, 5, 6)), target_of((2, 5, 6), ignored=0.0)
    with torch.no_grad():  # the first image is easy throughout
        logits[0] *= 0.01
        logits[0].scatter_add_(0, target[:1], torch.full((1, 5, 6), 9.0, dtype=torch.float64))
    loss = OhemCrossEntropy2d(thresh=0.0, min_kept=12)(logits, target)
    gradient = torch.autograd.grad(loss, logits)[0]
    assert not gradient[0].any()
    assert int(gradient[1].any(0).sum()) == 12


def test_ohem_keeps_nothing_of_an_easy_batch_when_nothing_must_be_kept():
    target = target_of((1, 5, 6))
    logits = 20.0 * F.one_hot(target.where(target != 255, 0), 4).permute(0, 3, 1, 2).double()
    logits.requires_grad_()
    loss = OhemCrossEntropy2d(thresh=0.7, min_kept=0)(logits, target)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_ohem_dsn_mines_both_heads_and_the_single_one_only_the_main_head():
    logits, dsn, target = logits_of((2, 4, 5, 6)), logits_of((2, 4, 5, 6), seed=7), target_of((2, 5, 6))
    mined = OhemCrossEntropy2d(class_weight=WEIGHTS, thresh=0.3, min_kept=4)
    both = CriterionOhemDSN(class_weight=WEIGHTS, thresh=0.3, min_kept=4)({"logits": logits, "dsn": dsn}, target)
    single = CriterionOhemDSN_single(class_weight=WEIGHTS, thresh=0.3, min_kept=4, dsn_weight=0.25)
    main, auxiliary = mined(logits, target), loop_cross_entropy(dsn.detach(), target, WEIGHTS)[0]
    torch.testing.assert_close(both, main + 0.4 * mined(dsn, target))
    torch.testing.assert_close(single({"logits": logits, "dsn": dsn}, target), main + 0.25 * auxiliary)


def test_a_logit_that_is_not_a_number_is_not_hidden():
    logits, target = logits_of((1, 4, 5, 6)).detach(), target_of((1, 5, 6), ignored=0.0)
    logits[0, 0, 2, 2] = math.nan
    for criterion in (CriterionDSN(), CriterionOhemDSN(min_kept=3)):
        assert criterion(logits, target).isnan()


def test_half_precision_logits_lose_nothing_but_their_own_rounding():
    logits, target = logits_of((2, 4, 5, 6)).detach(), target_of((2, 5, 6))
    half = logits.half()
    for criterion in (CriterionDSN(), CriterionOhemDSN(min_kept=5)):
        loss = criterion(half, target)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, criterion(half.float(), target), rtol=0, atol=0)


def test_the_published_class_weights_are_those_of_19_classes():
    assert CITYSCAPES_CLASS_WEIGHT.shape == (19,)
    assert float(CITYSCAPES_CLASS_WEIGHT.double().sum()) == pytest.approx(19.0001, abs=1e-6)
    assert CriterionDSN(class_weight=CITYSCAPES_CLASS_WEIGHT).state_dict() == {}


def test_the_wrong_number_of_class_weights_is_named():
    with pytest.raises(ValueError, match=r"\(4,\), expected \(5,\)"):
        CriterionDSN(class_weight=WEIGHTS)(logits_of((1, 5, 2, 2)), target_of((1, 2, 2)))


def test_logits_and_labels_that_do_not_match_are_named():
    with pytest.raises(ValueError, match=r"\(2, 4, 5, 6\).*\(1, 5, 6\)"):
        CriterionDSN()(logits_of((2, 4, 5, 6)), target_of((1, 5, 6)))
    with pytest.raises(ValueError, match=r"\(2, 4, 5, 6\).*\(2, 5, 7\)"):
        OhemCrossEntropy2d()(logits_of((2, 4, 5, 6)), target_of((2, 5, 7)))


def test_outputs_without_logits_are_named():
    with pytest.raises(ValueError, match=r"no 'logits', only out"):
        CriterionDSN()({"out": logits_of((1, 4, 2, 2))}, target_of((1, 2, 2)))


@pytest.mark.parametrize("arguments", [{"thresh": 1.5}, {"min_kept": -1}])
def test_impossible_ohem_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        OhemCrossEntropy2d(**arguments)
