"""Scoring of clips on disk: anchors with a known result, sharing between processes, refused input."""

import json
import math
import os
import subprocess
import sys
import weakref
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from etc.config import load_settings
from etc.data.images import read_image, write_png
from etc.data.labels import label_table, read_train_ids
from etc.data.lists import prediction_names
from etc.data.sources import clips_to_score
from etc.errors import UserError
from etc.evaluate.clip_metrics import ClipScorer, LabelledChunks, PairScorer, ScoredFrame, dequantise_flow
from etc.evaluate.clips import score_clips, segment_ends
from etc.evaluate.metric_list import METRICS
from etc.evaluate.tables import clip_table
from etc.flow.pair_flow import PairFlow
from etc.metrics import TemporalConsistency, VideoConsistency

REPOSITORY = Path(__file__).resolve().parents[2]


def write_predictions(settings, predict) -> None:
    """Write ``predict(frame, label path or None) -> ids`` for every frame of the clips."""
    frames = [frame for clip in clips_to_score(settings) for frame in clip]
    folder = Path(settings.TEST.save_folder) / "video/gray"
    for frame, name in zip(frames, prediction_names(frames), strict=True):
        write_png(folder / f"{name}.png", predict(frame))


def hand_labels(settings):
    data = settings.DATA
    table = label_table(data.label_map, data.classes, settings.TRAIN.ignore_label)
    return lambda frame: read_train_ids(Path(data.data_root) / frame.label, table)


def test_the_ground_truth_of_the_synthetic_world_is_consistent_under_its_exact_flow(tiny_training):
    settings = load_settings(None, tiny_training)
    write_predictions(settings, hand_labels(settings))
    scores = score_clips(settings).first
    results = scores.results
    assert results["strict"]["mIoU"] >= 0.995
    assert results["ground_truth"]["mIoU"] == pytest.approx(results["strict"]["mIoU"])
    assert results["segmentation"]["mIoU"] == 1
    assert results["vc8_correct"] == results["vc16_vspw"] == 1
    assert results["flicker"] < 0.001
    assert scores.coverage > 0.7
    low, high = scores.intervals["strict"]
    assert low <= results["strict"]["mIoU"] <= high


def test_a_constant_prediction_is_perfectly_consistent_and_useless(tiny_training):
    settings = load_settings(None, tiny_training)
    write_predictions(settings, lambda frame: np.full((64, 128), 8, np.uint8))
    results = score_clips(settings).first.results
    assert results["strict"]["mIoU"] == 1
    assert results["flicker"] == 0
    assert results["segmentation"]["mIoU"] < 0.1
    assert math.isnan(results["boundary"]["mIoU"])


def test_a_prediction_without_a_class_where_the_label_has_one_is_refused_by_name(tiny_training):
    settings = load_settings(None, tiny_training)
    truth = hand_labels(settings)

    def with_a_hole(frame):
        ids = truth(frame).copy()
        ids[ids == 0] = 255  # the road
        return ids

    write_predictions(settings, with_a_hole)
    with pytest.raises(UserError, match=r"\.png: \d+ pixels have no class \(255\) where .*labelIds\.png has one"):
        score_clips(settings)


@pytest.mark.slow
def test_hand_labels_of_the_camvid_clip_score_0889_without_occlusion_masking(real_data, tmp_path):
    """0.883 with sources outside the frame clamped into it (tests/test_metrics_consistency.py); strict drops them."""
    overrides = [
        f"DATA.data_root={real_data}/camvid",
        f"TEST.save_folder={tmp_path}/result",
        f"FLOW.cache={tmp_path}/flow",
        "FLOW.occlusion=false",
        *(f"DATA.{key}={REPOSITORY}/data/{path}" for key, path in CAMVID_FILES.items()),
    ]
    settings = load_settings(REPOSITORY / "configs/camvid/pspnet18_flow.yaml", overrides)
    write_predictions(settings, hand_labels(settings))
    results = score_clips(settings).first.results
    assert results["strict"]["mIoU"] == pytest.approx(0.889, abs=0.001)


CAMVID_FILES = {"clip_list": "lists/camvid/val_clips.lst", "names_path": "palettes/camvid_names.txt"}


