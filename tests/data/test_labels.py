"""Lookup tables, class names, palettes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from etc.data.images import write_png
from etc.data.labels import label_table, read_colors, read_names, read_train_ids
from etc.errors import UserError

PALETTES = Path(__file__).resolve().parents[2] / "data" / "palettes"

# cityscapesScripts, helpers/labels.py: (name, id, trainId, colour) of every label with an id, written out by hand.
OFFICIAL = [
    ("unlabeled", 0, 255, (0, 0, 0)), ("ego vehicle", 1, 255, (0, 0, 0)), ("rectification border", 2, 255, (0, 0, 0)),
    ("out of roi", 3, 255, (0, 0, 0)), ("static", 4, 255, (0, 0, 0)), ("dynamic", 5, 255, (111, 74, 0)),
    ("ground", 6, 255, (81, 0, 81)), ("road", 7, 0, (128, 64, 128)), ("sidewalk", 8, 1, (244, 35, 232)),
    ("parking", 9, 255, (250, 170, 160)), ("rail track", 10, 255, (230, 150, 140)), ("building", 11, 2, (70, 70, 70)),
    ("wall", 12, 3, (102, 102, 156)), ("fence", 13, 4, (190, 153, 153)), ("guard rail", 14, 255, (180, 165, 180)),
    ("bridge", 15, 255, (150, 100, 100)), ("tunnel", 16, 255, (150, 120, 90)), ("pole", 17, 5, (153, 153, 153)),
    ("polegroup", 18, 255, (153, 153, 153)), ("traffic light", 19, 6, (250, 170, 30)),
    ("traffic sign", 20, 7, (220, 220, 0)), ("vegetation", 21, 8, (107, 142, 35)), ("terrain", 22, 9, (152, 251, 152)),
    ("sky", 23, 10, (70, 130, 180)), ("person", 24, 11, (220, 20, 60)), ("rider", 25, 12, (255, 0, 0)),
    ("car", 26, 13, (0, 0, 142)), ("truck", 27, 14, (0, 0, 70)), ("bus", 28, 15, (0, 60, 100)),
    ("caravan", 29, 255, (0, 0, 90)), ("trailer", 30, 255, (0, 0, 110)), ("train", 31, 16, (0, 80, 100)),
    ("motorcycle", 32, 17, (0, 0, 230)), ("bicycle", 33, 18, (119, 11, 32)),
]  # fmt: skip


def write(path: Path, *values: int, shape=(2, 3)) -> Path:
    label = np.resize(np.array(values, np.uint8), shape)
    write_png(path, label)
    return path


def test_cityscapes_ids_map_as_the_official_scripts_say(tmp_path):
    table = label_table("cityscapes", 19, 255)
    ids = read_train_ids(write(tmp_path / "x.png", *range(34), 255, shape=(1, 35)), table)
    assert ids.tolist() == [[train_id for _, _, train_id, _ in OFFICIAL] + [255]]


def test_the_cityscapes_palette_and_names_are_the_official_ones():
    names, colors = (
        read_names(PALETTES / "cityscapes_names.txt", 19),
        read_colors(PALETTES / "cityscapes_colors.txt", 19),
    )
    by_train_id = {train_id: (name, color) for name, _, train_id, color in OFFICIAL if train_id != 255}
    assert [(name, tuple(color.tolist())) for name, color in zip(names, colors, strict=False)] == [
        by_train_id[i] for i in range(19)
    ]
    assert colors.shape == (256, 3) and not colors[19:].any()


def test_the_camvid_names_are_those_of_the_data_set():
    names = read_names(PALETTES / "camvid_names.txt", 11)
    assert " ".join(names) == "sky building pole road pavement tree sign symbol fence car pedestrian bicyclist"
    colors = read_colors(PALETTES / "camvid_colors.txt", 11)[:11]
    assert len({tuple(color) for color in colors.tolist()}) == 11


@pytest.mark.parametrize("value", [34, 100, 254])
def test_a_value_that_is_no_cityscapes_id_is_named(tmp_path, value):
    path = write(tmp_path / "x.png", 7, value)
    with pytest.raises(UserError, match=rf"x\.png: label value {value} is outside the classes"):
        read_train_ids(path, label_table("cityscapes", 19, 255))


def test_train_ids_pass_and_the_ignored_value_becomes_255(tmp_path):
    table = label_table("none", 11, 11)
    ids = read_train_ids(write(tmp_path / "x.png", 0, 10, 11, 255, shape=(1, 4)), table)
    assert ids.tolist() == [[0, 10, 255, 255]]
    assert ids.dtype == np.uint8


def test_sixteen_bit_labels_are_read_and_values_without_a_class_named(tmp_path):
    table = label_table("none", 254, 255)
    write_png(tmp_path / "x.png", np.array([[0, 253, 255, 65535]], np.uint16))
    ids = read_train_ids(tmp_path / "x.png", table)
    assert ids.tolist() == [[0, 253, 255, 255]] and ids.dtype == np.uint8
    write_png(tmp_path / "x.png", np.array([[0, 26001]], np.uint16))
    with pytest.raises(UserError, match="label value 26001 is outside the classes"):
        read_train_ids(tmp_path / "x.png", table)


def test_palette_labels_are_read_by_their_index(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8), mode="P")
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(tmp_path / "x.png")
    assert read_train_ids(tmp_path / "x.png", label_table("none", 3, 255)).tolist() == [[0, 1, 2, 255]]


@pytest.mark.parametrize(("classes", "value"), [(11, 12), (11, 254), (2, 2), (253, 253)])
def test_a_value_outside_the_classes_is_named(tmp_path, classes, value):
    path = write(tmp_path / "x.png", 0, value)
    with pytest.raises(UserError, match=f"label value {value} "):
        read_train_ids(path, label_table("none", classes, 255))


def test_254_classes_are_the_most(tmp_path):
    table = label_table("none", 254, 255)
    assert read_train_ids(write(tmp_path / "x.png", 253), table).max() == 253


def test_cityscapes_with_another_number_of_classes_is_refused():
    with pytest.raises(UserError, match=r"19 classes, DATA\.classes is 11"):
        label_table("cityscapes", 11, 255)


def test_a_label_of_another_size_than_its_frame_is_named_with_both(tmp_path):
    path = write(tmp_path / "x.png", 7, shape=(4, 6))
    with pytest.raises(UserError, match=r"x\.png: label is 6x4, its frame is 8x4"):
        read_train_ids(path, label_table("cityscapes", 19, 255), (4, 8))


@pytest.mark.parametrize(
    "text", ["1 2 3\n", "1 2 3\n4 5\n", "1 2 3\n4 5 x\n", "1 2 3\n4 5 256\n", "1 2 3\n4 5 -1\n", ""]
)
def test_a_palette_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "colors.txt").write_text(text)
    with pytest.raises(UserError, match=r"colors\.txt"):
        read_colors(tmp_path / "colors.txt", 2)


def test_a_palette_of_other_classes_names_its_setting():
    with pytest.raises(UserError, match=r"2 lines 'R G B', found 19 lines: set DATA\.colors_path to .* 2 classes"):
        read_colors(PALETTES / "cityscapes_colors.txt", 2)


def test_names_must_be_one_a_class(tmp_path):
    (tmp_path / "names.txt").write_text("road\n\ntraffic light \n")
    assert read_names(tmp_path / "names.txt", 2) == ["road", "traffic light"]
    with pytest.raises(UserError, match=r"has 2 names, DATA\.classes is 3: set DATA\.names_path to .* 3 in all"):
        read_names(tmp_path / "names.txt", 3)


def test_a_missing_or_binary_file_of_names_is_named(tmp_path):
    with pytest.raises(UserError, match=r"names\.txt: No such file"):
        read_names(tmp_path / "names.txt", 2)
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(UserError, match=r"names\.txt: not a text file"):
        read_names(tmp_path / "names.txt", 2)


def test_palettes_of_the_toolkit_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_names("data/palettes/cityscapes_names.txt", 19)[0] == "road"
    (tmp_path / "data/palettes").mkdir(parents=True)
    (tmp_path / "data/palettes/cityscapes_names.txt").write_text("mine\n")
    assert read_names("data/palettes/cityscapes_names.txt", 1) == ["mine"]


def test_without_files_19_classes_are_those_of_cityscapes_and_others_have_numbers_and_the_colours_of_voc():
    assert read_names(None, 19) == read_names("data/palettes/cityscapes_names.txt", 19)
    assert np.array_equal(read_colors(None, 19), read_colors("data/palettes/cityscapes_colors.txt", 19))
    assert read_names(None, 3) == ["class 0", "class 1", "class 2"]
    assert read_colors(None, 3)[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 0, 0]]
