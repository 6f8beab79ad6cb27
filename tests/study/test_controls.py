"""The filters that stand in for a training, against loops, and the number of regions against scipy."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from etc.config import TOOLKIT, load_settings
from etc.study.controls import majority, regions, regions_per_frame, write_filtered


def slow_majority(ids: np.ndarray, window: tuple[int, int, int]) -> np.ndarray:
    """A loop over pixels; a class wins only with more votes than the pixel's own, and the lowest of those that do."""
    out = ids.copy()
    half = [side // 2 for side in window]
    for place in np.ndindex(ids.shape):
        near = ids[tuple(slice(max(0, p - h), p + h + 1) for p, h in zip(place, half, strict=True))]
        votes = np.bincount(near.reshape(-1), minlength=256)
        if votes.max() > votes[ids[place]]:
            out[place] = votes.argmax()
    return out


@pytest.mark.parametrize("window", [(3, 1, 1), (5, 1, 1), (1, 5, 5), (3, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("frames", [1, 7])
def test_majority_equals_the_loop(window, frames):
    ids = np.random.default_rng(0).integers(0, 4, (frames, 9, 11), dtype=np.uint8)
    out = majority(torch.from_numpy(ids), window, 4)
    assert out.dtype == torch.uint8
    assert np.array_equal(out.numpy(), slow_majority(ids, window))


def test_regions_equal_those_of_scipy():
    ids = np.random.default_rng(1).integers(0, 3, (20, 30), dtype=np.uint8)
    assert regions(ids) == sum(ndimage.label(ids == k)[1] for k in range(3))
    assert regions(np.zeros((5, 5), np.uint8)) == 1


@pytest.fixture
def predicted(tmp_path):
    """Settings of a folder with two clips of predictions, and these."""
    (tmp_path / "frames").mkdir()
    clips = np.random.default_rng(2).integers(0, 3, (2, 3, 6, 8), dtype=np.uint8)
    lines = []
    for c, clip in enumerate(clips):
        for t, ids in enumerate(clip):
            name = f"c{c}_{t:04d}.png"
            Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "frames" / name)
            path = tmp_path / "result/video/gray" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(path)
            lines.append(f"frames/{name}")
        lines.append("")
    (tmp_path / "clips.lst").write_text("\n".join(lines))
    words = {"DATA.data_root": tmp_path, "DATA.clip_list": tmp_path / "clips.lst", "DATA.layout": "folder"}
    words |= {"DATA.classes": 3, "TEST.save_folder": tmp_path / "result", "DATA.synthetic": "false"}
    config = TOOLKIT / "configs/quickstart.yaml"
    return load_settings(config, [f"{key}={value}" for key, value in words.items()]), clips


def test_a_control_writes_the_filtered_predictions_of_each_clip(predicted, tmp_path):
    settings, clips = predicted
    write_filtered((3, 1, 1), settings, tmp_path / "out")
    for c, clip in enumerate(clips):
        expected = slow_majority(clip, (3, 1, 1))
        for t in range(3):
            assert np.array_equal(np.asarray(Image.open(tmp_path / f"out/c{c}_{t:04d}.png")), expected[t])


def test_the_constant_is_the_most_frequent_class_of_all_clips(predicted, tmp_path):
    settings, clips = predicted
    write_filtered("constant", settings, tmp_path / "out")
    most = np.bincount(clips.reshape(-1)).argmax()
    for file in (tmp_path / "out").glob("*.png"):
        assert (np.asarray(Image.open(file)) == most).all()
    assert len(list((tmp_path / "out").glob("*.png"))) == 6


def test_regions_per_frame_is_the_mean_over_all_frames(predicted):
    settings, clips = predicted
    counts = [sum(ndimage.label(ids == k)[1] for k in range(3)) for ids in clips.reshape(-1, 6, 8)]
    assert regions_per_frame(settings) == pytest.approx(np.mean(counts))
