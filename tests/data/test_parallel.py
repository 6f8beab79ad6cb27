"""Frames and labels in parallel folders, by patterns; and the official layouts that are of that kind."""

import json

import numpy as np
import pytest

from etc.config import load_settings
from etc.data.davis import davis_lists
from etc.data.kitti_step import VAL_SEQUENCES, kitti_step_lists
from etc.data.label_values import check_labels
from etc.data.labels import label_table_of, read_colors, read_train_ids
from etc.data.layouts import LAYOUTS
from etc.data.lists import read_clips, read_frames
from etc.data.make_lists import write_lists
from etc.data.parallel import Pattern, clip_names_in, parallel_lists
from etc.data.vspw import vspw_lists
from etc.errors import UserError
from tests import trees
from tests.conftest import REPOSITORY
from tests.data.test_make_lists import plant
from tests.scripts import run

VSPW_PATTERNS = "{clip}/origin/{frame}.jpg", "{clip}/mask/{frame}.png"
CONFIGS = {"vspw": 124, "kitti_step": 19, "davis": 4}  # the number of classes that the generated tree draws from


@pytest.mark.parametrize(
    ("frames", "labels", "image", "label"),
    [
        (*VSPW_PATTERNS, "day/a/origin/{}.jpg", "day/a/mask/{}.png"),
        ("{clip}/{frame}.png", "{clip}/{frame}_mask.png", "a/{}.png", "a/{}_mask.png"),
        ("rgb/{clip}_{frame}.jpg", "gt/{clip}_{frame}_L.png", "rgb/seq_01_{}.jpg", "gt/seq_01_{}_L.png"),
        ("{clip}/{clip}_{frame}.png", "gt/{clip}/{frame}.png", "x/x_{}.png", "gt/x/{}.png"),
        ("{clip}/img/{frame}_*.*", "{clip}/lab/{frame}.png", "a/img/{}_left.JPG", "a/lab/{}.png"),
        ("./frames/{frame}.jpg", "labels/{frame}.png", "frames/{}.jpg", "labels/{}.png"),
    ],
)
def test_frames_meet_the_labels_of_the_same_clip_and_frame(tmp_path, frames, labels, image, label):
    for number in (2, 10, 9):
        plant(tmp_path, image.format(number), label.format(number), "readme.txt", image.format("x") + ".txt")
    expected = "".join(f"{image.format(n)} {label.format(n)}\n" for n in (2, 9, 10))
    assert parallel_lists(tmp_path, frames, labels, None) == {"all.lst": expected, "all_clips.lst": expected}


def test_the_case_of_an_ending_does_not_matter(tmp_path):
    plant(tmp_path, "a/1.jpg", "a/2.JPG", "m/a/1.png", "m/a/2.PNG")
    lists = parallel_lists(tmp_path, "{clip}/{frame}.jpg", "m/{clip}/{frame}.png", None)
    assert lists["all.lst"].split() == ["a/1.jpg", "m/a/1.png", "a/2.JPG", "m/a/2.PNG"]


def test_the_order_is_that_of_the_frames_wherever_they_stand_in_the_path(tmp_path):
    for number in (1, 2, 10):
        plant(tmp_path, f"a/{number}/rgb.png", f"b/e{30 - number}_{number}.png")
    nested = parallel_lists(tmp_path, "{clip}/{frame}/rgb.png", None, None)
    assert nested["all_clips.lst"].split() == ["a/1/rgb.png", "a/2/rgb.png", "a/10/rgb.png"]
    behind = parallel_lists(tmp_path, "{clip}/e*_{frame}.png", None, None)
    assert behind["all_clips.lst"].split() == ["b/e29_1.png", "b/e28_2.png", "b/e20_10.png"]


