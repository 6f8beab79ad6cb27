"""Cuts: pictures of one scene are never one, however they move or change their light; pictures of two scenes are."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from etc.data.cuts import explained_share, is_cut, small_copy, starts_after_cuts
from etc.data.images import read_image, write_png


def scene(seed: int, height: int = 144, width: int = 400) -> np.ndarray:
    """A random picture with structure of all sizes, RGB uint8 ``[H, W, 3]``."""
    random = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for size in (4, 16, 64):
        shape = (height // size + 2, width // size + 2, 3)
        picture += cv2.resize(random.normal(0, 1, shape).astype(np.float32), (width, height)) * 35
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def view(picture: np.ndarray, x: int, width: int = 256) -> np.ndarray:
    return picture[:, x : x + width]


def cut(before: np.ndarray, after: np.ndarray) -> bool:
    return is_cut(small_copy(before), small_copy(after))


def changed(picture: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(picture * gain + offset, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("pan", [0, 3, 25, 60, 100])
def test_a_pan_is_no_cut(pan):
    picture = scene(1)
    assert not cut(view(picture, 20), view(picture, 20 + pan))
    assert not cut(view(picture, 20 + pan), view(picture, 20))


@pytest.mark.parametrize(("gain", "offset"), [(0.25, 0), (0.5, 0), (1.8, -60), (0.6, 100), (0.1, 229)])
def test_other_light_is_no_cut(gain, offset):
    picture = scene(2)
    assert not cut(view(picture, 0), changed(view(picture, 4), gain, offset))


@pytest.mark.parametrize("angle_and_zoom", [(5, 1.0), (0, 1.15)])
def test_a_camera_that_rolls_or_zooms_is_no_cut(angle_and_zoom):
    picture = view(scene(3), 0)
    matrix = cv2.getRotationMatrix2D((128, 72), *angle_and_zoom)
    assert not cut(picture, cv2.warpAffine(picture, matrix, (256, 144), borderMode=cv2.BORDER_REFLECT))


def test_noise_is_no_cut():
    picture, random = view(scene(4), 0), np.random.default_rng(0)
    noisy = [changed(picture + random.normal(0, 12, picture.shape), 1, 0) for _ in range(2)]
    assert not cut(*noisy)


@pytest.mark.parametrize("seed", range(8))
def test_another_scene_is_a_cut_also_in_the_dark_and_under_bars(seed):
    first, second = view(scene(2 * seed), 0), view(scene(2 * seed + 1), 0)
    assert cut(first, second)
    assert cut(changed(first, 0.2, 0), changed(second, 0.2, 0))
    for picture in (first, second):
        picture[:16] = picture[-16:] = 0
    assert cut(first, second)


def test_a_frame_of_another_size_begins_anew_though_it_shows_the_same(tmp_path):
    image = view(scene(0), 0)
    sizes = [(1, 1), (1, 1), (2, 2), (2, 2)]
    for index, (x, y) in enumerate(sizes):
        write_png(tmp_path / f"{index}.png", np.kron(image, np.ones((y, x, 1), np.uint8)))
    assert starts_after_cuts([tmp_path / f"{index}.png" for index in range(4)]) == [2]


def test_a_black_frame_is_cut_off_from_a_scene_but_not_from_another_one():
    picture, black = view(scene(5), 0), np.zeros((144, 256, 3), np.uint8)
    assert cut(picture, black) and cut(black, picture)
    assert not cut(black, black)
    assert np.isnan(explained_share(small_copy(black), small_copy(black)))


def test_another_shape_of_the_frame_is_a_cut():
    assert cut(view(scene(6), 0), view(scene(6), 0, 144))


@pytest.mark.parametrize("size", [(16, 300), (40, 30), (1080, 1920)])
def test_frames_of_any_size_can_be_compared(size):
    picture = cv2.resize(scene(7), size[::-1])
    assert not cut(picture, picture)


def test_the_frames_after_cuts_are_found(tmp_path):
    pictures = [view(scene(seed), 3 * t) for seed in (10, 11, 12) for t in range(3)]
    pictures.append(view(scene(13), 0))  # a scene of one frame
    for i, picture in enumerate(pictures):
        write_png(tmp_path / f"{i}.png", picture)
    assert starts_after_cuts([tmp_path / f"{i}.png" for i in range(10)]) == [3, 6, 9]
    assert starts_after_cuts([tmp_path / "0.png"]) == starts_after_cuts([]) == []


def real_clips(real_data: Path) -> list[list[np.ndarray]]:
    """Small copies of parts of the real videos."""
    aachen = real_data / "cityscapes_mini/leftImg8bit/train/aachen"
    files = [sorted(aachen.glob(f"aachen_{i:06d}_*"))[4:8] for i in range(6)]
    files += [sorted((real_data / "camvid/val").iterdir())[40:52]]
    files += [sorted((real_data / "flow_gt/kitti").glob("frame*.png"))]
    return [[small_copy(read_image(path)) for path in clip] for clip in files]


def test_real_videos_hold_no_cut_and_every_change_between_two_is_one(real_data):
    clips = real_clips(real_data)
    assert min(explained_share(*pair) for clip in clips for pair in pairwise(clip)) > 0.6
    camvid = clips[6]
    assert min(explained_share(*pair) for pair in zip(camvid, camvid[5:], strict=False)) > 0.6
    for one, other in pairwise(clips):
        after = cv2.resize(other[0], one[-1].shape[::-1])
        assert is_cut(one[-1], after) and is_cut(after, one[-1])
