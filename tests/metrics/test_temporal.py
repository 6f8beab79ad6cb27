"""Temporal consistency against scalar transcriptions of its definition."""

import copy
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from etc.metrics import TemporalConsistency, iou_scores
from etc.metrics.published import _fma32, warp_published
from etc.metrics.warping import visible_pixels

F32 = np.float32


def random_pair(height=9, width=13, classes=5, reach=2.0, seed=0, ignored=0.05):
    """Two label maps, and smooth forward and backward flows that agree in about half of the pixels."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, classes, (2, height, width)).astype(np.uint8)
    maps[rng.random(maps.shape) < ignored] = 255
    y, x = np.mgrid[:height, :width]
    smooth = [np.sin(phase + x / 23 + y / 17) for phase in rng.uniform(0, 6, 2)]
    flow = (reach * np.stack(smooth) + rng.normal(0, 0.1, (2, height, width))).astype(F32)
    backward = (-flow + rng.normal(0, 0.5, flow.shape)).astype(F32)
    return maps[0], maps[1], flow, backward


def near(value, x, y):
    """Bilinear value at (x, y) of a map, borders clamped, in float64."""
    height, width = value.shape
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = math.floor(x), math.floor(y)
    right, bottom, a, b = min(left + 1, width - 1), min(top + 1, height - 1), x - left, y - top
    upper = (1 - a) * float(value[top, left]) + a * float(value[top, right])
    lower = (1 - a) * float(value[bottom, left]) + a * float(value[bottom, right])
    return (1 - b) * upper + b * lower


def is_occluded(u, v, back_u, back_v):
    margin = (u + back_u) ** 2 + (v + back_v) ** 2 - 0.01 * (u * u + v * v + back_u**2 + back_v**2) - 0.5
    assert abs(margin) > 1e-4, "too near the threshold for a verdict in float32: choose another seed"
    return margin > 0


def loop_warp_nearest(ids, flow, backward=None, valid=None):
    """The next frame's ids at the pixels of this one; -1 where there is nothing to compare."""
    height, width = ids.shape
    warped = np.full(ids.shape, -1)
    for y in range(height):
        for x in range(width):
            u, v = flow[:, y, x]
            column, row = (math.floor(F32(F32(c) + d) + F32(0.5)) for c, d in ((x, u), (y, v)))
            if not (0 <= column < width and 0 <= row < height) or ids[row, column] == 255:
                continue
            if valid is not None and not valid[y, x]:
                continue
            if backward is not None:
                u, v = float(u), float(v)
                if is_occluded(u, v, near(backward[0], x + u, y + v), near(backward[1], x + u, y + v)):
                    continue
            warped[y, x] = ids[row, column]
    return warped


def loop_counts(warped, ids, classes):
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for w, p in zip(warped.flatten().tolist(), ids.flatten().tolist(), strict=True):
        if 0 <= w < classes and p < classes:
            counts[w, p] += 1
    return counts


def round_to_float32(value: Fraction) -> np.float32:
    """The nearest float32, ties to even, of an exact value >= 0 in the normal range."""
    if value == 0:
        return F32(0)
    exponent = math.floor(math.log2(value)) - 23
    while value / Fraction(2) ** exponent >= 2**24:
        exponent += 1
    while value / Fraction(2) ** exponent < 2**23:
        exponent -= 1
    return F32(round(value / Fraction(2) ** exponent) * 2.0**exponent)


def loop_warp_published(ids, flow):
    """The published kernel, literally: products in float64, sums in float32, the last one fused."""
    height, width = ids.shape
    warped = np.empty_like(ids)
    for y in range(height):
        for x in range(width):
            xf, yf = F32(x) + flow[0, y, x], F32(y) + flow[1, y, x]
            a, b = F32(xf - np.floor(xf)), F32(yf - np.floor(yf))
            columns = [min(max(int(np.floor(xf)) + k, 0), width - 1) for k in (0, 1)]
            rows = [min(max(int(np.floor(yf)) + k, 0), height - 1) for k in (0, 1)]
            (tl, tr), (bl, br) = ([int(ids[r, c]) for c in columns] for r in rows)
            a64, b64 = float(a), float(b)
            total = F32((1.0 - a64) * (1.0 - b64) * tl)
            total = F32(total + F32(a64 * (1.0 - b64) * tr))
            total = F32(total + F32((1.0 - a64) * b64 * bl))
            fused = Fraction(float(F32(a * b))) * br + Fraction(float(total))
            warped[y, x] = int(round_to_float32(fused))
    return warped