@pytest.mark.slow
def test_flow_is_computed_once_and_two_processes_count_the_same(tiny_training, tmp_path):
    overrides = [*tiny_training, "FLOW.evaluate_with=[dis@ultrafast]", "TEST.strides=[1, 3]"]
    settings = load_settings(None, overrides)
    noise = np.random.default_rng(0)
    write_predictions(settings, lambda frame: noise.integers(0, 19, (64, 128), dtype=np.uint8))
    alone = score_clips(settings)
    stored = sorted((tmp_path / "flow_store").rglob("*.b2flow"))
    times = [path.stat().st_mtime_ns for path in stored]
    assert len(stored) == 2 * (29 + 27) * 2  # two clips, 29 and 27 pairs, forward and backward
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command += [
        str(REPOSITORY / "tool/eval_tc.py"),
        *overrides,
    ]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shared = (tmp_path / "run/result/tc.json").read_text()
    alone.save(tmp_path / "alone")
    assert shared == (tmp_path / "alone/tc.json").read_text()
    assert len(json.loads(shared)["flow_settings"]) == 2
    assert [path.stat().st_mtime_ns for path in stored] == times


def test_video_consistency_in_chunks_equals_that_of_the_whole_clip():
    random = np.random.default_rng(0)
    labels = np.repeat(random.integers(0, 2, (20, 4, 5), dtype=np.uint8), 8, axis=0)
    predictions = np.where(random.random(labels.shape) < 0.03, 1 - labels, labels).astype(np.uint8)
    for window in (8, 16):
        for definition in ("vspw", "correct"):
            whole = VideoConsistency(2, window, definition)
            whole.update(predictions, labels)
            chunked = LabelledChunks(VideoConsistency(2, window, definition))
            for prediction, label in zip(predictions, labels, strict=True):
                chunked.add(ScoredFrame(Path("frame"), prediction, label))
            chunked.end()
            assert chunked.accumulator.counts.tolist() == whole.counts.tolist()
            assert whole.counts[1] > 100


def test_the_interval_of_a_single_clip_is_over_its_segments(tiny_training, tmp_path):
    """Each segment is what its frames, and the one before them, score as a clip of their own."""
    whole = Path(load_settings(None, tiny_training).DATA.clip_list).read_text().split("\n\n")[0].splitlines()

    def scores_of(lines: list[str]):
        (tmp_path / "clip.lst").write_text("\n".join(lines))
        settings = load_settings(None, [*tiny_training, f"DATA.clip_list={tmp_path}/clip.lst"])
        write_predictions(settings, noisy_labels(settings))
        return score_clips(settings)

    scores = scores_of(whole)
    assert len(whole) == 30 and scores.interval_parts == (6, "segments of the clip")
    parts = [scores_of(whole[max(0, start - 1) : start + 5]) for start in range(0, 30, 5)]
    for key in ("strict", "published"):
        np.testing.assert_array_equal(scores.clip_counts[key], [part.clip_counts[key].sum(0) for part in parts])
    assert scores.clip_counts["segmentation"][:, 1].sum(1).tolist() == pytest.approx([5 * 64 * 128] * 6, rel=0.2)
    figures = [part.first.results["pixel_consistency"] for part in parts]
    low, high = scores.first.intervals["pixel_consistency"]
    assert min(figures) <= low < scores.first.results["pixel_consistency"] < high <= max(figures)
    assert "95% over 6 segments of the clip" in clip_table(scores)
    scores.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/tc.json").read_text())["intervals_over"] == {
        "count": 6,
        "parts": "segments of the clip",
    }


@pytest.mark.parametrize(("frames", "ends"), [(9, []), (10, [5, 10]), (1000, [*range(100, 1001, 100)])])
def test_segments_of_a_clip(frames, ends):
    assert segment_ends(frames) == ends


def noisy_labels(settings):
    """The labels with noise that depends on the frame alone."""
    truth = hand_labels(settings)

    def predict(frame):
        noise = np.random.default_rng(int(Path(frame.image).stem.split("_")[2])).random((64, 128))
        return np.where(noise < 0.05, 11, truth(frame)).astype(np.uint8)

    return predict


