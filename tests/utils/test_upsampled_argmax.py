"""utils/upsampled_argmax.py against F.interpolate and argmax: the same class in every pixel that is no tie."""

import pytest
import torch
import torch.nn.functional as F

from utils.upsampled_argmax import upsampled_argmax

SIZES = [((9, 13), (65, 97)), ((9, 13), (72, 104)), ((5, 7), (11, 40)), ((12, 12), (12, 12)), ((1, 1), (7, 9))]
SIZES += [((1, 6), (8, 48)), ((16, 20), (7, 9)), ((3, 4), (1, 1)), ((2, 2), (64, 64))]


def margin(logits: torch.Tensor) -> torch.Tensor:
    """By how much the best class of each pixel is ahead."""
    if logits.shape[1] == 1:
        return torch.full_like(logits[:, 0], torch.inf)
    best = logits.topk(2, 1).values
    return best[:, 0] - best[:, 1]


def check(logits, size, align_corners, *, ties: bool = False):
    expected = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners)
    found = upsampled_argmax(logits, size, align_corners=align_corners)
    assert found.dtype == torch.uint8 and tuple(found.shape) == (len(logits), *size)
    differ = found != expected.argmax(1)
    # Float32 sums of four terms: a class that is ahead by more than this is ahead in any order of them.
    clear = margin(expected) > 1e-5 * logits.abs().max()
    assert not (differ & clear).any()
    if not ties:
        assert not differ.any()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), SIZES)
@pytest.mark.parametrize("kind", ["random", "smooth", "constant", "one-hot"])
def test_it_is_the_argmax_of_the_interpolated_logits(low, size, align_corners, kind):
    torch.manual_seed(0)
    logits = torch.randn(2, 6, *low)
    if kind == "smooth":
        logits = F.avg_pool2d(F.pad(logits, (2, 2, 2, 2), mode="replicate"), 5, 1) * 20
    if kind == "constant":
        logits = logits[:, :, :1, :1].expand(-1, -1, *low)
    if kind == "one-hot":  # ties in the middle of every mixed cell
        logits = F.one_hot(torch.randint(0, 6, (2, *low)), 6).permute(0, 3, 1, 2).float()
    check(logits, size, align_corners, ties=kind == "one-hot")


@pytest.mark.parametrize("align_corners", [True, False])
def test_equal_corners_and_equal_classes_give_the_first_class_as_argmax_does(align_corners):
    logits = torch.zeros(1, 4, 5, 6)
    logits[:, 2:] = 1.5  # two classes are equal everywhere
    assert (upsampled_argmax(logits, (33, 47), align_corners=align_corners) == 2).all()


def test_an_exact_tie_between_corners_goes_to_the_first_class():
    logits = torch.tensor([[[[0.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]]]])  # halfway between the corners both are one half
    assert upsampled_argmax(logits, (1, 5), align_corners=True).tolist() == [[[1, 0, 0, 0, 1]]]


def test_a_class_that_wins_between_corners_only_is_found():
    # Each corner has a class of its own; class 4 is second at all of them, and first in the middle.
    logits = torch.full((1, 5, 2, 2), -9.0)
    for number, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        logits[0, number, y, x] = 3.0
    logits[0, 4] = 2.0
    found = upsampled_argmax(logits, (65, 65), align_corners=True)[0]
    assert found[32, 32] == 4 and found[0, 0] == 0 and found[-1, -1] == 3
    check(logits, (65, 65), True, ties=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_layouts(dtype):
    torch.manual_seed(1)
    logits = torch.randn(3, 7, 9, 11).to(dtype).to(memory_format=torch.channels_last)
    check(logits, (40, 50), True, ties=True)
    check(logits[:, :, ::2], (40, 50), False, ties=True)


@pytest.mark.parametrize("align_corners", [False, True])
def test_classes_that_are_excluded_by_minus_infinity_are_given_to_no_pixel(align_corners):
    logits = torch.randn(1, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 2] = -torch.inf
    allowed = [0, 1, 3, 4, 5]
    expected = F.interpolate(logits[:, allowed], (70, 50), mode="bilinear", align_corners=align_corners).argmax(1)
    got = upsampled_argmax(logits, (70, 50), align_corners=align_corners)
    assert torch.equal(got.long(), torch.tensor(allowed)[expected])


def test_255_classes_and_one():
    torch.manual_seed(2)
    check(torch.randn(1, 255, 6, 7), (30, 41), True)
    check(torch.randn(1, 1, 6, 7), (30, 41), True)
    with pytest.raises(ValueError, match=r"K in 1\.\.255, got \(1, 256, 6, 7\)"):
        upsampled_argmax(torch.randn(1, 256, 6, 7), (30, 41), align_corners=True)
    with pytest.raises(ValueError, match=r"got \(3, 6, 7\)"):
        upsampled_argmax(torch.randn(3, 6, 7), (30, 41), align_corners=True)
