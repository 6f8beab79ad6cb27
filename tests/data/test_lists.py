"""List files and the checks of what they name."""

import re
from functools import partial

import pytest

from etc.data.labels import read_names
from etc.data.layouts import LAYOUTS
from etc.data.lists import (
    Frame,
    check_files,
    clip_names,
    earlier_names,
    existing_neighbours,
    format_clips,
    format_frames,
    frames_sha256,
    group_clips,
    prediction_names,
    read_clips,
    read_frames,
)
from etc.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "x.lst"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def city(number: int, sequence: int = 0) -> str:
    return f"val/a/a_{sequence:06d}_{number:06d}_leftImg8bit.png"


def names(clips) -> list[list[str]]:
    return [[frame.image for frame in clip] for clip in clips]


def test_frames_with_and_without_label(write):
    frames = read_frames(write("# a comment\na.png b.png\n\n  c.png  \n# more\nd.png\te.png\n"))
    assert frames == [Frame("a.png", "b.png"), Frame("c.png", None), Frame("d.png", "e.png")]


def test_doubled_slashes_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path):
    (tmp_path / "x.lst").write_bytes(b"\xef\xbb\xbfleft//a.png gt/./b.png\r\nc.png\r\n")
    assert read_frames(tmp_path / "x.lst") == [Frame("left/a.png", "gt/b.png"), Frame("c.png")]


def test_a_line_of_three_words_is_named_by_its_number(write):
    with pytest.raises(UserError, match=r"x\.lst:3: .* found 3 words"):
        read_frames(write("a.png\n\na b c\n"))


@pytest.mark.parametrize("text", ["", "\n\n", "# only comments\n"])
@pytest.mark.parametrize("read", [read_frames, lambda path: read_clips(path, layout=LAYOUTS["folder"])])
def test_a_list_without_frames_is_an_error(write, text, read):
    with pytest.raises(UserError, match="lists no frame"):
        read(write(text))


def test_a_missing_list_and_a_binary_one_are_named(tmp_path):
    with pytest.raises(UserError, match=r"list file .*x\.lst: No such file"):
        read_frames(tmp_path / "x.lst")
    (tmp_path / "x.lst").write_bytes(b"\xff\xfe\x81\x00")
    with pytest.raises(UserError, match=r"x\.lst: not a text file"):
        read_frames(tmp_path / "x.lst")


@pytest.mark.parametrize("read", [read_frames, partial(read_names, classes=2)])
def test_a_list_of_a_data_set_that_is_missing_comes_with_the_command_that_writes_it(read):
    with pytest.raises(UserError, match=r"No such file.*; python tool/make_lists.py vspw FOLDER_OF_THE_DATA_SET"):
        read("data/lists/vspw/nothing.txt")


def test_blank_lines_end_clips_and_comments_do_not(write):
    path = write("\n\na/1.png\n# here\na/2.png l.png\n\n\n\nb/9.png\nb/3.png\n\n")
    clips = read_clips(path, layout=LAYOUTS["folder"])
    assert names(clips) == [["a/1.png", "a/2.png"], ["b/9.png", "b/3.png"]]
    assert clips[0][1].label == "l.png"


def test_names_without_the_layouts_numbers_are_told_which_settings_decide(write):
    path = write("val/000.png\nval/002.png\nval/004.png\n")
    with pytest.raises(UserError, match=r"one frame.*DATA\.layout cityscapes.*DATA\.frame_step 1"):
        read_clips(path, layout=LAYOUTS["cityscapes"])


def test_a_folder_whose_name_begins_a_comment_stays_in_its_list(write):
    clip = [Frame("#1/0.jpg", "#1/0.png"), Frame("#1/1.jpg")]
    assert read_frames(write(format_frames(clip))) == clip


def test_a_list_without_blank_lines_is_cut_where_the_numbers_or_the_sequence_jump(write):
    images = [city(3), city(4), city(5), city(7), city(8), city(9, 1), city(10, 1)]
    clips = read_clips(write("\n".join(images)), layout=LAYOUTS["cityscapes"])
    assert names(clips) == [images[:3], images[3:5], images[5:]]


