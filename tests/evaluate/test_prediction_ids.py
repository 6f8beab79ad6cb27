"""What the values of prediction files mean, for label maps of any data set."""

import numpy as np
import pytest

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
    with pytest.raises(UserError, match=r"values 10\.\.31 are neither ids of the 3 classes nor label ids of .* tens"):
        detect_kind([written(10, 31)], values)
    with pytest.raises(UserError, match=r"x\.png: 31 is no tens label id \(0\.\.30\)"):
        PredictionReader("label", values)(written(10, 31))


def test_without_label_ids_there_are_train_ids_alone(written):
    values = ClassValues(CLASSES, ignore_label=255, label_map="none", colors_path="nowhere.txt")
    with pytest.raises(UserError, match="neither"):
        detect_kind([written(10)], values)


def test_the_colours_are_read_only_where_files_may_hold_colours(values, written):
    assert detect_kind([written(1)], values) == "train"
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        PredictionReader("color", values)
