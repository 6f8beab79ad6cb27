"""What the values of prediction files mean, for label maps of any data set."""

import numpy as np
import pytest
from PIL import Image

from etc.data import layouts
from etc.data.images import write_png
from etc.errors import UserError
from etc.evaluate.prediction_ids import ClassValues, PredictionReader, detect_kind

CLASSES = 3


@pytest.fixture
def values(monkeypatch) -> ClassValues:
    """Three classes that a data set stores as 10, 20 and 30."""
    monkeypatch.setitem(layouts.LABEL_MAPS, "tens", (10, 20, 30))
    return ClassValues(CLASSES, ignore_label=255, label_map="tens", colors_path="nowhere.txt")


@pytest.fixture
def written(tmp_path):
    def write(*ids: int):
        write_png(tmp_path / "x.png", np.array([ids], np.uint8))
        return tmp_path / "x.png"

    return write


@pytest.mark.parametrize(
    ("ids", "kind", "train_ids"),
    [((0, 2, 255), "train", [0, 2, 255]), ((10, 30, 11, 255), "label", [0, 2, 255, 255])],
)
def test_the_label_ids_of_the_settings_are_told_from_train_ids(values, written, ids, kind, train_ids):
    path = written(*ids)
    assert detect_kind([path], values) == kind
    assert PredictionReader(kind, values)(path).tolist() == [train_ids]


def test_values_above_the_highest_label_id_are_neither(values, written):
    with pytest.raises(UserError, match=r"hold the values 10, 31 outside the 3 classes and the label ids of .* tens"):
        detect_kind([written(10, 31)], values)
    with pytest.raises(UserError, match=r"x\.png: 31 is no tens label id \(0\.\.30\)"):
        PredictionReader("label", values)(written(10, 31))


def test_without_label_ids_there_are_train_ids_alone(written):
    values = ClassValues(CLASSES, ignore_label=255, label_map="none", colors_path="nowhere.txt")
    with pytest.raises(UserError, match=r"the value 10 outside the 3 classes: set DATA\.classes, or give TEST\.pred"):
        detect_kind([written(10)], values)


def test_the_colours_are_read_only_where_files_may_hold_colours(values, written):
    assert detect_kind([written(1)], values) == "train"
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        PredictionReader("color", values)


def as_palette(ids, path):
    """A gray palette: the index is the gray level."""
    image = Image.fromarray(ids, mode="P")
    image.putpalette(np.repeat(np.arange(256, dtype=np.uint8), 3).tobytes())
    image.save(path)


@pytest.mark.parametrize(
    ("mapping", "value", "said"),
    [
        ({1000: 0, 2000: 1}, 0, r"0 is no TEST\.prediction_ids label id \(1000\.\.2000\)"),
        ({254: 0, 255: 1}, 3, r"3 is no TEST\.prediction_ids label id \(254\.\.255\)"),
        ({0: 0, 1: 5}, 0, r"TEST\.prediction_ids gives the value 1 the train id 5: expected 0\.\.1"),
    ],
)
def test_what_a_mapping_does_not_know_is_said_with_its_setting(tmp_path, mapping, value, said):
    write_png(tmp_path / "x.png", np.full((2, 2), value, np.uint8))
    values = ClassValues(2, 255, mapping, colors_path="nowhere.txt", setting="TEST.prediction_ids")
    with pytest.raises(UserError, match=said):
        PredictionReader("label", values)(tmp_path / "x.png")


def test_two_classes_of_one_colour_cannot_be_told_apart(tmp_path):
    (tmp_path / "colors.txt").write_text("\ufeff1 2 3\n4 5 6\n1 2 3\n", encoding="utf-8")  # as Windows writes it
    with pytest.raises(UserError, match=r"the classes 0 and 2 have one colour, \[1, 2, 3\]"):
        PredictionReader("color", ClassValues(3, 255, "none", colors_path=tmp_path / "colors.txt"))


@pytest.mark.parametrize(
    "write",
    [
        lambda ids, path: write_png(path, ids),
        lambda ids, path: write_png(path, np.repeat(ids[:, :, None], 3, 2)),
        as_palette,
    ],
    ids=["gray", "rgb", "palette"],
)
def test_masks_of_black_and_white_get_their_mapping_whatever_the_file(tmp_path, write):
    values = ClassValues(2, 255, "none", colors_path="data/palettes/cityscapes_colors.txt")
    write(np.array([[0, 255]], np.uint8), tmp_path / "x.png")
    with pytest.raises(UserError, match=r"the values 0 and 255 alone, .* TEST\.prediction_ids '\{0: 0, 255: 1\}'"):
        detect_kind([tmp_path / "x.png"], values)


@pytest.mark.parametrize(
    ("classes", "ids", "said"),
    [
        (3, (1, 2, 3), "the value 3 outside the 3 classes: if 0 is void and 1..3 are the classes, set "
         "TEST.prediction_ids '{0: 255, 1: 0, 2: 1, 3: 2}'; if 3 is void, TRAIN.ignore_label 3; if there are 4"),
        (3, (0, 128, 255), "the values 128, 255 outside the 3 classes: if they stand for the 3 classes in this order, "
         "set TEST.prediction_ids '{0: 0, 128: 1, 255: 2}'"),
        (3, (0, 24001, 26002), "the values 24001, 26002 outside the 3 classes: if they stand for"),
        (5, (0, 24001, 26002), "they can be instance ids"),
        (2, tuple(range(0, 256, 3)), "values 3..255 outside the 2 classes: these are 85 different values, as in a pic"),
        (19, (7, 26, 33), "they can be Cityscapes label ids: then set DATA.label_map cityscapes"),
    ],
)  # fmt: skip
def test_values_outside_the_classes_are_all_named_with_the_likely_cause(tmp_path, classes, ids, said):
    values = ClassValues(classes, 255, "none", colors_path="nowhere.txt")
    write_png(tmp_path / "x.png", np.array([ids], np.uint16 if max(ids) > 255 else np.uint8))
    path = tmp_path / "x.png"
    for read in (lambda: detect_kind([path], values), lambda: PredictionReader("train", values)(path)):
        with pytest.raises(UserError) as caught:
            read()
        assert said in str(caught.value)