@pytest.mark.parametrize("between", ["\n", "\n\n"])
def test_shuffled_lines_are_named_whether_or_not_blank_lines_separate_the_clips(write, between):
    images = [city(1), city(2), city(4), city(3), city(5)]
    path = write("# a comment\n" + "\n".join(images) + between + "\n".join([city(1, 9), city(2, 9)]))
    with pytest.raises(UserError, match=r"x\.lst:5: frame 3 comes after frame 4 of line 4: list the frames") as caught:
        read_clips(path, layout=LAYOUTS["cityscapes"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["cityscapes", "folder"])
@pytest.mark.parametrize("more", ["", f"\n\n{city(1, 9)}\n{city(2, 9)}\n"])
def test_doubled_lines_are_named(write, layout, more):
    images = [city(1), city(2), city(2), city(3)]
    with pytest.raises(UserError, match=r"x\.lst:3: val/a/.*_000002_leftImg8bit\.png is in line 2 already"):
        read_clips(write("\n".join(images) + more), layout=LAYOUTS[layout])


@pytest.mark.parametrize("between", ["", "\n"])
def test_a_clip_that_is_listed_twice_is_named(write, between):
    clip = f"{city(1)}\n{city(2)}\n"
    with pytest.raises(UserError, match=rf"x\.lst:{4 if between else 3}: .* in line 1 already"):
        read_clips(write(clip + between + clip), layout=LAYOUTS["cityscapes"])


@pytest.mark.parametrize("twin", ["v/s_03.png", "v/s_3.jpg"])
@pytest.mark.parametrize("more", ["", "\nw/s_1.png\nw/s_2.png\n"])
def test_two_files_of_the_same_number_are_the_same_frame(write, twin, more):
    with pytest.raises(UserError, match=r"x\.lst:2: frame 3 comes after frame 3 of line 1"):
        read_clips(write(f"v/s_3.png\n{twin}\nv/s_4.png\n{more}"), layout=LAYOUTS["camvid"])


def test_a_sequence_that_returns_with_lower_numbers_is_named(write):
    """Blocks of a list in another order: no two lines that follow each other show it."""
    path = write("v/s_5.png\nv/s_6.png\nw/s_1.png\nw/s_2.png\nv/s_1.png\nv/s_2.png\n")
    with pytest.raises(UserError, match=r"x\.lst:5: frame 1 comes after frame 6 of line 2: list the frames"):
        read_clips(path, layout=LAYOUTS["camvid"])


@pytest.mark.parametrize(
    ("layout", "lines"),
    [
        ("camvid", ["v/s_1.png", "v/s_2.png", "w/s_1.png", "w/s_2.png", "v/s_3.png", "v/s_4.png"]),
        ("folder", ["v/a.png", "v/b.png", "w/a.png", "w/b.png", "v/c.png", "v/d.png"]),
    ],
)
def test_a_clip_that_goes_on_after_another_one_is_named_or_cut_by_blank_lines(write, layout, lines):
    with pytest.raises(UserError, match=rf"x\.lst:5: {lines[4]} continues the clip of line 2, but frames of another"):
        read_clips(write("\n".join(lines)), layout=LAYOUTS[layout])
    cut = [lines[:2], lines[2:4], lines[4:]]
    assert names(read_clips(write("\n\n".join(map("\n".join, cut))), layout=LAYOUTS[layout])) == cut


def test_a_sequence_that_returns_after_a_gap_is_another_clip(write):
    lines = ["v/s_1.png", "v/s_2.png", "w/s_1.png", "w/s_2.png", "v/s_5.png", "v/s_6.png"]
    clips = read_clips(write("\n".join(lines)), layout=LAYOUTS["camvid"])
    assert names(clips) == [lines[:2], lines[2:4], lines[4:]]


def test_a_lost_blank_line_between_two_clips_is_named(write):
    clips = [[city(number, sequence) for number in (1, 2)] for sequence in range(3)]
    path = write("\n".join(clips[0] + clips[1]) + "\n\n" + "\n".join(clips[2]))
    with pytest.raises(
        UserError, match=r"x\.lst:3: .*a_000001_000001.* is of another sequence than line 2: expected a blank"
    ):
        read_clips(path, layout=LAYOUTS["cityscapes"])


def test_clips_may_share_frames_when_a_blank_line_separates_them(write):
    images = [[city(1), city(2), city(3)], [city(2), city(3), city(4)]]
    clips = read_clips(write("\n\n".join(map("\n".join, images))), layout=LAYOUTS["cityscapes"])
    assert names(clips) == images


def test_gaps_in_the_numbers_of_a_clip_and_names_without_numbers_are_accepted(write, caplog):
    images = [[city(1), city(4), city(9)], ["v/b.png", "v/a.png"]]
    path = write("\n\n".join(map("\n".join, images)))
    assert names(read_clips(path, layout=LAYOUTS["cityscapes"])) == images
    assert not caplog.text


def test_a_folder_in_another_order_is_said_with_its_first_line(write, caplog):
    images = ["v/f10.png", "v/f9.png", "v/f2.png", "w/f1.png", "w/f2.png"]
    read_clips(write("\n".join(images)), layout=LAYOUTS["folder"])
    assert [record.message.partition(".lst")[2] for record in caplog.records] == [
        ":2: f9.png comes after f10.png, other than in their folder: the order of the list is used"
    ]


def test_frame_step_decides_which_frames_are_consecutive(write):
    path = write("v/s_00001.png\nv/s_00003.png\nv/s_00005.png\n")
    assert len(read_clips(path, layout=LAYOUTS["camvid"], frame_step=2)) == 1
    with pytest.raises(UserError, match="one frame"):
        read_clips(path, layout=LAYOUTS["camvid"], frame_step=1)


def test_folders_are_clips_in_the_folder_layout(write):
    clips = read_clips(write("a/x.png\na/y.png\nb/x.png\nb/y.png\n"), layout=LAYOUTS["folder"])
    assert names(clips) == [["a/x.png", "a/y.png"], ["b/x.png", "b/y.png"]]


@pytest.mark.parametrize("text", ["a/x.png\n", "a/x.png\na/y.png\n\nb/only.png\n", "a/x.png\na/y.png\nb/only.png\n"])
def test_a_clip_of_one_frame_is_an_error_that_names_it(write, text):
    with pytest.raises(UserError, match=r"(only|x)\.png has one frame"):
        read_clips(write(text), layout=LAYOUTS["folder"])


def test_what_is_formatted_reads_back(write):
    clips = [[Frame("a/1.png", "l.png"), Frame("a/2.png")], [Frame("b/1.png"), Frame("b/2.png", "m.png")]]
    assert read_clips(write(format_clips(clips)), layout=LAYOUTS["folder"]) == clips
    assert read_frames(write(format_frames(clips[0]))) == clips[0]


def test_a_path_with_a_space_is_refused_when_it_is_written():
    with pytest.raises(UserError, match=r"'my clip/1\.png' holds white space"):
        format_frames([Frame("my clip/1.png")])


def test_grouping_nothing_gives_nothing():
    assert group_clips([], layout=LAYOUTS["cityscapes"]) == []


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("a/x.jpg", "a/x"),
        ("y.v2.png", "y.v2"),
        ("video/origin/000.jpg", "video/origin/000"),
        ("seq/left_frames/000.tif", "seq/left_frames/000"),
        (f"leftImg8bit/{city(3)}", "a_000000_000003_leftImg8bit"),
        (f"leftImg8bit_sequence/{city(3)}", "a_000000_000003_leftImg8bit"),
        (city(3), "a_000000_000003_leftImg8bit"),
        (f"foggy/leftImg8bit/{city(3)}", f"foggy/leftImg8bit/{city(3)[:-4]}"),
        ("leftImg8bit/val/b/a_000000_000003_leftImg8bit.png", "leftImg8bit/val/b/a_000000_000003_leftImg8bit"),
    ],
)
def test_the_name_of_a_prediction_is_that_of_its_frame_whatever_else_is_listed(image, name):
    others = [Frame("a/y.jpg"), Frame("w/origin/000.jpg"), Frame("000.png"), Frame("x.jpg"), Frame(city(4))]
    assert prediction_names([Frame(image, "label.png")]) == [name]
    together = prediction_names([*others, Frame(image), Frame(image)])
    assert together[-2:] == [name, name] and len({*together}) == len(others) + 1


