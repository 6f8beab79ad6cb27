"""Frame numbers and neighbours."""

from pathlib import Path

import pytest

from etc.data.frame_names import folder_key, follows, frame_number, images_in, neighbour, pair_name
from etc.data.layouts import LAYOUTS
from etc.errors import UserError


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("aachen_000012_000019_leftImg8bit.png", "cityscapes", ("aachen_000012_", 19, "_leftImg8bit", 6)),
        ("ulm_000000_035713_leftImg8bit.jpg", "cityscapes", ("ulm_000000_", 35713, "_leftImg8bit", 6)),
        ("bad-honnef_000000_000000_leftImg8bit.png", "cityscapes", ("bad-honnef_000000_", 0, "_leftImg8bit", 6)),
        ("0016E5_07959.png", "camvid", ("0016E5_", 7959, "", 5)),
        ("0001TP_008550.jpg", "camvid", ("0001TP_", 8550, "", 6)),
        ("0006R0_f03540.png", "camvid", ("0006R0_f", 3540, "", 5)),
        ("Seq05VD_f00000.png", "camvid", ("Seq05VD_f", 0, "", 5)),
        ("aachen_000012_000019_gtFine_labelIds.png", "cityscapes", None),
        ("frame.png", "camvid", None),
        ("frame_000001.png", "folder", None),
    ],
)  # fmt: skip
def test_frame_numbers_of_the_layouts(name, layout, expected):
    assert frame_number(Path("some") / "folder" / name, LAYOUTS[layout]) == expected


@pytest.mark.parametrize(
    ("name", "layout", "step", "offset", "expected"),
    [
        ("aachen_000012_000019_leftImg8bit.png", "cityscapes", 1, 1, "aachen_000012_000020_leftImg8bit.png"),
        ("aachen_000012_000019_leftImg8bit.png", "cityscapes", 1, -19, "aachen_000012_000000_leftImg8bit.png"),
        ("0016E5_07959.png", "camvid", 2, 1, "0016E5_07961.png"),
        ("0016E5_08001.png", "camvid", 2, -2, "0016E5_07997.png"),
        ("0001TP_008550.jpg", "camvid", 1, 3, "0001TP_008553.jpg"),
        ("0006R0_f03540.png", "camvid", 1, -1, "0006R0_f03539.png"),
        ("Seq05VD_f00099.png", "camvid", 1, 1, "Seq05VD_f00100.png"),
        ("a_99.png", "camvid", 1, 1, "a_100.png"),  # the width is a least width
    ],
)
def test_neighbours_keep_sequence_width_and_suffix(name, layout, step, offset, expected):
    path = Path("/data/x") / name
    assert neighbour(path, offset, layout=LAYOUTS[layout], frame_step=step) == Path("/data/x") / expected


def test_before_the_first_frame_there_is_none():
    assert neighbour(Path("Seq05VD_f00001.png"), -2, layout=LAYOUTS["camvid"]) is None
    assert neighbour(Path("Seq05VD_f00001.png"), -1, layout=LAYOUTS["camvid"], frame_step=2) is None


def test_a_name_that_does_not_follow_the_layout_is_an_error():
    with pytest.raises(UserError, match=r"frame7\.png does not follow the cityscapes naming \(DATA\.layout\)"):
        neighbour(Path("frame7.png"), 1, layout=LAYOUTS["cityscapes"])


@pytest.fixture
def folder(tmp_path):
    for name in ("f_10.png", "f_2.png", "f_1.JPG", "notes.txt", ".f_3.png", "._f_1.png", "g_1.webp"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    return tmp_path


def test_images_of_a_folder_are_in_natural_order_without_hidden_files(folder):
    assert [path.name for path in images_in(folder)] == ["f_1.JPG", "f_2.png", "f_10.png", "g_1.webp"]
    assert images_in(folder / "nowhere") == []


def test_names_of_digits_and_letters_can_be_ordered(tmp_path):
    for name in ("a.png", "1.png", "01.png", "a1b2.png", "a1b10.png", "2x.png"):
        (tmp_path / name).touch()
    assert [p.name for p in images_in(tmp_path)] == ["01.png", "1.png", "2x.png", "a1b2.png", "a1b10.png", "a.png"]


def test_a_folder_that_changed_is_listed_again(folder):
    neighbour(folder / "f_2.png", 1, layout=LAYOUTS["folder"])
    (folder / "f_10.png").rename(folder / "f_3.png")
    assert neighbour(folder / "f_2.png", 1, layout=LAYOUTS["folder"]) == folder / "f_3.png"


def test_neighbours_in_a_folder_follow_its_order(folder):
    assert neighbour(folder / "f_2.png", 1, layout=LAYOUTS["folder"]) == folder / "f_10.png"
    assert neighbour(folder / "f_2.png", -1, layout=LAYOUTS["folder"]) == folder / "f_1.JPG"
    assert neighbour(folder / "f_2.png", -2, layout=LAYOUTS["folder"]) is None
    assert neighbour(folder / "f_2.png", 3, layout=LAYOUTS["folder"]) is None
    assert neighbour(folder / "missing.png", 1, layout=LAYOUTS["folder"]) is None


def test_a_large_folder_is_listed_once_for_all_its_frames(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for path in paths:
        path.touch()
    listed = []
    monkeypatch.setattr("etc.data.frame_names.images_in", lambda folder: listed.append(folder) or paths)
    assert [neighbour(path, 1, layout=LAYOUTS["folder"]) for path in paths] == [*paths[1:], None]
    assert listed == [tmp_path]


@pytest.mark.parametrize(
    ("later", "earlier", "layout", "step", "expected"),
    [
        ("a/x_000001_000002_leftImg8bit.png", "a/x_000001_000001_leftImg8bit.png", "cityscapes", 1, True),
        ("a/x_000001_000003_leftImg8bit.png", "a/x_000001_000001_leftImg8bit.png", "cityscapes", 1, False),
        ("a/x_000002_000002_leftImg8bit.png", "a/x_000001_000001_leftImg8bit.png", "cityscapes", 1, False),
        ("b/x_000001_000002_leftImg8bit.png", "a/x_000001_000001_leftImg8bit.png", "cityscapes", 1, False),
        ("a/x_000001_000001_leftImg8bit.png", "a/x_000001_000002_leftImg8bit.png", "cityscapes", 1, False),
        ("v/0016E5_07961.png", "v/0016E5_07959.png", "camvid", 2, True),
        ("v/0016E5_07961.png", "v/0016E5_07959.png", "camvid", 1, False),
        ("v/Seq05VD_f00001.png", "v/Seq05VD_00000.png", "camvid", 1, False),
        ("v/anything.png", "v/else.png", "folder", 1, True),
        ("v/anything.png", "w/else.png", "folder", 1, False),
        ("v/anything.png", "v/else.png", "camvid", 1, False),
    ],
)
def test_which_frame_follows_which(later, earlier, layout, step, expected):
    assert follows(later, earlier, layout=LAYOUTS[layout], frame_step=step) is expected


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_long_stems_give_a_pair_a_name_of_its_own_that_fits(letter):
    frames = [Path(f"{letter * 120}_{number:09d}.png") for number in range(3)]
    names = {pair_name(first, second) for first in frames for second in frames}
    assert len(names) == 9 and all(len(f"{name}.png".encode()) <= 255 for name in names)
    assert pair_name(Path("a/x_1.png"), Path("a/x_2.png")) == "x_1__x_2"
    assert len(folder_key(Path(letter * 120, "x.png")).encode()) <= 255