def fed(meter, *pair):
    meter.update(*pair)
    return meter


@pytest.mark.parametrize(("size", "seed"), [((9, 13), 0), ((9, 13), 1), ((9, 13), 2), ((1, 40), 4), ((40, 1), 4)])
def test_visible_pixels_given_as_valid_count_as_the_backward_flow_does(size, seed):
    this, following, flow, backward = random_pair(*size, seed=seed)
    visible = visible_pixels(flow, backward)
    assert visible.any() and not visible.all()
    expected = loop_counts(loop_warp_nearest(following, flow, backward), this, 5)
    assert torch.equal(fed(TemporalConsistency(5), this, following, flow, None, visible).counts, expected)


@pytest.mark.parametrize("with_backward", [False, True])
@pytest.mark.parametrize("with_valid", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_strict_counts_equal_the_scalar_loop(seed, with_valid, with_backward):
    this, following, flow, backward = random_pair(seed=seed)
    backward = backward if with_backward else None
    valid = np.random.default_rng(seed).random(this.shape) < 0.7 if with_valid else None
    expected = loop_counts(loop_warp_nearest(following, flow, backward, valid), this, 5)
    meter = fed(TemporalConsistency(5), this, following, flow, backward, valid)
    assert torch.equal(meter.counts, expected)
    assert 10 < expected.sum() < this.size


def test_strict_counts_equal_the_loop_on_a_frame_of_several_row_blocks():
    this, following, flow, _ = random_pair(45, 1500, seed=4, reach=20)
    meter = fed(TemporalConsistency(5), this, following, flow)
    assert torch.equal(meter.counts, loop_counts(loop_warp_nearest(following, flow), this, 5))


@pytest.mark.parametrize("shift", [0.5, 0.49999997, -0.5, -0.50000006, 2.5])
def test_half_a_pixel_rounds_to_the_right_in_strict(shift):
    this = np.zeros((1, 6), np.uint8)
    following = np.arange(6, dtype=np.uint8)[None]
    flow = np.zeros((2, 1, 6), F32)
    flow[0] = shift
    counts = fed(TemporalConsistency(6), this, following, flow).counts
    assert torch.equal(counts, loop_counts(loop_warp_nearest(following, flow), this, 6))


def test_a_move_by_whole_pixels_counts_only_what_stays_in_the_frame():
    following = np.arange(12, dtype=np.uint8).reshape(3, 4)
    flow = np.stack([np.full((3, 4), 1, F32), np.full((3, 4), -1, F32)])
    this = np.full((3, 4), 255, np.uint8)
    this[1:, :3] = following[:2, 1:]
    result = fed(TemporalConsistency(12), this, following, flow).compute()
    assert (result["mIoU"], result["pixels"]) == (1.0, 6)


def test_positions_just_outside_the_frame_are_not_counted():
    labels = np.zeros((1, 4), np.uint8)
    flow = np.zeros((2, 1, 4), F32)
    flow[0] = [-0.51, 1e9, -1e9, 0.51]
    assert fed(TemporalConsistency(1), labels, labels, flow).compute()["pixels"] == 0


@pytest.mark.parametrize("classes", [19, 40, 200])
@pytest.mark.parametrize("reach", [0.2, 4.0])
def test_published_warp_equals_the_scalar_loop_to_the_last_bit(reach, classes):
    for seed in range(4):
        _, ids, flow, _ = random_pair(10, 12, classes, reach, seed)
        got = warp_published(torch.from_numpy(ids), torch.from_numpy(flow)).numpy()
        np.testing.assert_array_equal(got, loop_warp_published(ids, flow))


def test_published_warp_of_a_uniform_frame_loses_one_or_two_percent_to_the_class_below():
    ids = np.full((64, 64), 5, np.uint8)
    flow = np.random.default_rng(0).normal(0, 2, (2, 64, 64)).astype(F32)
    got = warp_published(torch.from_numpy(ids), torch.from_numpy(flow)).numpy()
    np.testing.assert_array_equal(got, loop_warp_published(ids, flow))
    assert set(np.unique(got)) == {4, 5}
    assert 0.005 < (got == 4).mean() < 0.03


def test_published_counts_drop_only_ids_beyond_the_classes_and_average_over_all():
    this, following, flow, backward = random_pair(seed=5)
    expected = loop_counts(loop_warp_published(following, flow), this, 7)
    valid = np.zeros(this.shape, bool)
    meter = fed(TemporalConsistency(7, "published"), this, following, flow, backward, valid)
    assert torch.equal(meter.counts, expected)
    assert meter.compute() == iou_scores(expected, "published")


def test_the_fused_multiply_add_rounds_once_where_two_roundings_go_wrong():
    # 151 * x = 2^-21 (1 - 2^-30): the exact sum lies 2^-51 below the tie between 16 - 2^-20 and 16. float64
    # cannot tell it from the tie, and a second rounding would go up to 16.
    x, z = F32(14221746 * 2.0**-52), F32(16 - 2.0**-20)
    exact = Fraction(float(x)) * 151 + Fraction(float(z))
    assert F32(float(x) * 151 + float(z)) != round_to_float32(exact)
    (got,) = _fma32(*(torch.tensor([v]) for v in (x, np.float64(151), z, True)))
    assert got.item() == round_to_float32(exact)


def test_the_fused_multiply_add_equals_exact_arithmetic_at_random_scales():
    rng = np.random.default_rng(0)
    x = (rng.random(2000) * 2.0 ** rng.integers(-40, 0, 2000)).astype(F32)
    y = rng.integers(0, 256, 2000).astype(np.float64)
    z = (rng.random(2000) * 2.0 ** rng.integers(-20, 8, 2000)).astype(F32)
    got = _fma32(*(torch.from_numpy(v.copy()) for v in (x, y, z)), torch.ones(2000, dtype=torch.bool))
    exact = (Fraction(float(a)) * int(b) + Fraction(float(c)) for a, b, c in zip(x, y, z, strict=True))
    assert got.tolist() == [round_to_float32(value) for value in exact]


def test_a_static_scene_scores_one():
    this, _, flow, _ = random_pair()
    result = fed(TemporalConsistency(5), this, this, np.zeros_like(flow)).compute()
    assert (result["mIoU"], result["mAcc"], result["allAcc"]) == (1.0, 1.0, 1.0)
    assert result["pixels"] == (this != 255).sum()


def test_a_constant_prediction_scores_one_whatever_the_flow():
    _, _, flow, backward = random_pair()
    labels = np.full(flow.shape[1:], 3, np.uint8)
    result = fed(TemporalConsistency(5), labels, labels, flow, backward).compute()
    assert result["mIoU"] == 1.0
    assert result["iou"][3] == 1.0
    assert all(math.isnan(result["iou"][k]) for k in (0, 1, 2, 4))


def test_renaming_the_classes_leaves_strict_alone_and_changes_published():
    this, following, flow, backward = random_pair(24, 32)
    renamed = np.full(256, 255, np.uint8)
    renamed[:5] = [3, 0, 4, 1, 2]
    for protocol, unchanged in (("strict", True), ("published", False)):
        before = fed(TemporalConsistency(5, protocol), this, following, flow, backward).compute()
        after = fed(TemporalConsistency(5, protocol), renamed[this], renamed[following], flow, backward).compute()
        assert (before["mIoU"] == pytest.approx(after["mIoU"], abs=1e-12)) is unchanged


def brute_band(ids, reach):
    height, width = ids.shape
    band = np.zeros(ids.shape, bool)
    for y in range(height):
        for x in range(width):
            window = ids[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            band[y, x] = len(np.unique(window[(window != 255) & (window != -1)])) > 1
    return band


@pytest.mark.parametrize(("share", "reach"), [(0.0001, 1), (0.05, 1), (0.1, 3), (0.2, 6), (1.0, 28)])
def test_the_boundary_band_counts_only_pixels_near_another_class(share, reach):
    this = np.zeros((16, 23), np.uint8)
    this[4:9, 5:7], this[12, 20:], this[0, :3] = 2, 1, 255
    following = np.roll(this, 1, 1)
    flow = np.zeros((2, 16, 23), F32)
    flow[0] = 1.0
    flow[:, 14:] = 9.0
    warped = loop_warp_nearest(following, flow)
    assert reach == max(1, round(share * math.hypot(16, 23)))
    inside = brute_band(this, reach) | brute_band(warped, reach)
    expected = loop_counts(np.where(inside, warped, -1), this, 3)
    assert torch.equal(fed(TemporalConsistency(3, boundary_band=share), this, following, flow).counts, expected)


@pytest.mark.parametrize("classes", [254, 255])
def test_the_boundary_band_works_up_to_the_largest_number_of_classes(classes):
    this = np.zeros((4, 12), np.uint8)
    this[:, 6:] = classes - 1
    meter = fed(TemporalConsistency(classes, boundary_band=0.01), this, this, np.zeros((2, 4, 12), F32))
    assert meter.compute()["pixels"] == 8
    assert meter.counts[classes - 1, classes - 1] == 4


@pytest.mark.parametrize("settings", [{}, {"protocol": "published"}, {"boundary_band": 0.1}])
def test_merging_two_halves_equals_one_run(settings):
    pairs = [random_pair(seed=s) for s in range(4)]
    whole, left, right = (TemporalConsistency(5, **settings) for _ in range(3))
    for pair in pairs:
        whole.update(*pair)
    for meter, half in ((left, pairs[:1]), (right, pairs[1:])):
        for pair in half:
            meter.update(*pair)
    assert left.merge(right) is left
    assert torch.equal(left.counts, whole.counts)
    assert left.counts.dtype == torch.int64


@pytest.mark.parametrize("settings", [{}, {"protocol": "published"}, {"boundary_band": 0.1}])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_batch_equals_its_pairs_one_by_one(settings, as_tensor):
    pairs = [random_pair(seed=s) for s in range(3)]
    single, batched = TemporalConsistency(5, **settings), TemporalConsistency(5, **settings)
    for pair in pairs:
        single.update(*pair)
    batch = [np.stack(part) for part in zip(*pairs, strict=True)]
    batched.update(*(torch.from_numpy(part) for part in batch) if as_tensor else batch)
    assert torch.equal(single.counts, batched.counts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", [{}, {"protocol": "published"}, {"boundary_band": 0.1}])
def test_a_gpu_counts_as_the_cpu_does(settings):
    parts = [torch.from_numpy(part) for part in random_pair(40, 60)]
    expected = fed(TemporalConsistency(5, **settings), *parts).counts
    assert torch.equal(fed(TemporalConsistency(5, **settings), *(part.cuda() for part in parts)).counts, expected)


def test_tensors_arrays_and_other_dtypes_give_the_same_counts():
    pair = random_pair(seed=6)
    expected = fed(TemporalConsistency(5), *pair).counts
    labels = [torch.from_numpy(p.astype(np.int64)) for p in pair[:2]]
    flows = [torch.from_numpy(p).double().transpose(1, 2).contiguous().transpose(1, 2) for p in pair[2:]]
    assert torch.equal(fed(TemporalConsistency(5), *labels, *flows).counts, expected)
    assert torch.equal(
        fed(TemporalConsistency(5), *(p[::-1].astype(">i4")[::-1] for p in pair[:2]), *pair[2:]).counts,
        expected,
    )


@pytest.mark.parametrize("settings", [{}, {"protocol": "published"}, {"boundary_band": 0.1}])
def test_update_leaves_its_inputs_as_they_were(settings):
    arrays = [*random_pair(), np.ones((9, 13), bool)]
    for parts in (arrays, [torch.from_numpy(part) for part in arrays]):
        kept = copy.deepcopy(parts)
        fed(TemporalConsistency(5, **settings), *parts)
        assert all((a == b).all() for a, b in zip(parts, kept, strict=True))


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_are_accepted_without_a_warning():
    parts = [*random_pair(), np.ones((9, 13), bool)]
    expected = fed(TemporalConsistency(5), *parts).counts
    for part in parts:
        part.flags.writeable = False
    assert torch.equal(fed(TemporalConsistency(5), *parts).counts, expected)


def with_part(index, value):
    parts = [torch.from_numpy(part) for part in random_pair(4, 5)]
    parts.append(torch.ones(4, 5, dtype=torch.bool))
    parts[index] = value
    return parts


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, torch.zeros(20, dtype=torch.uint8), r"pred_t must be \[\.\.\., H, W\], got \[20\]"),
        (0, torch.zeros(0, 5, dtype=torch.uint8), r"pred_t must be .*\[0, 5\]"),
        (0, torch.zeros(4, 5), "pred_t must hold integers"),
        (0, torch.full((4, 5), 5, dtype=torch.uint8), "pred_t holds id 5: expected 0..4, or 255"),
        (1, torch.full((4, 5), -1), "pred_next holds id -1"),
        (1, torch.full((4, 5), 300), "pred_next holds id 300"),
        (1, torch.zeros(5, 4, dtype=torch.uint8), r"pred_next is \[1, 5, 4\].*\[1, 4, 5\]"),
        (2, torch.zeros(2, 4, 6), r"flow is \[2, 4, 6\].*\[1, 2, 4, 5\]"),
        (2, torch.zeros(3, 2, 4, 5), r"flow is \[3, 2, 4, 5\].*\[1, 2, 4, 5\]"),
        (2, torch.zeros(2, 4, 5, dtype=torch.int32), "flow must hold floats"),
        (2, torch.full((2, 4, 5), math.nan), "flow holds NaN"),
        (3, torch.full((2, 4, 5), math.inf), "backward_flow holds NaN or infinite"),
        (3, torch.zeros(4, 5, 2), r"backward_flow is \[4, 5, 2\]"),
        (4, torch.ones(5, 4, dtype=torch.bool), r"valid is \[5, 4\].*\[1, 4, 5\]"),
        (4, torch.ones(4, 5), "valid must be bool"),
    ],
)
def test_wrong_input_is_refused_with_the_reason_and_counts_nothing(index, value, message):
    meter = TemporalConsistency(5)
    with pytest.raises(ValueError, match=message):
        meter.update(*with_part(index, value))
    assert meter.counts.sum() == 0


