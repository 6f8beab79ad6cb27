"""The list of data layouts, and what loops over it."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from etc import cli
from etc.config import load_settings
from etc.data.frame_names import frame_number
from etc.data.labels import label_table
from etc.data.layouts import LABEL_MAPS, LAYOUTS, check_layout, layout_named
from etc.data.sources import clips_to_score
from etc.data.training_list import training_pairs
from etc.errors import ConfigError, UserError
from tests.scripts import load_script

README = (Path(__file__).resolve().parents[2] / "data" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_complete(name, tmp_path):
    layout = LAYOUTS[name]
    assert layout.name == name and layout.description
    assert layout_named(name) is layout
    if layout.frame_name is not None:
        assert set(layout.frame_name.groupindex) == {"head", "number", "tail"}
    else:
        assert frame_number("x_000001.png", layout) is None
    expected = "no folder with two images or more" if name == "folder" else "expected (the .* layout|folders train)"
    with pytest.raises(UserError, match=f"{tmp_path}.*{expected}"):
        layout.make_lists(tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_a_choice_of_the_settings_of_the_script_and_of_its_help(name, capsys):
    assert check_layout(load_settings(None, [f"DATA.layout={name}"])).DATA.layout == name
    with pytest.raises(SystemExit) as ended:
        load_script("make_lists").main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"  {name}\n" in shown
    assert " ".join(LAYOUTS[name].description.split()) in " ".join(shown.split())


def test_every_layout_stands_in_the_readme_of_the_data_folder():
    assert [name for name in LAYOUTS if f"`{name}`" not in README] == []


@pytest.mark.parametrize(("name", "label_ids"), LABEL_MAPS.items(), ids=LABEL_MAPS)
def test_every_label_map_is_a_choice_and_makes_a_table(name, label_ids):
    assert check_layout(load_settings(None, [f"DATA.label_map={name}"])).DATA.label_map == name
    classes = len(label_ids or range(5))
    table = label_table(name, classes, 255)
    assert table[list(label_ids or range(5))].tolist() == list(range(classes)) and table[255] == 255
    assert np.count_nonzero(table < 254) == classes


@pytest.mark.parametrize("key", ["layout", "label_map"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(key):
    known = ", ".join(LAYOUTS if key == "layout" else LABEL_MAPS)
    message = rf"DATA\.{key} 'cityscape' is unknown: expected one of {known}"
    with pytest.raises(ConfigError, match=message):
        cli.parse([f"DATA.{key}=cityscape"], description="")


def test_settings_that_no_script_parsed_are_checked_before_any_work(tmp_path):
    (tmp_path / "x_1.png").touch()
    (tmp_path / "train.lst").write_text("x_1.png\n")
    words = ["layout=cityscape", "synthetic=false", f"data_root={tmp_path}", f"train_list={tmp_path}/train.lst"]
    settings = load_settings(None, [f"DATA.{word}" for word in words])
    for work in (clips_to_score, training_pairs):
        with pytest.raises(ConfigError, match=r"DATA\.layout 'cityscape' is unknown"):
            work(settings)
    with pytest.raises(ConfigError, match=r"DATA\.label_map 'cityscape' is unknown"):
        label_table("cityscape", 19, 255)


VSPW_TREE = {
    "label_num_dic_final.json": json.dumps({f"class {k}": str(k) for k in range(1, 125)}),
    "train.txt": "a\n",
    "val.txt": "b\n",
    **{f"data/{clip}/origin/{t}.jpg": "" for clip in "ab" for t in range(2)},
    **{f"data/{clip}/mask/{t}.png": "" for clip in "ab" for t in range(2)},
}
CAMVID_TREE = {
    f"{split}{kind}/x_{t:02}.png": "" for split in ("train", "val", "test") for kind in ("", "annot") for t in (0, 2)
}
DAVIS_TREE = {
    "ImageSets/2017/train.txt": "a\n",
    "ImageSets/2017/val.txt": "a\n",
    **{f"JPEGImages/480p/a/{t}.jpg": "" for t in range(2)},
    **{f"Annotations/480p/a/{t}.png": "" for t in range(2)},
}
KITTI_TREE = {
    f"{kind}/{clip}/{t}.png": ""
    for split, clip in (("train", "0000"), ("val", "0002"))
    for kind in ("training/image_02", f"panoptic_maps/{split}")
    for t in range(2)
}


@pytest.mark.parametrize(
    ("name", "tree", "without", "said"),
    [
        ("vspw", VSPW_TREE, "nothing", None),
        ("vspw", VSPW_TREE, "val.txt", "has no val.txt: no lists of val"),
        ("vspw", VSPW_TREE, "data/a/mask", "train: no frame has a label, so there is no train.lst"),
        ("vspw", VSPW_TREE, "data/a/mask/1.png", "train: 1 of 2 frames have no label and are in train_clips.lst alone"),
        ("camvid", CAMVID_TREE, "nothing", None),
        (
            "camvid",
            CAMVID_TREE,
            "trainannot",
            "train: 2 of 2 frames have no label in trainannot and are not in train.lst",
        ),
        ("camvid", CAMVID_TREE, "testannot/x_02", "test: 1 of 2 frames have no label in testannot"),
        ("camvid", CAMVID_TREE, "val/", "has no frames in val: no list of val"),
        ("davis", DAVIS_TREE, "nothing", None),
        ("davis", DAVIS_TREE, "ImageSets/2017/val.txt", "has no ImageSets/2017/val.txt: no lists of val"),
        ("davis", DAVIS_TREE, "Annotations/480p/a/1", "train: 1 of 2 frames have no label"),
        ("kitti_step", KITTI_TREE, "nothing", None),
        ("kitti_step", KITTI_TREE, "panoptic_maps/val", "has no panoptic_maps/val: no lists of val"),
    ],
)
def test_what_a_half_tree_lacks_is_said(name, tree, without, said, tmp_path, caplog):
    for path, text in tree.items():
        if not path.startswith(without):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
    with caplog.at_level(logging.INFO):
        assert LAYOUTS[name].make_lists(tmp_path)
    assert not caplog.messages if said is None else caplog.text.count(said) == 1


def test_void_of_vspw_is_0_254_and_255():
    table = label_table("void_zero", 124, 255)
    assert table[[0, 254, 255]].tolist() == [255] * 3 and table[[1, 124]].tolist() == [0, 123]
    assert table[125:254].min() == table[125:254].max() == 254, "values of no class are errors"
