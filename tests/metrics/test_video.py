"""Video consistency and flicker rate against loops over windows and paths."""

import math

import numpy as np
import pytest
import torch

from etc.metrics import FlickerRate, VideoConsistency
from etc.metrics.protocols import FlowFreeConsistency, VspwVideoConsistency


def random_clip(frames=12, height=7, width=9, classes=3, seed=0, change=0.08):
    """Predictions and truth in which a pixel keeps its label for some frames; some truth is unlabelled."""
    rng = np.random.default_rng(seed)

    def changing(clip, share):
        for t in range(1, frames):
            fresh = rng.random((height, width)) < share
            clip[t] = np.where(fresh, rng.integers(0, classes, (height, width)), clip[t - 1])
        return clip

    targets = changing(rng.integers(0, classes, (frames, height, width)), change)
    preds = np.where(rng.random(targets.shape) < change, rng.integers(0, classes, targets.shape), targets)
    targets[rng.random(targets.shape) < 0.02] = 255
    return preds.astype(np.uint8), targets.astype(np.uint8)


def window_shares(preds, targets, window, definition):
    """The share of each window that has a pixel of constant truth, by comparing all its frames."""
    shares = []
    for start in range(len(preds) - window + (definition == "correct")):
        pred, target = preds[start : start + window], targets[start : start + window]
        counted = (target == target[0]).all(0) & (target != 255).all(0)
        wanted = (pred == pred[0]).all(0) if definition == "vspw" else (pred == target).all(0)
        if counted.any():
            shares.append((counted & wanted).sum() / counted.sum())
    return shares


def vc(clips, window, definition, classes=3):
    meter = VideoConsistency(classes, window, definition)
    for clip in clips:
        meter.update(*clip)
    return meter


@pytest.mark.parametrize("definition", ["vspw", "correct"])
@pytest.mark.parametrize("window", [2, 5, 8])
def test_video_consistency_equals_the_loop_over_windows_of_all_clips(window, definition):
    clips = [random_clip(seed=1), random_clip(9, seed=2), random_clip(20, seed=3)]
    shares = [share for clip in clips for share in window_shares(*clip, window, definition)]
    assert 0.1 < np.mean(shares) < 0.95
    assert vc(clips, window, definition).compute() == pytest.approx(np.mean(shares), abs=1e-10)


def test_a_wrong_but_steady_prediction_is_consistent_and_not_correct():
    targets = np.zeros((6, 2, 2), np.uint8)
    preds = np.ones((6, 2, 2), np.uint8)
    assert vc([(preds, targets)], 4, "vspw").compute() == 1.0
    assert vc([(preds, targets)], 4, "correct").compute() == 0.0


def test_only_the_correct_definition_uses_the_last_window():
    targets = np.zeros((5, 1, 1), np.uint8)
    preds = targets.copy()
    preds[4] = 1  # spoils the last of the two windows of 4
    assert vc([(preds, targets)], 4, "vspw").compute() == 1.0
    assert vc([(preds, targets)], 4, "correct").compute() == 0.5


@pytest.mark.parametrize(("frames", "definition"), [(4, "vspw"), (3, "correct"), (0, "vspw"), (1, "correct")])
def test_a_clip_that_is_too_short_adds_no_window(frames, definition):
    clip = np.zeros((frames, 2, 2), np.uint8)
    assert math.isnan(vc([(clip, clip)], 4, definition).compute())


def test_a_window_without_constant_truth_is_left_out():
    changing = np.arange(6, dtype=np.uint8).reshape(6, 1, 1) % 2
    steady = np.zeros((6, 1, 1), np.uint8)
    assert math.isnan(vc([(steady, changing)], 3, "vspw").compute())
    assert vc([(steady, changing), (steady, steady)], 3, "vspw").compute() == 1.0


def test_unlabelled_pixels_are_not_counted():
    targets = np.zeros((5, 1, 2), np.uint8)
    targets[:, 0, 1] = 255
    preds = targets.copy()
    preds[2, 0, 1] = 1
    assert vc([(preds, targets)], 3, "vspw").compute() == 1.0
    assert vc([(preds, targets)], 3, "correct").compute() == 1.0