def test_published_refuses_ids_that_no_byte_holds():
    with pytest.raises(ValueError, match="pred_t holds id 256"):
        fed(TemporalConsistency(5, "published"), *with_part(0, torch.full((4, 5), 256)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1..255"),
        ({"num_classes": 256}, "num_classes must be 1..255"),
        ({"num_classes": 5, "protocol": "loose"}, "strict, published"),
        ({"num_classes": 5, "boundary_band": 0.0}, "boundary_band 0.0"),
        ({"num_classes": 5, "protocol": "published", "boundary_band": 0.1}, "strict protocol"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TemporalConsistency(**settings)


@pytest.mark.parametrize(
    "other",
    [TemporalConsistency(6), TemporalConsistency(5, "published"), TemporalConsistency(5, boundary_band=0.1)],
)
def test_meters_of_different_things_do_not_merge(other):
    with pytest.raises(ValueError, match="cannot merge"):
        TemporalConsistency(5).merge(other)


def test_a_pair_without_common_pixels_scores_nan():
    empty = np.full((3, 4), 255, np.uint8)
    result = fed(TemporalConsistency(5), empty, empty, np.zeros((2, 3, 4), F32)).compute()
    assert result["pixels"] == 0
    assert math.isnan(result["mIoU"])


def test_the_hand_labels_of_the_camvid_clip_score_as_known(real_data):
    """The ground-truth TC under DIS flow: 0.883 where sources outside the frame are clamped into it."""
    frames = sorted((real_data / "camvid/val").glob("*.png"))
    grays = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in frames]
    paths = [real_data / "camvid/valannot" / path.name for path in frames]
    labels = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths]
    labels = [np.where(label == 11, np.uint8(255), label) for label in labels]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = grays[0].shape
    pixels = np.stack(np.meshgrid(np.arange(width, dtype=F32), np.arange(height, dtype=F32)))
    last = np.array([width - 1, height - 1], F32)[:, None, None]
    clamped, strict, reference = (
        TemporalConsistency(11),
        TemporalConsistency(11),
        np.zeros((11, 11), np.int64),
    )
    for i in range(len(frames) - 1):
        flow = dis.calc(grays[i], grays[i + 1], None).transpose(2, 0, 1)
        strict.update(labels[i], labels[i + 1], flow)
        clamped.update(labels[i], labels[i + 1], np.clip(pixels + flow, 0, last) - pixels)
        warped = cv2.remap(labels[i + 1], *(pixels + flow), cv2.INTER_NEAREST, borderValue=255)
        both = (warped != 255) & (labels[i] != 255)
        np.add.at(reference, (warped[both], labels[i][both]), 1)
    assert len(frames) == 101
    assert clamped.compute()["mIoU"] == pytest.approx(0.883, abs=0.001)
    assert strict.compute()["mIoU"] == pytest.approx(0.889, abs=0.001)
    difference = np.abs(strict.counts.numpy() - reference).sum()
    assert difference < 1e-4 * reference.sum()  # OpenCV rounds positions its own way


def test_flow_that_learns_counts_as_flow_that_does_not():
    ids = np.random.default_rng(0).integers(0, 3, (12, 16)).astype(np.uint8)
    flow, backward = torch.zeros(2, 2, 12, 16)
    one, other = TemporalConsistency(3), TemporalConsistency(3)
    one.update(ids, ids, flow, backward)
    other.update(ids, ids, flow.clone().requires_grad_(), backward.clone().requires_grad_())
    assert torch.equal(one.counts, other.counts)