def test_a_clip_of_two_parts_cannot_be_named_by_a_file(tmp_path):
    plant(tmp_path, *(f"{split}/seq1/{i}.jpg" for split in ("train", "val") for i in range(2)))
    with pytest.raises(UserError, match="the clip seq1 of the part val is in another part, too"):
        parallel_lists(tmp_path, "{split}/{clip}/{frame}.jpg", None, {"a": ["seq1"]})


def test_parts_are_told_by_the_path_or_by_files_of_clips(tmp_path, caplog):
    for split, clip in (("train", "b"), ("train", "a10"), ("train", "a9"), ("val", "c")):
        plant(tmp_path, *(f"{split}/{clip}/{i}.jpg" for i in range(2)), f"{split}/{clip}/0.png")
    by_path = parallel_lists(tmp_path, "{split}/{clip}/{frame}.jpg", "{split}/{clip}/{frame}.png", None)
    assert set(by_path) == {"train.lst", "train_clips.lst", "val.lst", "val_clips.lst"}
    assert by_path["val_clips.lst"] == "val/c/0.jpg val/c/0.png\nval/c/1.jpg\n"
    assert by_path["train.lst"].split()[::2] == ["train/a9/0.jpg", "train/a10/0.jpg", "train/b/0.jpg"]
    (tmp_path / "dev.txt").write_text("val/c\n\ntrain/b \ntrain/missing\n")
    splits = {"dev": clip_names_in(tmp_path / "dev.txt")}
    by_file = parallel_lists(tmp_path, "{clip}/{frame}.jpg", "{clip}/{frame}.png", splits)
    assert by_file["dev.lst"] == "val/c/0.jpg val/c/0.png\ntrain/b/0.jpg train/b/0.png\n"
    assert "1 of the 3 clips of dev are not here and are left out, the first is train/missing" in caplog.text


def test_clips_of_one_frame_and_labels_without_frame_are_left_out_and_said(tmp_path, caplog):
    plant(tmp_path, "a/0.jpg", "a/1.jpg", "b/0.jpg", "b/0.png", "a/7.png", "a/.8.jpg")
    lists = parallel_lists(tmp_path, "{clip}/{frame}.jpg", "{clip}/{frame}.png", None)
    assert lists == {"all.lst": "b/0.jpg b/0.png\n", "all_clips.lst": "a/0.jpg\na/1.jpg\n"}
    assert "1 labels have no frame and are left out, the first is a/7.png" in caplog.text
    assert "all: 1 clips have one frame alone" in caplog.text


@pytest.mark.parametrize(
    ("frames", "labels", "message"),
    [
        ("{clip}/x.jpg", None, r"--frames '\{clip\}/x.jpg' has no \{frame\}"),
        ("/{clip}/{frame}.jpg", None, "frame}.jpg' leads out of the data set: expected a path below its folder"),
        ("../rgb/{clip}/{frame}.jpg", None, "leads out of the data set"),
        ("//rgb/{clip}/{frame}.jpg", None, "leads out of the data set"),
        ("{video}/{frame}.jpg", None, r"\{video\} is unknown, expected \{clip\}, \{frame\} or \{split\}"),
        (
            "{clip}/{frame}.bmp",
            None,
            r"no image fits --frames '\{clip\}/\{frame\}.bmp'; the first image there is a/0.jpg",
        ),
        ("{clip}/{frame}.jpg", "gt/{clip}/{frame}.png", r"no label fits --labels .*: a/0.jpg would have gt/a/0.png"),
        ("{clip}/{frame}.jpg", "gt/{split}/{clip}/{frame}.png", r"\{split\} stands in one of them alone"),
        ("{clip}/{frame}.*", None, r"a/0.jpg and a/0.png both fit --frames '\{clip\}/\{frame\}.\*' as the same frame"),
    ],
)
def test_a_pattern_that_fits_nothing_says_what_was_looked_for(tmp_path, frames, labels, message):
    plant(tmp_path, "a/0.jpg", "a/1.jpg", "a/0.png")
    with pytest.raises(UserError, match=message):
        parallel_lists(tmp_path, frames, labels, None)