@pytest.mark.parametrize("occlusion", [False, True])
@pytest.mark.parametrize("nothing", [-512.0, 1e10])  # as a KITTI file and as a .flo say it
def test_pixels_whose_flow_a_file_does_not_know_count_in_no_protocol(occlusion, nothing):
    frames = np.random.default_rng(1).integers(0, 3, (4, 20, 16)).astype(np.uint8)

    class HalfKnown(StillFlow):
        def with_validity(self, path_t, path_k, shape):
            known = np.arange(shape[0]) < 12
            flow = np.where(known[:, None], np.zeros((2, *shape), np.float32), np.float32(nothing))
            return flow, np.broadcast_to(known[:, None], shape)

        def checked(self, path_t, path_k, shape):
            flow, known = self.with_validity(path_t, path_k, shape)
            return PairFlow(flow, known, known)

    def counted(height: int) -> dict:
        scorer = PairScorer(3, HalfKnown(), occlusion=occlusion, protocols=["vspw", "per-pair"])
        for t, ids in enumerate(frames[:, :height]):
            scorer.add(ScoredFrame(Path(f"{t}.png"), ids, None))
        # The band of a boundary, and where per-pair samples, depend on the height.
        metrics = scorer.counts().metrics.items()
        return {key: counts.sum().item() for key, counts in metrics if key not in ("boundary", "tc_per_pair")}

    found = counted(20)
    assert found == counted(12) and found["strict"] == found["published"] == 3 * 12 * 16


def test_pixel_consistency_and_weighted_tc_equal_a_loop_over_pixels(tmp_path):
    """Nothing moves: every pixel of a frame is compared with the same pixel of the next one."""
    random = np.random.default_rng(0)
    frames = np.sort(random.integers(0, 4, (6, 40)), axis=1).reshape(6, 4, 10).astype(np.uint8)
    scorer = ClipScorer(5, [PairScorer(5, StillFlow(), occlusion=False)])
    for t, ids in enumerate(frames):
        scorer.add(ScoredFrame(Path(f"{t}.png"), ids, None))
    counts = scorer.counts(5).pairs[0].metrics["strict"]
    kept = counted = 0
    hits, either, later = Counter(), Counter(), Counter()
    for before, after in pairwise(frames.reshape(6, 40).tolist()):
        for a, b in zip(before, after, strict=True):
            counted += 1
            kept += a == b
            hits[a] += a == b
            later[b] += 1
            for k in {a, b}:
                either[k] += 1
    weighted = sum(later[k] / counted * hits[k] / either[k] for k in later)
    by_key = {metric.key: metric for metric in METRICS}
    assert by_key["pixel_consistency"].compute(5, counts) == kept / counted < 1
    assert by_key["frequency_weighted_tc"].compute(5, counts) == pytest.approx(weighted, abs=1e-12)


def test_missing_predictions_are_counted_and_named(tiny_training):
    settings = load_settings(None, tiny_training)
    write_predictions(settings, hand_labels(settings))
    first = sorted(Path(settings.TEST.save_folder, "video/gray").iterdir())[3]
    first.unlink()
    with pytest.raises(UserError, match=rf"1 of 60 predictions are missing, the first is .*{first.name}"):
        score_clips(settings)


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (np.zeros((32, 64), np.uint8), "64x32"),
        (np.full((64, 128), 19, np.uint8), "the value 19 outside the 19 classes"),
        (np.tile(np.uint8([128, 64, 0]), (64, 128, 1)), "a picture in colours: expected a label map"),
        (np.full((64, 128), 300, np.uint16), "the value 300 outside the 19 classes"),
    ],
)
def test_predictions_of_another_kind_are_refused(tiny_training, prediction, message):
    settings = load_settings(None, tiny_training)
    write_predictions(settings, lambda frame: prediction)
    with pytest.raises(UserError, match=message):
        score_clips(settings)
    assert not Path(settings.TEST.save_folder, "tc.json").exists()


def test_class_names_that_do_not_fit_are_told_before_flow_is_computed(tiny_training, tmp_path):
    (tmp_path / "names.txt").write_text("road\nsky\n")
    overrides = [*tiny_training, f"DATA.names_path={tmp_path}/names.txt", "FLOW.evaluate_with=[dis@ultrafast]"]
    settings = load_settings(None, overrides)
    write_predictions(settings, lambda frame: np.zeros((64, 128), np.uint8))
    with pytest.raises(UserError, match=r"names\.txt has 2 names, DATA\.classes is 19"):
        score_clips(settings)
    assert not (tmp_path / "flow_store").exists()