def test_a_prediction_without_a_class_is_not_consistent():
    targets, preds = np.zeros((5, 1, 1), np.uint8), np.full((5, 1, 1), 255, np.uint8)
    assert vc([(preds, targets)], 3, "vspw").compute() == 0.0


def test_video_consistency_does_not_depend_on_the_split_or_on_the_order():
    clips = [random_clip(seed=s) for s in range(5)]
    whole = vc(clips, 5, "vspw")
    left, right = vc(clips[:1:-1], 5, "vspw"), vc(clips[1::-1], 5, "vspw")
    assert torch.equal(left.merge(right).counts, whole.counts)


def test_video_consistency_of_tensors_equals_that_of_arrays():
    clip = random_clip()
    tensors = [torch.from_numpy(part.astype(np.int32)) for part in clip]
    assert torch.equal(vc([tensors], 5, "vspw").counts, vc([clip], 5, "vspw").counts)


@pytest.mark.parametrize("window", [0, 1, 255])
def test_an_impossible_window_is_refused(window):
    with pytest.raises(ValueError, match=f"window must be 2..254 frames, got {window}"):
        VideoConsistency(3, window)


@pytest.mark.parametrize(
    "metric",
    [VideoConsistency(3, 2), VspwVideoConsistency(3, 2), FlowFreeConsistency(3)],
    ids=lambda m: type(m).__name__,
)
def test_a_batch_of_clips_is_not_taken_for_one_long_clip(metric):
    clips = np.zeros((2, 4, 5, 6), np.uint8)
    with pytest.raises(ValueError, match=r"preds must be one clip \[T, H, W\], got \[2, 4, 5, 6\]"):
        metric.update(clips, clips)


def test_an_unknown_definition_is_refused():
    with pytest.raises(ValueError, match="vspw, correct"):
        VideoConsistency(3, 8, "loose")


def test_clips_of_different_size_and_illegal_ids_are_refused():
    clip = np.zeros((5, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"targets is \[4, 2, 2\].*\[5, 2, 2\]"):
        VideoConsistency(3, 2).update(clip, clip[:4])
    with pytest.raises(ValueError, match="preds holds id 3"):
        VideoConsistency(3, 2).update(clip + 3, clip)


def test_video_consistencies_of_different_windows_do_not_merge():
    with pytest.raises(ValueError, match="window is 8 here and 16 there"):
        VideoConsistency(3, 8).merge(VideoConsistency(3, 16))


def bilinear(field, x, y):
    """Field ``[2, H, W]`` at (x, y), borders clamped, in float64."""
    height, width = field.shape[1:]
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = math.floor(x), math.floor(y)
    right, bottom, a, b = min(left + 1, width - 1), min(top + 1, height - 1), x - left, y - top
    upper = (1 - a) * field[:, top, left] + a * field[:, top, right]
    lower = (1 - a) * field[:, bottom, left] + a * field[:, bottom, right]
    return (1 - b) * upper + b * lower


def loop_flicker(maps, flows, backwards=(None, None), valid=None):
    """[flickering, counted] by following each pixel."""
    height, width = maps[0].shape
    flicker = counted = 0
    for y in range(height):
        for x in range(width):
            position, labels = np.array([x, y], float), [int(maps[0][y, x])]
            for ids, flow, backward in zip(maps[1:], flows, backwards, strict=True):
                step = bilinear(flow.astype(float), *position)
                position = position + step
                near_edge = np.abs(position - np.floor(position) - 0.5).min()
                assert near_edge > 1e-5, "rounds differently in float32: choose another seed"
                column, row = np.floor(position + 0.5).astype(int)
                inside = 0 <= column < width and 0 <= row < height
                labels.append(int(ids[row, column]) if inside else 255)
                if backward is not None:
                    back = bilinear(backward.astype(float), *position)
                    gap, size = ((step + back) ** 2).sum(), (step**2).sum() + (back**2).sum()
                    if gap > 0.01 * size + 0.5:
                        labels[-1] = 255
            if 255 in labels or (valid is not None and not valid[y, x]):
                continue
            counted += 1
            flicker += labels[0] == labels[2] != labels[1]
    return [flicker, counted]


def random_triple(seed=0, height=11, width=14, classes=3):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, classes, (3, height, width)).astype(np.uint8)
    maps[rng.random(maps.shape) < 0.03] = 255
    y, x = np.mgrid[:height, :width]
    smooth = [[np.sin(phase + x / 23 + y / 17) for phase in rng.uniform(0, 6, 2)] for _ in range(2)]
    flows = (1.7 * np.array(smooth) + rng.normal(0, 0.1, (2, 2, height, width))).astype(np.float32)
    backwards = (-flows + rng.normal(0, 0.5, flows.shape)).astype(np.float32)
    return list(maps), list(flows), list(backwards)