def test_labels_whose_frames_are_elsewhere_are_named(tmp_path):
    plant(tmp_path, "rgb/a/0.png", "gt/b/0.png")
    with pytest.raises(UserError, match=r"rgb/a/0.png would have gt/a/0.png, and gt/b/0.png is that of rgb/b/0.png$"):
        parallel_lists(tmp_path, "rgb/{clip}/{frame}.png", "gt/{clip}/{frame}.png", None)


def test_a_part_without_any_label_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    plant(tmp_path, "train/a/0.jpg", "train/a/1.jpg", "val/b/0.jpg", "val/b/1.jpg", "val/b/1.png")
    lists = parallel_lists(tmp_path, "{split}/{clip}/{frame}.jpg", "{split}/{clip}/{frame}.png", None)
    assert lists.keys() == {"train_clips.lst", "val.lst", "val_clips.lst"}
    assert "train: no frame has a label, so there is no train.lst" in caplog.messages


def test_files_of_clips_that_are_missing_or_name_nothing_here_are_refused(tmp_path):
    plant(tmp_path, "a/0.jpg", "a/1.jpg")
    with pytest.raises(UserError, match=r"none of the 1 clips of val is here, the first would be z; found are a"):
        parallel_lists(tmp_path, "{clip}/{frame}.jpg", None, {"val": ["z"]})
    with pytest.raises(UserError, match=r"cannot read .*val\.txt: No such file"):
        clip_names_in(tmp_path / "val.txt")


def test_parts_that_are_links_to_clips_elsewhere_are_found_and_loops_end(tmp_path):
    plant(tmp_path, "all/a/0.png", "all/a/1.png", "all/b/0.png", "all/b/1.png")
    for part, clip in (("train", "a"), ("val", "b")):
        (tmp_path / part).mkdir()
        (tmp_path / part / clip).symlink_to(f"../all/{clip}")
    (tmp_path / "all/a/loop").symlink_to(".")
    lists = parallel_lists(tmp_path, "{split}/{clip}/{frame}.png", None, None)
    assert lists["train_clips.lst"] == "train/a/0.png\ntrain/a/1.png\n"
    assert lists["val_clips.lst"] == "val/b/0.png\nval/b/1.png\n"
    assert lists["all_clips.lst"].count("\n") == 5  # two clips of two frames
    one = parallel_lists(tmp_path, "*/{clip}/{frame}.png", None, None)["all_clips.lst"]
    assert one.count("\n") == 5 and "train" not in one  # without {split} each file counts once


def test_only_the_folder_before_the_first_place_is_searched(tmp_path):
    plant(tmp_path, "far/a/0.jpg", "data/a/0.jpg", "data/a/1.jpg")
    assert [*Pattern("data/{clip}/{frame}.jpg", "frames").find(tmp_path).values()] == ["data/a/0.jpg", "data/a/1.jpg"]


def test_the_script_takes_patterns_with_parallel_alone(tmp_path, capsys):
    plant(tmp_path, "a/0.jpg", "a/1.jpg")
    assert run("make_lists", "parallel", tmp_path) == 2
    assert "parallel needs --frames" in capsys.readouterr().err
    assert run("make_lists", "folder", tmp_path, "--frames", "{frame}.jpg") == 2
    assert "belong to the layout parallel, not to folder" in capsys.readouterr().err
    words = ["parallel", tmp_path, "--frames", "{clip}/{frame}.jpg", "--out", tmp_path / "lists"]
    assert run("make_lists", *words) == 0
    assert capsys.readouterr().out == f"{tmp_path}/lists/all_clips.lst: 2 frames in 1 clips\n"


@pytest.fixture(params=CONFIGS)
def official(request, tmp_path):
    """The name of a layout, its generated folder, and the lists of it."""
    getattr(trees, request.param)(tmp_path / "data")
    lists = LAYOUTS[request.param].make_lists(tmp_path / "data")
    write_lists(lists, tmp_path / "lists")
    return request.param, tmp_path / "data", lists


