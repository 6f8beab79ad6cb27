"""Predictions of others: what their files hold and which frame they belong to."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from etc.config import load_settings
from etc.data.cityscapes import LABEL_IDS
from etc.data.id_png import encode_ids, write_ids
from etc.data.images import write_png
from etc.data.labels import read_colors
from etc.data.lists import Frame
from etc.errors import UserError
from etc.evaluate.predictions import Predictions, predictions_from

SIZE = (12, 20)
COLORS = read_colors("data/palettes/cityscapes_colors.txt", 19)
LABELS = np.full(256, 0, np.uint8)
LABELS[:19] = LABEL_IDS


def train_ids(seed: int = 0) -> np.ndarray:
    """All 19 classes, and pixels without one."""
    ids = np.random.default_rng(seed).integers(0, 20, SIZE).astype(np.uint8)
    ids[ids == 19] = 255
    return ids


def as_palette(ids: np.ndarray, path: Path, colors: np.ndarray = COLORS) -> None:
    image = Image.fromarray(ids, mode="P")
    image.putpalette(colors.tobytes())
    image.save(path)


def as_shuffled_palette(ids: np.ndarray, path: Path) -> None:
    """As programs write that collect the colours of a picture: the index means nothing."""
    order = np.random.default_rng(1).permutation(20)
    place = np.full(256, order[19], np.uint8)
    place[:19] = order[:19]
    palette = np.zeros((256, 3), np.uint8)
    palette[order[:19]] = COLORS[:19]
    as_palette(place[ids], path, palette)


WRITERS = {
    "train ids": ("train", lambda ids, path: write_png(path, ids)),
    "train ids, 16 bits": ("train", lambda ids, path: write_png(path, np.where(ids == 255, 65535, ids).astype("u2"))),
    "train ids, three channels": ("train", lambda ids, path: write_png(path, np.repeat(ids[:, :, None], 3, 2))),
    "train ids, a palette without meaning": (
        "train",
        lambda ids, path: as_palette(ids, path, np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)),
    ),
    "label ids": ("label", lambda ids, path: write_png(path, LABELS[ids])),
    "label ids, 16 bits": ("label", lambda ids, path: write_png(path, LABELS[ids].astype(np.uint16))),
    "colours": ("color", lambda ids, path: write_png(path, COLORS[ids])),
    "colours with alpha": (
        "color",
        lambda ids, path: Image.fromarray(np.dstack([COLORS[ids], np.full(SIZE, 255, np.uint8)])).save(path),
    ),
    "palette of the classes": ("color", as_palette),
    "colours as gen_video writes them": (
        "color",
        lambda ids, path: write_ids(path, encode_ids(ids), palette=COLORS),
    ),
    "palette in any order": ("color", as_shuffled_palette),
}


@pytest.fixture
def frames(tmp_path):
    """Three frames of a clip, and the folder that predictions go to."""
    for number in range(3):
        write_png(tmp_path / f"frames/x_{number}.png", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "pred").mkdir()
    return [Frame(str(tmp_path / f"frames/x_{number}.png")) for number in range(3)]


def predictions(frames, *overrides) -> Predictions:
    folder = Path(frames[0].image).parents[1] / "pred"
    return predictions_from(load_settings(None, [f"TEST.predictions={folder}", *overrides]), [frames])


def of_frames(frames, *names) -> None:
    for name in names:
        write_png(Path(frames[0].image).parents[1] / "pred" / name, train_ids())


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(("kind", "write"), WRITERS.values(), ids=WRITERS)
def test_the_same_ids_come_out_of_every_kind_of_file(frames, tmp_path, kind, write, stated):
    for number in range(3):
        write(train_ids(number), tmp_path / f"pred/x_{number}.png")
    found = predictions(frames, f"TEST.prediction_ids={kind if stated else 'auto'}")
    assert found.kind == kind
    for number, path in enumerate(found.files[0]):
        np.testing.assert_array_equal(found.read(path), train_ids(number))


def test_colours_of_a_run_that_an_earlier_version_began_and_this_one_finished_are_read(frames, tmp_path):
    for number in range(3):
        name, kind = tmp_path / f"pred/x_{number}.png", "colours as gen_video writes them" if number else "colours"
        WRITERS[kind][1](train_ids(number), name)
    found = predictions(frames)
    assert found.kind == "color"
    for number, path in enumerate(found.files[0]):
        np.testing.assert_array_equal(found.read(path), train_ids(number))


def test_label_ids_without_a_train_id_are_no_class(frames, tmp_path):
    for number in range(3):
        write_png(tmp_path / f"pred/x_{number}.png", np.full(SIZE, 26 if number else 4, np.uint8))
    found = predictions(frames)
    assert [np.unique(found.read(path)).tolist() for path in found.files[0]] == [[255], [13], [13]]


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (np.full(SIZE, 8, np.uint8), "auto", "values 8..8 can be train ids or cityscapes label ids: say which"),
        (
            np.full(SIZE, 40, np.uint8),
            "auto",
            "value 40 outside the 19 classes and the label ids of DATA.label_map cityscapes: set",
        ),
        (np.full(SIZE, 26001, np.uint16), "auto", "the value 26001 outside .*: they can be instance ids"),
        (np.full(SIZE, 255, np.uint8), "auto", "the predictions hold only 255"),
        (
            np.full((*SIZE, 3), (1, 2, 3), np.uint8),
            "auto",
            "in colours: expected a label map with one channel",
        ),
        (
            np.full(SIZE, 26, np.uint8),
            "train",
            "value 26 outside the 19 classes: they can be cityscapes label ids: then",
        ),
        (np.full(SIZE, 34, np.uint8), "label", r"34 is no cityscapes label id"),
        (np.full((*SIZE, 3), (1, 2, 3), np.uint8), "color", r"\[1, 2, 3\] is the colour of no class"),
        (np.full(SIZE, 1, np.uint8), "color", "is gray: TEST.prediction_ids color needs colours"),
        (np.zeros((6, 20), np.uint8), "auto", r"x_0\.png is 20x6, its frame .*frames/x_0\.png is 20x12"),
    ],
)
def test_what_cannot_be_read_as_ids_is_refused_with_the_reason(frames, tmp_path, image, kind, message):
    for number in range(3):
        write_png(tmp_path / f"pred/x_{number}.png", image)
    with pytest.raises(UserError, match=message):
        found = predictions(frames, f"TEST.prediction_ids={kind}")
        found.read(found.files[0][0])


def test_a_truncated_prediction_is_named(frames, tmp_path):
    of_frames(frames, "x_0.png", "x_1.png", "x_2.png")
    path = tmp_path / "pred/x_1.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"x_1\.png is truncated"):
        predictions(frames, "TEST.prediction_ids=train").read(path)


def test_label_ids_of_another_set_of_classes_are_refused(frames):
    of_frames(frames, "x_0.png", "x_1.png", "x_2.png")
    with pytest.raises(UserError, match=r"19 classes, DATA\.classes is 11"):
        predictions(frames, "TEST.prediction_ids=label", "DATA.classes=11")


def test_predictions_named_like_no_frame_are_taken_in_order_with_a_warning(frames, tmp_path, caplog):
    of_frames(frames, "9.png", "10.png", "11.png")
    names = [path.name for path in predictions(frames).files[0]]
    assert names == ["9.png", "10.png", "11.png"]
    assert "in sorted order, from 9.png for x_0.png to 11.png for x_2.png" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"3 of 3 predictions are missing, the first is .*x_0\.png, x_1.png, x_2.png: the folder holds no PNG"),
        (("x_1.png",), r"2 of 3 predictions are missing, the first is .*x_0\.png, x_2\.png: .*TEST.allow_gaps true"),
        (("x_1.png", "x_2.png", "x_3.png"), r"x_0\.png: .*allow_gaps true; 1 of the PNG files there are named like no"),
        (("7.png", "8.png"), "3 of 3 predictions are missing"),
        (("x_0.png", "x_1.png", "gray/x_2.png", "color/x_2.png"), "may both be the prediction of .*x_2.png"),
    ],
)
def test_what_is_missing_or_doubled_is_named(frames, names, message):
    of_frames(frames, *names)
    with pytest.raises(UserError, match=message):
        predictions(frames)


def test_gaps_are_none_where_they_are_allowed_and_some_predictions_are_there(frames, tmp_path):
    with pytest.raises(UserError, match="3 of 3 predictions are missing"):
        predictions(frames, "TEST.allow_gaps=true")
    of_frames(frames, "x_0.png", "x_2.png")
    found = predictions(frames, "TEST.allow_gaps=true")
    assert [path and path.name for path in found.files[0]] == ["x_0.png", None, "x_2.png"]
    assert found.facts()["missing"] == 1


def test_lossy_pictures_are_no_predictions(frames, tmp_path):
    cv2.imwrite(str(tmp_path / "pred/x_0.jpg"), train_ids())
    with pytest.raises(UserError, match=r"x_0\.jpg is lossy"):
        predictions(frames)


@pytest.fixture
def masks(frames, tmp_path):
    """Predictions of two classes, stored with the given values."""
    ids = np.resize(np.array([0, 1, 1, 0, 1], np.uint8), SIZE)

    def write(zero: int, one: int, dtype=np.uint8) -> np.ndarray:
        for number in range(3):
            write_png(tmp_path / f"pred/x_{number}.png", np.where(ids, one, zero).astype(dtype))
        return ids

    return write


@pytest.mark.parametrize(("one", "dtype"), [(255, np.uint8), (65535, np.uint16)])
def test_masks_of_0_and_255_are_a_question_and_either_answer_is_used(frames, masks, one, dtype):
    ids, two = masks(0, one, dtype), ("DATA.classes=2", "DATA.label_map=none")
    with pytest.raises(UserError, match=rf"0 and {one} alone.* TEST\.prediction_ids '\{{0: 0, {one}: 1\}}'"):
        predictions(frames, *two)
    found = predictions(frames, *two, f"TEST.prediction_ids={{0: 0, {one}: 1}}")
    np.testing.assert_array_equal(found.read(found.files[0][0]), ids)
    found = predictions(frames, *two, "TEST.prediction_ids=train")
    np.testing.assert_array_equal(found.read(found.files[0][0]), np.where(ids, 255, 0))


def test_the_mapping_of_the_labels_reads_predictions_in_the_same_values(frames, masks):
    two = "DATA.classes=2", "DATA.label_map={0: 0, 255: 1}"
    ids = masks(0, 255)
    found = predictions(frames, *two)
    np.testing.assert_array_equal(found.read(found.files[0][0]), ids)
    masks(0, 1)
    found = predictions(frames, *two)
    assert found.kind == "train"
    np.testing.assert_array_equal(found.read(found.files[0][0]), ids)
    masks(1, 2)
    found = predictions(frames, "DATA.classes=2", "DATA.label_map=void_zero")
    np.testing.assert_array_equal(found.read(found.files[0][0]), ids)


def test_one_class_everywhere_is_said(frames, masks, caplog):
    masks(1, 1)
    predictions(frames, "DATA.classes=2", "DATA.label_map=none")
    assert "all pixels looked at are of class 1 of 2: a constant prediction is consistent" in caplog.text