@pytest.mark.parametrize("steps_checked", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("with_valid", [False, True])
def test_flicker_counts_equal_the_loop_over_paths(with_valid, steps_checked):
    maps, flows, backwards = random_triple(seed=4)
    backwards = [back if i in steps_checked else None for i, back in enumerate(backwards)]
    valid = np.random.default_rng(1).random(maps[0].shape) < 0.7 if with_valid else None
    expected = loop_flicker(maps, flows, backwards, valid)
    meter = FlickerRate()
    meter.update(*maps, *flows, *backwards, valid)
    assert meter.counts.tolist() == expected
    assert 5 < expected[0] < expected[1] < maps[0].size


def test_a_label_that_comes_back_flickers_and_one_that_changes_does_not():
    a, b = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    still = np.zeros((2, 2, 2), np.float32)
    for triple, rate in (((a, b, a), 1.0), ((a, b, b), 0.0), ((a, a, a), 0.0), ((a, b, b + 1), 0.0)):
        meter = FlickerRate()
        meter.update(*triple, still, still)
        assert meter.compute() == rate


def test_a_moving_object_does_not_flicker_when_it_is_followed():
    frames = []
    for t in range(3):
        frame = np.zeros((5, 12), np.uint8)
        frame[:, 2 + 2 * t : 4 + 2 * t] = 1
        frames.append(frame)
    flow = np.zeros((2, 5, 12), np.float32)
    flow[0] = 2.0
    followed, in_place = FlickerRate(), FlickerRate()
    followed.update(*frames, flow, flow)
    in_place.update(*frames, np.zeros_like(flow), np.zeros_like(flow))
    assert followed.counts.tolist() == [0, 5 * 8]  # the last four columns leave the frame
    assert in_place.compute() == 2 / 12  # background that the object crosses


def test_flicker_of_a_batch_and_of_merged_halves_equals_one_by_one():
    triples = [random_triple(seed) for seed in range(3)]
    single, left, right, batched = (FlickerRate() for _ in range(4))
    for i, (maps, flows, backwards) in enumerate(triples):
        single.update(*maps, *flows, *backwards)
        (left if i else right).update(*maps, *flows, *backwards)
    parts = [list(zip(*part, strict=True)) for part in zip(*triples, strict=True)]
    batched.update(*(torch.from_numpy(np.stack(stack)) for part in parts for stack in part))
    assert torch.equal(batched.counts, single.counts)
    assert torch.equal(left.merge(right).counts, single.counts)


def test_without_a_counted_pixel_the_flicker_rate_is_nan():
    empty = np.full((2, 2), 255, np.uint8)
    meter = FlickerRate()
    meter.update(empty, empty, empty, np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.float32))
    assert math.isnan(meter.compute())


def test_flows_of_another_size_are_refused_with_the_name_of_the_flow():
    maps, flows, _ = random_triple()
    with pytest.raises(ValueError, match=r"flow_bc is \[2, 11, 13\]"):
        FlickerRate().update(*maps, flows[0], flows[1][..., :-1])