@pytest.mark.parametrize(
    "images",
    [
        ("v/a/1.jpg", "v/a/1.png"),
        (f"leftImg8bit/{city(3)}", f"leftImg8bit_sequence/{city(3)}"),
    ],
)
def test_images_that_would_share_a_prediction_are_refused_with_both_names(images):
    with pytest.raises(UserError, match=rf"same prediction file .*\.png: {images[0]} and {images[1]}; list one"):
        prediction_names([Frame(image) for image in images])


def test_earlier_versions_named_predictions_by_what_else_was_listed():
    assert earlier_names([Frame("v/a/1.jpg"), Frame("v/a/2.jpg")]) == ["1", "2"]
    assert earlier_names([Frame("v/a/1.jpg"), Frame("v/b/1.jpg"), Frame("../2.jpg")]) == ["a/1", "b/1", "2"]
    assert earlier_names([Frame("v/a/1.jpg"), Frame("w/a/1.jpg")]) == [None, None]


def test_clips_are_called_by_as_many_folders_as_tell_them_apart():
    assert clip_names([[Frame("v/a/1.jpg"), Frame("v/a/2.jpg")], [Frame("w/a/2.jpg")]]) == ["1", "2"]
    assert clip_names([[Frame("v/a/1.jpg")], [Frame("v/b/1.jpg")]]) == ["a/1", "b/1"]
    assert clip_names([[Frame("v/origin/1.jpg")], [Frame("w/origin/1.jpg")]]) == ["v/origin/1", "w/origin/1"]
    assert clip_names([[Frame("/v/o/1.jpg")], [Frame("/w/o/1.jpg")]]) == ["v/o/1", "w/o/1"]
    assert clip_names([[Frame("v/1.jpg")], [Frame("v/1.png")]]) == ["v/1.jpg", "v/1.png"]


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    for name in ("1.png", "3.png", "l1.png"):
        (tmp_path / name).touch()
    frames = [Frame(f"{i}.png", f"l{i}.png") for i in range(1, 5)] + [Frame("3.png")]
    with pytest.raises(UserError) as caught:
        check_files(frames, tmp_path, source="train.lst")
    message = str(caught.value)
    assert message.startswith("train.lst: 5 of 9 files are missing: ")
    assert f"{tmp_path / '2.png'}, {tmp_path / 'l2.png'}, {tmp_path / 'l3.png'}, ..." in message
    assert "4.png" not in message and "\n" not in message