def test_a_stored_flow_of_another_size_is_refused(tiny_training, tiny_world, tmp_path):
    settings = load_settings(None, tiny_training)
    clip = clips_to_score(settings)[0][:2]
    frames = [tmp_path / "leftImg8bit" / Path(frame.image).name for frame in clip]
    for frame, path in zip(clip, frames, strict=True):
        write_png(path, read_image(tiny_world / frame.image)[:32, :64])
    flow = next((tiny_world / "flow/val").rglob(f"{frames[0].name.removesuffix('_leftImg8bit.png')}_to_*"))
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / flow.name).write_bytes(flow.read_bytes())
    (tmp_path / "clip.lst").write_text("\n".join(str(path.relative_to(tmp_path)) for path in frames))
    settings = load_settings(
        None,
        [
            f"DATA.data_root={tmp_path}",
            "DATA.synthetic=false",
            f"DATA.clip_list={tmp_path}/clip.lst",
            f"TEST.save_folder={tmp_path}",
        ],
    )
    write_predictions(settings, lambda frame: np.zeros((32, 64), np.uint8))
    with pytest.raises(UserError, match="flow is 128x64, its frames are 64x32"):
        score_clips(settings)


class StillFlow:
    """No motion, nothing hidden."""

    def with_validity(self, path_t, path_k, shape):
        return np.zeros((2, *shape), np.float32), None


def test_a_clip_of_any_length_keeps_the_same_number_of_frames():
    scorer = ClipScorer(3, [PairScorer(3, StillFlow(), occlusion=False, stride=stride) for stride in (1, 5)])
    kept, alive = [], []
    for number in range(400):
        prediction = np.zeros((4, 6), np.uint8)
        kept.append(weakref.ref(prediction))
        scorer.add(ScoredFrame(Path(f"{number}.png"), prediction, prediction.copy()))
        del prediction
        alive.append(sum(ref() is not None for ref in kept))
    assert max(alive[200:]) == max(alive[:200]) <= 80
    assert scorer.pairs[1].counts(400).totals.tolist() == [395 * 24, 395, 0]


def test_flow_that_leaves_every_frame_is_said(tiny_training, tmp_path, monkeypatch, caplog):
    source = "import numpy as np\n\nclass Away:\n    def estimate(self, a, b):\n"
    source += "        return np.full((len(a), 2, *a.shape[2:]), 500.0, np.float32)\n\ndef away():\n    return Away()\n"
    (tmp_path / "flow_away.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    settings = load_settings(None, [*tiny_training, "FLOW.name=flow_away:away"])
    write_predictions(settings, hand_labels(settings))
    assert score_clips(settings).first.coverage == 0
    assert "FLOW.name flow_away:away: strict counts 0.00% of the pixels: the flow leads out of" in caplog.text
    caplog.clear()
    score_clips(load_settings(None, tiny_training))
    assert "strict counts" not in caplog.text


def test_clips_too_short_for_a_majority_are_said(tiny_training, tmp_path, caplog):
    frames = Path(load_settings(None, tiny_training).DATA.clip_list).read_text().split("\n\n")[0].splitlines()
    words = [
        *tiny_training,
        f"DATA.clip_list={tmp_path}/few.lst",
        "TEST.protocols=[majority]",
        "FLOW.evaluate_with=[dis]",
    ]
    for count, said in ((4, True), (5, False)):
        (tmp_path / "few.lst").write_text("\n".join(frames[:count]) + "\n")
        settings = load_settings(None, words)
        write_predictions(settings, hand_labels(settings))
        caplog.clear()
        score_clips(settings)
        assert ("agreement with the majority: needs clips of 5 frames, the longest has 4" in caplog.text) == said


def test_rounded_flow_gets_its_last_bits_back_and_other_flow_stays():
    exact = np.random.default_rng(0).normal(0, 3, (2, 64, 96)).astype(np.float32)
    rounded = np.rint(exact * 64) / 64
    uniform = np.full((64, 96), 5, np.uint8)

    def published(flow):
        meter = TemporalConsistency(6, "published")
        meter.update(uniform, uniform, flow)
        return meter.compute()["iou"][5]

    assert published(rounded) == 1  # every product is exact: nothing falls to the class below
    assert published(exact) < 0.985
    assert published(dequantise_flow(rounded)) == pytest.approx(published(exact), abs=0.004)
    assert np.abs(dequantise_flow(rounded) - rounded).max() <= 1 / 128
    np.testing.assert_array_equal(dequantise_flow(exact), exact)
    np.testing.assert_array_equal(dequantise_flow(np.zeros_like(exact)), np.zeros_like(exact))