def test_every_frame_of_an_official_layout_is_listed_once_with_its_label(official, tmp_path):
    layout, root, lists = official
    suffix = ".png" if layout == "kitti_step" else ".jpg"
    on_disk = [path for path in trees.listed(root) if path.endswith(suffix) and "panoptic" not in path]
    splits = {name: read_frames(tmp_path / "lists" / name) for name in lists if name.endswith("_clips.lst")}
    assert sorted(frame.image for frames in splits.values() for frame in frames) == on_disk
    assert {name: len(frames) for name, frames in splits.items()} == {
        "train_clips.lst": 8,
        "val_clips.lst": 4,
        **({"test_clips.lst": 4} if layout == "vspw" else {}),
    }
    for name in ("train", "val"):
        frames = read_frames(tmp_path / "lists" / f"{name}.lst")
        assert frames == splits[f"{name}_clips.lst"]
        for frame in frames:
            image, label = frame.image.split("/"), frame.label.split("/")
            assert (root / frame.label).is_file()
            assert image[-1].split(".")[0] == label[-1].split(".")[0]
            assert (image[1] == label[1]) if layout == "vspw" else (image[-2] == label[-2])
    clips = read_clips(tmp_path / "lists/train_clips.lst", layout=LAYOUTS[layout])
    assert [len(clip) for clip in clips] == [4, 4]


def test_the_settings_of_an_official_layout_read_the_classes_that_were_drawn(official, tmp_path):
    layout, root, _ = official
    path = REPOSITORY / f"configs/{layout}/pspnet18_flow.yaml"
    settings = load_settings(path, [f"DATA.data_root={root}", f"DATA.val_list={tmp_path}/lists/val.lst"])
    frames = read_frames(settings.DATA.val_list)
    check_labels(settings, frames, "val.lst")
    for number, frame in enumerate(frames):
        drawn = trees.ids(number, CONFIGS[layout])
        if layout == "davis":  # void is background there, and objects are one class
            drawn = ((drawn != 255) & (drawn > 0)).astype(np.uint8)
        assert (read_train_ids(root / frame.label, label_table_of(settings), (64, 96)) == drawn).all()


def test_the_names_of_vspw_are_those_of_its_own_file_in_the_order_of_the_train_ids(tmp_path):
    trees.vspw(tmp_path)
    assert vspw_lists(tmp_path)["names.txt"].split() == [f"thing_{value}" for value in range(1, 125)]
    for text, message in (
        (json.dumps({"wall": "1"}), r"expected one name for each of the label values 1\.\.124"),
        (json.dumps(trees.VSPW_NAMES | {"twice": "1"}), r"expected one name for each"),
        ('["wall"]', "expected the class names of VSPW as JSON"),
        ("{", "expected the class names of VSPW as JSON"),
    ):
        (tmp_path / "label_num_dic_final.json").write_text(text)
        with pytest.raises(UserError, match=message):
            vspw_lists(tmp_path)


def test_the_colours_of_vspw_and_davis_are_different_and_those_of_their_palettes():
    vspw = read_colors("data/palettes/vspw_colors.txt", 124)[:124]
    assert len(np.unique(vspw, axis=0)) == 124 and (vspw.max(1) > 0).all()
    assert vspw[:3].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]  # PASCAL VOC's, from 1 on
    assert read_colors("data/palettes/davis_colors.txt", 2)[:2].tolist() == [[0, 0, 0], [128, 0, 0]]