def test_a_folder_in_place_of_a_frame_is_missing(tmp_path):
    (tmp_path / "1.png").mkdir()
    with pytest.raises(UserError, match="1 of 1 files are missing"):
        check_files([Frame("1.png")], tmp_path, source="x")


def test_complete_files_pass_and_a_missing_root_is_named(tmp_path):
    (tmp_path / "1.png").touch()
    check_files([Frame("1.png")], tmp_path, source="x")
    with pytest.raises(UserError, match=r"DATA\.data_root .*nowhere does not exist"):
        check_files([Frame("1.png")], tmp_path / "nowhere", source="x")


def test_masks_beside_the_frames_of_a_list_are_no_neighbours(tmp_path):
    for number in range(3):
        for name in (f"{number}.png", f"{number}_gt.png", f"{number}.jpg"):
            (tmp_path / name).touch()
    frames = [Frame(f"{number}.jpg", f"{number}_gt.png") for number in range(3)]
    found = existing_neighbours(frames, tmp_path, [-2, -1, 1, 2], layout=LAYOUTS["folder"])
    assert found == [[1, 2], [-1, 1], [-2, -1]]


def test_neighbours_on_disk_are_found_frame_by_frame(tmp_path):
    (tmp_path / "val" / "a").mkdir(parents=True)
    for number in (0, 1, 2, 4):
        (tmp_path / city(number)).touch()
    frames = [Frame(city(0)), Frame(city(2)), Frame(city(9))]
    found = existing_neighbours(frames, tmp_path, [-2, -1, 1, 2], layout=LAYOUTS["cityscapes"])
    assert found == [[1, 2], [-2, -1, 2], []]


@pytest.mark.parametrize("outside", ["../000.png", "../../a/000.png", "/elsewhere/a/000.png"])
def test_no_name_of_a_prediction_leads_out_of_its_folder(outside, tmp_path):
    name, inside, root = prediction_names([Frame(outside), Frame("a/000.png"), Frame("000.png")], tmp_path / "data")
    assert (inside, root) == ("a/000", "000")
    assert re.fullmatch(r"[^/.]+-[0-9a-f]{8}/000", name)
    assert prediction_names([Frame(str(tmp_path / "data/a/000.png"))], tmp_path / "data") == ["a/000"]


def test_the_hash_of_frames_is_that_of_their_copies_and_changes_with_a_size_an_order_or_a_label(tmp_path):
    for folder in ("a", "copy"):
        for index, name in enumerate(("x.png", "y.png", "x_label.png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(bytes(index + 1))
    frames = [Frame("x.png", "x_label.png"), Frame("y.png")]
    own = frames_sha256(frames, tmp_path / "a")
    assert own == frames_sha256(frames, tmp_path / "copy")
    others = [frames[::-1], [Frame("x.png"), frames[1]]]
    assert len({own, *(frames_sha256(other, tmp_path / "a") for other in others)}) == 3
    (tmp_path / "copy/y.png").rename(tmp_path / "copy/z.png")
    renamed = [frames[0], Frame("z.png")]
    assert frames_sha256(renamed, tmp_path / "copy") == own
    assert frames_sha256(renamed, tmp_path / "copy", named=True) != frames_sha256(frames, tmp_path / "a", named=True)
    (tmp_path / "a/x_label.png").write_bytes(bytes(9))
    assert frames_sha256(frames, tmp_path / "a") != own
