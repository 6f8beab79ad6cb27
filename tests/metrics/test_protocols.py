"""The protocols of other publications against scalar loops, and against torchmetrics where it computes the same."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from etc.metrics import (
    FlowFreeConsistency,
    MajorityAgreement,
    PerPairConsistency,
    VideoConsistency,
    VspwTemporalConsistency,
    VspwVideoConsistency,
    iou_counts,
    iou_scores,
    mean_iou,
)
from etc.metrics.protocols import mean_of_clips, warp_vspw

CLASSES = 5


def random_frames(frames=2, height=8, width=13, seed=0, ignored=0.05, classes=CLASSES):
    """Label maps that change in a third of their pixels, and a flow between them that reaches out of the frame."""
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, classes, (height, width))]
    for _ in range(frames - 1):
        maps.append(np.where(rng.random((height, width)) < 0.3, rng.integers(0, classes, (height, width)), maps[-1]))
    maps = np.stack(maps).astype(np.uint8)
    maps[rng.random(maps.shape) < ignored] = 255
    return maps, rng.normal(0, 1.5, (frames - 1, 2, height, width)).astype(np.float32)


def read_by_vspw(position: float, size: int) -> int | None:
    """The pixel that the script reads for a position on an axis; ``None`` outside of it."""
    read = position * size / (size - 1) - 0.5
    assert abs(read - math.floor(read) - 0.5) > 1e-4, "too near a tie for a verdict in float32: choose another seed"
    nearest = math.floor(read + 0.5)
    return nearest if 0 <= nearest < size else None


def loop_warp_vspw(ids, flow):
    warped = np.zeros_like(ids)
    for y, x in np.ndindex(ids.shape):
        column, row = (
            read_by_vspw(x + float(flow[0, y, x]), ids.shape[1]),
            read_by_vspw(y + float(flow[1, y, x]), ids.shape[0]),
        )
        if column is not None and row is not None:
            warped[y, x] = ids[row, column]
    return warped


def loop_counts(rows, columns, classes=CLASSES):
    counts = np.zeros((classes, classes), np.int64)
    for a, b in zip(rows.flatten().tolist(), columns.flatten().tolist(), strict=True):
        if a < classes and b < classes:
            counts[a, b] += 1
    return counts


def loop_iou(counts, k):
    return counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k])


def warped_pairs(seeds):
    for seed in seeds:
        (this, following), (flow,) = random_frames(seed=seed)
        yield this, following, flow, loop_warp_vspw(following, flow)


@pytest.mark.parametrize("seed", range(3))
def test_the_warp_of_vspw_equals_the_scalar_loop(seed):
    (_, ids), (flow,) = random_frames(seed=seed)
    expected = loop_warp_vspw(ids, flow)
    assert 0.05 < (expected == 0).mean() < 0.8
    assert np.array_equal(warp_vspw(torch.from_numpy(ids), torch.from_numpy(flow)).numpy(), expected)


@pytest.mark.parametrize(("height", "width"), [(6, 9), (5, 8), (1, 1)])
def test_without_motion_the_warp_of_vspw_loses_the_last_line_of_an_even_side_alone(height, width):
    ids = torch.full((height, width), 3, dtype=torch.uint8)
    expected = ids.clone()
    if height % 2 == 0:
        expected[-1] = 0
    if width % 2 == 0:
        expected[:, -1] = 0
    assert torch.equal(warp_vspw(ids, torch.zeros(2, height, width)), expected)


def test_tc_of_vspw_is_the_pooled_iou_over_the_classes_of_frame_t():
    meter, expected = VspwTemporalConsistency(CLASSES), np.zeros((CLASSES, CLASSES), np.int64)
    for this, following, flow, warped in warped_pairs(range(3)):
        this = np.where(this == 4, 1, this)  # class 4 in the next frame alone
        meter.update(this, following, flow)
        expected += loop_counts(this, warped)
    assert np.array_equal(meter.counts.numpy(), expected)
    assert not expected[4].any() and expected[:, 4].any()
    scores, wanted = meter.compute(), np.mean([loop_iou(expected, k) for k in range(4)])
    assert scores["mIoU"] == pytest.approx(wanted, abs=1e-12) and scores["mIoU_classes"] == 4
    assert math.isnan(scores["iou"][4])
    assert mean_iou(iou_counts(meter.counts).numpy(), "target") == pytest.approx(wanted, abs=1e-12)
    assert iou_scores(expected)["mIoU"] < wanted  # the mean over classes that occur has one more, whose IoU is 0


def test_what_lies_outside_counts_as_class_0_in_tc_of_vspw():
    ids, flow = np.full((3, 5), 2, np.uint8), np.full((2, 3, 5), 100, np.float32)
    meter = VspwTemporalConsistency(3)
    meter.update(ids, ids, flow, valid=np.zeros((3, 5), bool))
    assert meter.counts.tolist() == [[0, 0, 0], [0, 0, 0], [15, 0, 0]]


def test_per_pair_consistency_is_the_mean_over_pairs_of_the_jaccard_index_of_torchmetrics():
    meter, shares = PerPairConsistency(CLASSES), []
    for this, following, flow, warped in warped_pairs(range(4)):
        meter.update(this, following, flow)
        present = [k for k in range(CLASSES) if loop_counts(this, warped)[[k]].any() or (warped == k).any()]
        shares.append(np.mean([loop_iou(loop_counts(this, warped), k) for k in present]))
        kept = (this < CLASSES) & (warped < CLASSES)
        found = [torch.from_numpy(ids[kept].astype(np.int64)) for ids in (warped, this)]
        assert float(multiclass_jaccard_index(*found, CLASSES, "macro")) == pytest.approx(shares[-1], abs=1e-6)
    assert len(set(shares)) == 4
    assert meter.compute() == pytest.approx(np.mean(shares), abs=1e-11)


def test_a_batch_of_pairs_counts_as_its_pairs_one_by_one():
    pairs = list(warped_pairs(range(3)))
    for build in (VspwTemporalConsistency, PerPairConsistency):
        together, apart = build(CLASSES), build(CLASSES)
        together.update(*(np.stack([pair[i] for pair in pairs]) for i in range(3)))
        for pair in pairs:
            apart.update(*pair[:3])
        assert torch.equal(together.counts, apart.counts)


def test_the_mean_of_clips_gives_a_long_clip_the_weight_of_a_short_one():
    long, short, empty = (PerPairConsistency(CLASSES) for _ in range(3))
    for this, following, flow, _ in warped_pairs(range(4)):
        long.update(this, following, flow)
    still = np.full((3, 5), 1, np.uint8)
    short.update(still, still, np.zeros((2, 3, 5), np.float32))
    pooled = PerPairConsistency(CLASSES)
    pooled.counts += mean_of_clips(torch.stack([long.counts, short.counts, empty.counts])).sum(0)
    assert long.compute() < 0.5 and short.compute() == 1
    assert pooled.compute() == pytest.approx((long.compute() + 1) / 2, abs=1e-11)


@pytest.mark.parametrize("seed", range(2))
def test_agreement_with_the_majority_equals_the_votes_pixel_by_pixel(seed):
    maps, flows = random_frames(5, seed=seed)
    meter = MajorityAgreement(CLASSES)
    meter.update(maps, flows)
    aligned = [loop_warp_vspw(maps[j], flow) for j, flow in zip((0, 1, 3, 4), flows, strict=True)]
    agreeing = labels = 0
    for y, x in np.ndindex(maps[2].shape):
        votes = [int(maps[2, y, x]), *(int(warped[y, x]) for warped in aligned)]
        if 255 not in votes:
            agreeing += Counter(votes).most_common(1)[0][1]
            labels += 5
    assert meter.counts.tolist() == [agreeing, labels] and 0 < labels < 5 * maps[2].size
    assert 0.2 < meter.compute() == agreeing / labels < 1


def test_another_number_of_frames_than_five_has_no_majority():
    maps, flows = random_frames(4)
    with pytest.raises(ValueError, match="preds holds 4 frames, expected 5"):
        MajorityAgreement(CLASSES).update(maps, flows)


def test_flow_free_consistency_is_the_mean_over_pairs_of_what_stays_where_the_label_stays():
    preds, _ = random_frames(6, seed=1, ignored=0)
    labels, _ = random_frames(6, seed=2)
    labels[3] = 255  # two pairs without a pixel
    shares = []
    for (p, label), (q, following) in pairwise(zip(preds, labels, strict=True)):
        stays = [at for at in np.ndindex(p.shape) if label[at] == following[at] != 255]
        if stays:
            shares.append(1 - sum(p[at] != q[at] for at in stays) / len(stays))
    meter = FlowFreeConsistency(CLASSES)
    meter.update(preds, labels)
    assert len(set(shares)) == 3
    assert meter.compute() == pytest.approx(np.mean(shares), abs=1e-11)


def loop_vc_of_the_script(preds, targets, window):
    """Every label is compared as it stands, 255 too; windows start at 0..T-n-1."""
    shares = []
    for start in range(len(preds) - window):
        counted = kept = 0
        for y, x in np.ndindex(preds[0].shape):
            if len(set(targets[start : start + window, y, x].tolist())) == 1:
                counted += 1
                kept += len(set(preds[start : start + window, y, x].tolist())) == 1
        if counted:
            shares.append(kept / counted)
    return float(np.mean(shares))


@pytest.mark.parametrize("window", [2, 3])
def test_vc_of_the_vspw_script_counts_unlabelled_pixels(window):
    preds, _ = random_frames(7, seed=3)
    targets, _ = random_frames(7, seed=4)
    targets[:, :3], preds[:, :2] = 255, 255
    meter, usual = VspwVideoConsistency(CLASSES, window), VideoConsistency(CLASSES, window, "vspw")
    meter.update(preds, targets)
    usual.update(preds, targets)
    assert meter.compute() == pytest.approx(loop_vc_of_the_script(preds, targets, window), abs=1e-11)
    assert meter.compute() > usual.compute()


@pytest.mark.parametrize("build", [VspwTemporalConsistency, PerPairConsistency, MajorityAgreement, FlowFreeConsistency])
def test_what_is_merged_counts_as_if_added_and_other_classes_are_refused(build):
    one, other = build(CLASSES), build(CLASSES)
    one.counts += 3
    other.counts += 4
    assert (one.merge(other).counts == 7).all()
    with pytest.raises(ValueError, match="num_classes is 5 here and 4 there"):
        one.merge(build(4))


@pytest.mark.parametrize("build", [VspwTemporalConsistency, PerPairConsistency, MajorityAgreement, FlowFreeConsistency])
def test_counts_lie_on_the_cpu_whatever_the_default_device_is(build):
    with torch.device("meta"):
        assert build(CLASSES).counts.device.type == "cpu"


@pytest.mark.parametrize("build", [PerPairConsistency, MajorityAgreement, FlowFreeConsistency])
def test_without_a_pixel_there_is_no_figure(build):
    assert math.isnan(build(CLASSES).compute())
