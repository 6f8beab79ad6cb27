"""Every layout from its folders to its scores: a generated tree, lists, two steps of training, predictions, scores."""

import json

import pytest
import torch

from model import build_model
from tests import trees
from tests.conftest import REPOSITORY
from tests.scripts import run

PATTERNS = ("--frames", "{clip}/rgb/{frame}.jpg", "--labels", "{clip}/ids/{frame}.png")


def training(root, lists, folder):
    """Overrides for two short steps."""
    return [
        f"DATA.data_root={root}",
        f"DATA.train_list={lists}/train.lst",
        f"DATA.val_list={lists}/val.lst",
        f"DATA.clip_list={lists}/val_clips.lst",
        "DATA.allow_missing_neighbours=true",
        "FLOW.name=dis",
        f"FLOW.cache={folder}/flow",
        f"TRAIN.save_path={folder}/run",
        "TRAIN.pretrained=false",
        "TRAIN.train_h=49",
        "TRAIN.train_w=65",
        "TRAIN.st_weight=0.1",
        "TRAIN.batch_size=4",
        "TRAIN.epochs=1",
        "TRAIN.val_freq=1",
        "TRAIN.workers=0",
        f"TEST.ckpt_path={folder}/run/last.pth",
        f"TEST.save_folder={folder}/result",
        "TEST.device=cpu",
    ]


def own_classes(folder):
    """Settings of four classes, as a user writes them for a data set of his own."""
    (folder / "names.txt").write_text("a\nb\nc\nd\n")
    (folder / "colors.txt").write_text("0 0 0\n9 0 0\n0 9 0\n0 0 9\n")
    words = ["synthetic=false", "layout=folder", "classes=4", "label_map=none"]
    paths = [f"names_path={folder}/names.txt", f"colors_path={folder}/colors.txt"]
    return [f"DATA.{word}" for word in (*words, *paths)]


def words_for(layout, root, lists, folder):
    """The command line, but for the clips."""
    words = training(root, lists, folder)
    if layout in ("parallel", "folder"):
        words += own_classes(folder)
    else:
        words = ["--config", str(REPOSITORY / f"configs/{layout}/pspnet18_flow.yaml"), *words]
    if layout == "vspw":
        words.append(f"DATA.names_path={lists}/names.txt")
    if layout == "folder":  # without labels: the network's own predictions, and no mIoU
        lists_of_all = [f"DATA.{key}={lists}/clips.lst" for key in ("train_list", "clip_list")]
        torch.save(build_model("psp18", classes=4).state_dict(), folder / "mine.pth")
        words += [*lists_of_all, "DATA.val_list=none", "TRAIN.self_training=0.01", "TRAIN.batch_size=6"]
        words.append(f"TRAIN.weight={folder}/mine.pth")
    return words


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cityscapes", "camvid", "vspw", "kitti_step", "davis", "parallel", "folder"])
def test_a_layout_leads_from_its_folders_to_its_scores(layout, tmp_path):
    root, lists = tmp_path / "data", tmp_path / "lists"
    getattr(trees, layout)(root)
    extra = [*PATTERNS, "--splits", root / "train.txt", root / "val.txt"] if layout == "parallel" else []
    assert run("make_lists", layout, root, *extra, "--out", lists) == 0
    words = words_for(layout, root, lists, tmp_path)
    if layout == "cityscapes":  # its list of clips is written for the official 500 alone
        (lists / "val_clips.lst").write_text((lists / "val.lst").read_text())
    assert run("train_with_flow", *words) == 0
    assert torch.load(tmp_path / "run/last.pth", weights_only=True)["step"] == 2
    assert run("gen_video", *words) == 0
    assert run("eval_tc", *words) == 0
    tc = json.loads((tmp_path / "result/tc.json").read_text())
    assert 0 < tc["strict"]["mIoU"] <= 1 and len(tc["clips"]) == (3 if layout == "folder" else 1)
    if layout != "folder":
        assert run("test", *words) == 0
        assert 0 <= json.loads((tmp_path / "result/miou.json").read_text())["mIoU"] <= 1
