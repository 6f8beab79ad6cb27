"""Predictions under the names of earlier versions are used for the frames that they were made from, and no others."""

import numpy as np
import pytest

from etc.data.earlier_files import earlier_files, names_in_use
from etc.data.images import write_png
from etc.data.lists import Frame, prediction_names
from etc.data.origin import Origin
from etc.errors import UserError
from etc.evaluate.prediction_files import prediction_files

IDS = np.zeros((4, 6), np.uint8)


@pytest.fixture
def frame(tmp_path):
    def frame(image: str, value: int = 0) -> Frame:
        write_png(tmp_path / image, np.full((4, 6, 3), value, np.uint8))
        return Frame(image)

    return frame


@pytest.fixture
def predict(tmp_path):
    def predict(name: str, image: str | None = None):
        path = tmp_path / f"gray/{name}.png"
        write_png(path, IDS, origin=image and Origin.of([tmp_path / image], "x").text)
        return path

    return predict


def in_use(frames, tmp_path):
    names = prediction_names(frames, tmp_path)
    return names_in_use(tmp_path / "gray", frames, names, [tmp_path / frame.image for frame in frames])


def test_a_prediction_that_records_its_frame_is_found_by_its_earlier_name(frame, predict, tmp_path):
    frames = [frame("v/a/1.png", 1), frame("v/a/2.png", 2), frame("v/b/1.png", 3), frame("v/b/2.png", 4)]
    files = [predict("1", "v/a/1.png"), predict("v/a/2", "v/a/2.png"), predict("b/1", "v/b/1.png")]
    predict("2", "v/a/2.png")  # of an earlier run; the new name counts
    assert in_use(frames, tmp_path) == ["1", "v/a/2", "b/1", "v/b/2"]
    assert prediction_files([frames[:3]], tmp_path / "gray", data_root=tmp_path) == [files]


def test_an_earlier_prediction_of_another_frame_is_not_served(frame, predict, tmp_path):
    """Both were called 1 by runs that listed one clip each."""
    predict("1", frame("v/a/1.png", 1).image)
    other = frame("v/b/1.png", 2)
    assert in_use([other], tmp_path) == ["v/b/1"]
    assert earlier_files(tmp_path / "gray", [other], [tmp_path / other.image]) == [None]


def test_a_frame_that_was_replaced_is_predicted_again(frame, predict, tmp_path):
    one = frame("v/a/1.png", 1)
    predict("1", one.image)
    assert in_use([one], tmp_path) == ["1"]
    frame("v/a/1.png", 7)
    assert in_use([one], tmp_path) == ["v/a/1"]


def test_equal_frames_in_two_places_do_not_share_a_prediction(frame, predict, tmp_path):
    frames = [frame("v/a/1.png"), frame("v/b/1.png")]
    predict("1", "v/a/1.png")
    assert in_use(frames, tmp_path) == ["1", "v/b/1"]


def test_predictions_of_other_methods_are_found_by_stem_unless_that_is_the_name_of_two(frame, predict, tmp_path):
    frames = [frame("v/a/1.png", 1), frame("w/a/1.png", 2)]
    files = [predict("1"), predict("w/a/1")]
    assert prediction_files([frames[:1]], tmp_path / "gray", data_root=tmp_path) == [files[:1]]
    # of two frames, the file 1.png may belong to either
    with pytest.raises(UserError, match="1 of 2 predictions are missing"):
        prediction_files([frames], tmp_path / "gray", data_root=tmp_path)


def test_the_file_of_one_frame_is_no_prediction_of_another(frame, predict, tmp_path):
    """VSPW: the folders of all videos are called origin."""
    frames = [frame("v/origin/1.png", 1), frame("w/origin/1.png", 2)]
    file = predict("v/origin/1")
    with pytest.raises(UserError, match=r"1 of 2 predictions are missing, the first is .*w/origin/1\.png"):
        prediction_files([frames], tmp_path / "gray", data_root=tmp_path)
    found = prediction_files([frames], tmp_path / "gray", data_root=tmp_path, allow_gaps=True)
    assert found == [[file, None]]


def test_frames_and_masks_in_one_folder_are_told_apart(frame, predict, tmp_path):
    frames = [frame("gray/1.png", 1), frame("gray/2.png", 2)]
    masks = [predict("1_mask"), predict("2_mask")]
    assert prediction_files([frames], tmp_path / "gray", data_root=tmp_path) == [masks]