@pytest.mark.parametrize("folder", ["training/image_02", "image_02", "images/val"])
def test_the_frames_of_kitti_step_may_lie_where_kitti_or_others_put_them(tmp_path, folder):
    plant(tmp_path, *(f"{folder}/0002/00000{i}.png" for i in range(2)), "panoptic_maps/val/0002/000001.png")
    plant(tmp_path, *(f"{folder}/0020/00000{i}.png" for i in range(2)))
    lists = kitti_step_lists(tmp_path)
    assert lists["val.lst"] == f"{folder}/0002/000001.png panoptic_maps/val/0002/000001.png\n"
    assert "0020" not in lists["val_clips.lst"] and lists["val_clips.lst"].count("\n") == 2


def test_a_division_of_kitti_step_other_than_the_official_one_is_said(tmp_path, caplog):
    plant(tmp_path, *(f"image_02/{s}/00000{i}.png" for s in ("0001", "0002") for i in range(2)))
    plant(tmp_path, *(f"panoptic_maps/val/{s}/000000.png" for s in ("0001", "0002")))
    kitti_step_lists(tmp_path)
    assert "panoptic_maps/val holds 0001, which the official division has in train" in caplog.text
    assert [int(name) for name in VAL_SEQUENCES] == [2, 6, 7, 8, 10, 13, 14, 16, 18]


def test_davis_takes_the_labels_of_the_unsupervised_task_and_full_resolution(tmp_path):
    plant(tmp_path, *(f"JPEGImages/Full-Resolution/bear/0000{i}.jpg" for i in range(2)))
    plant(tmp_path, "Annotations_unsupervised/Full-Resolution/bear/00000.png")
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("bear\n")
    folders = "JPEGImages/Full-Resolution/bear", "Annotations_unsupervised/Full-Resolution/bear"
    assert davis_lists(tmp_path)["val.lst"] == "{}/00000.jpg {}/00000.png\n".format(*folders)


@pytest.mark.parametrize(
    ("layout", "removed", "message"),
    [
        ("vspw", "*.txt", "has neither train.txt nor val.txt: expected the VSPW layout"),
        ("vspw", "data", "has no folder data: expected the VSPW layout"),
        ("vspw", "label_num*", "label_num_dic_final.json, which names the classes: No such file"),
        ("kitti_step", "panoptic_maps", "has no panoptic_maps/train and no panoptic_maps/val"),
        ("kitti_step", "training", "has none of the folders training/image_02, image_02, images/train: put or link"),
        ("davis", "ImageSets", "has no ImageSets/2017/train.txt: expected the DAVIS 2017 layout"),
        ("davis", "JPEGImages", "has no JPEGImages/480p: expected the DAVIS 2017 layout"),
        ("davis", "Annotations", "has no Annotations/480p: expected the DAVIS 2017 layout"),
    ],
)
def test_a_wrong_tree_is_one_line_that_says_what_was_looked_for(layout, removed, message, tmp_path, capsys):
    getattr(trees, layout)(tmp_path / "data")
    for path in (tmp_path / "data").glob(removed):
        path.rename(tmp_path / f"removed_{path.name}")
    assert run("make_lists", layout, tmp_path / "data", "--out", tmp_path / "lists") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "lists" / "train.lst").exists()


def test_a_class_outside_kitti_step_in_the_red_channel_is_named(tmp_path):
    values = np.full((4, 6), 19, np.uint8)
    trees.write(tmp_path / "0.png", trees.step_mask(values))
    settings = load_settings(REPOSITORY / "configs/kitti_step/pspnet18_flow.yaml", [])
    with pytest.raises(UserError, match=r"0\.png: the value 19 of the red channel is outside the classes"):
        read_train_ids(tmp_path / "0.png", label_table_of(settings))
    # A converted map, gray, is read as it is; without the setting, the colours are refused with the setting named.
    trees.write(tmp_path / "gray.png", trees.gray(np.full((4, 6), 18, np.uint8)))
    assert (read_train_ids(tmp_path / "gray.png", label_table_of(settings)) == 18).all()
    with pytest.raises(UserError, match=r"DATA\.label_map red"):
        read_train_ids(tmp_path / "0.png", np.arange(256, dtype=np.uint8))
