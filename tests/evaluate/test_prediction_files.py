"""Which prediction file belongs to which frame."""

from pathlib import Path

import numpy as np
import pytest

from etc.data.images import write_png
from etc.data.lists import Frame
from etc.errors import UserError
from etc.evaluate.prediction_files import check_sizes, check_surplus, prediction_files

IDS = np.zeros((12, 20), np.uint8)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a/x_1.jpg", "a/x_2.jpg"], ["x_1.png", "x_2.png"]),
        (["a/x_1.tif", "a/x_2.tif"], ["x_1.PNG", "x_2.PNG"]),
        (["a/x_1.png", "a/x_2.png"], ["deep/er/x_1.png", "deep/er/x_2.png"]),
        (["s/f_000001_000002_leftImg8bit.png"], ["f_000001_000002_leftImg8bit_pred.png"]),
        (["s/f_000001_000002_leftImg8bit.png"], ["f_000001_000002_pred.png"]),
        (["s/f_000001_000002_leftImg8bit.png"], ["f/f_000001_000002_gtFine_labelIds.png"]),
        (["p/1/0.png", "p/2/0.png"], ["1/0.png", "2/0.png"]),
        (["p/1/0.png", "p/2/0.png"], ["video/2/ids/0.png", "video/1/ids/0.png"]),
    ],
)
def test_files_are_found_by_the_names_of_their_frames(tmp_path, images, names):
    for name in names:
        write_png(tmp_path / name, IDS)
    found = prediction_files([[Frame(image) for image in images]], tmp_path)[0]
    digits = [set(Path(image).parts[1:-1]) for image in images]
    assert sorted(map(str, found)) == sorted(str(tmp_path / name) for name in names)
    assert all(own <= set(path.parts) for own, path in zip(digits, found, strict=True))


def test_the_folder_of_a_video_may_have_the_spaces_of_its_name(tmp_path):
    clips = [[Frame(f"frames/{video}-0123456789ab/{video}_{t}.png") for t in range(2)] for video in ("My_Ride", "walk")]
    for name in ("My Ride/a.png", "My Ride/b.png", "walk/a.png", "walk/b.png"):
        write_png(tmp_path / name, IDS)
    found = prediction_files(clips, tmp_path)
    assert [[str(path.relative_to(tmp_path)) for path in row] for row in found] == [
        ["My Ride/a.png", "My Ride/b.png"],
        ["walk/a.png", "walk/b.png"],
    ]


def test_one_folder_cannot_hold_the_files_of_two_clips(tmp_path):
    clips = [[Frame(f"{camera}/video-0123456789ab/f_{t}.png") for t in range(2)] for camera in ("cam1", "cam2")]
    for name in ("video/p0.png", "video/p1.png"):
        write_png(tmp_path / name, IDS)
    with pytest.raises(UserError, match=r"video may hold the predictions of the clip of cam1/.* or of that of cam2/"):
        prediction_files(clips, tmp_path)


def test_a_clip_without_predictions_gets_none_of_others_below_a_common_folder(tmp_path):
    clips = [[Frame(f"JPEGImages/480p/{clip}/0.jpg")] for clip in ("bear", "camel", "dog")]
    for clip in ("bear", "camel"):
        write_png(tmp_path / f"480p/{clip}/0.png", IDS)
    own = [[tmp_path / "480p/bear/0.png"], [tmp_path / "480p/camel/0.png"], [None]]
    assert prediction_files(clips, tmp_path, allow_gaps=True) == own
    with pytest.raises(UserError, match="1 of 3 predictions are missing"):
        prediction_files(clips, tmp_path)


def test_one_file_cannot_belong_to_two_frames(tmp_path):
    write_png(tmp_path / "p/0.png", IDS)
    clips = [[Frame("p/1/0.png")], [Frame("p/2/0.png")]]
    with pytest.raises(UserError, match=r"may belong to p/1/0\.png and to p/2/0\.png"):
        prediction_files(clips, tmp_path)


def test_sizes_are_compared_with_those_of_the_frames_and_gaps_are_passed_over(tmp_path):
    for name, shape in (("f/0.png", (12, 20)), ("f/1.png", (12, 20)), ("p/0.png", (12, 20)), ("p/1.png", (20, 12))):
        write_png(tmp_path / name, np.zeros(shape, np.uint8))
    clips = [[Frame("f/0.png"), Frame("f/1.png")]]
    check_sizes(clips, [[tmp_path / "p/0.png", None]], tmp_path)
    with pytest.raises(UserError, match=r"p/1\.png is 12x20, its frame .*f/1\.png is 20x12"):
        check_sizes(clips, [[tmp_path / "p/0.png", tmp_path / "p/1.png"]], tmp_path)


@pytest.fixture
def video(tmp_path):
    """A video of three frames, five predictions named like them, and predictions of another video."""
    (tmp_path / "street.mp4").touch()
    for name in (*(f"street_{number:06d}" for number in range(5)), "lane_000000", "lane_000001"):
        write_png(tmp_path / f"pred/{name}.png", IDS)
    frames = [Frame(f"frames/street_{number:06d}.png") for number in range(3)]
    return tmp_path / "street.mp4", prediction_files([frames], tmp_path / "pred")


def test_more_predictions_than_a_video_has_frames_are_refused_with_both_numbers(video):
    path, files = video
    with pytest.raises(UserError, match=r"street\.mp4 has 3 frames, but 5 predictions .*street_000003\.png"):
        check_surplus(files, str(path))


def test_a_folder_of_frames_may_hold_a_part_of_them(video, tmp_path, caplog):
    check_surplus(video[1], str(tmp_path))
    assert "has 3 frames, but 5 predictions are named like them" in caplog.text


def test_predictions_of_other_videos_in_the_folder_are_no_surplus(video, tmp_path):
    for number in (3, 4):
        (tmp_path / f"pred/street_{number:06d}.png").unlink()
    check_surplus(video[1], str(video[0]))


def test_another_number_of_predictions_than_frames_is_not_assigned_in_order(tmp_path):
    for number in range(4):
        write_png(tmp_path / f"pred/{number}.png", IDS)
    with pytest.raises(UserError, match=r"none of the 4 PNG files there is named like a frame, and no folder holds"):
        prediction_files([[Frame(f"street_{number:06d}.png") for number in range(3)]], tmp_path / "pred")
