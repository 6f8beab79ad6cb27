"""The two settings files of the published repository: every key and value, and what becomes of it."""

import logging
from pathlib import Path

import pytest
import yaml

from etc.config import TOOLKIT, load_settings
from etc.config.schema import SECTIONS, Settings

# cityscapes_pspnet18_flow.yaml
FLOW_FILE = """
DATA:
  data_root: ./data/cityscapes/
  train_list: ./data/list/cityscapes/train.lst
  val_list: ./data/list/cityscapes/val.lst
  classes: 19
TRAIN:
  arch: psp18
  layers: 18
  sync_bn: True
  train_h: 769
  train_w: 769
  scale_min: 0.5
  scale_max: 2.0
  rotate_min: -10
  rotate_max: 10
  zoom_factor: 8
  ignore_label: 255
  aux_weight: 0.4
  tune_weight: False
  st_weight: 0.1
  train_gpu: [0, 1, 2, 3]
  frame_gap: 3
  random_frame: True
  workers: 16
  batch_size: 8
  batch_size_val: 1
  base_lr: 0.01
  epochs: 200
  start_epoch: 0
  power: 0.9
  momentum: 0.9
  weight_decay: 0.0001
  manual_seed:
  print_freq: 10
  save_freq: 1
  save_path: exp/cityscapes/pspnet18_flow/model
  weight:
  resume:
  evaluate: False
Distributed:
  dist_url: tcp://127.0.0.1:6789
  dist_backend: nccl
  multiprocessing_distributed: True
  world_size: 1
  rank: 0
  use_apex: True
  opt_level: O0
  keep_batchnorm_fp32:
  loss_scale:
TEST:
  test_list: ./dataset/list/cityscapes/val.lst
  split: val
  base_size: 2048
  test_h: 1024
  test_w: 2048
  scales: [1.0]
  has_prediction: False
  index_start: 0
  index_step: 0
  test_gpu: [0]
  gen_gpu: [0]
  batch_size_gen: 8
  ckpt_path: exp/cityscapes/pspnet18_flow/model/eval_para.pth
  model_path: exp/cityscapes/pspnet18_flow/model/train_epoch_200.pth
  save_folder: exp/cityscapes/pspnet18_flow/result/epoch_200/val/ss
  colors_path: dataset/cityscapes/cityscapes_colors.txt
  names_path: dataset/cityscapes/cityscapes_names.txt
"""

# cityscapes_pspnet18_sd.yaml
DISTILLED_FILE = """
DATA:
  data_root: ./data/cityscapes
  train_list: ./data/list/cityscapes/debug.txt
  val_list: ./data/list/cityscapes/val.lst
  classes: 19
TRAIN:
  arch: psp18
  layers: 18
  sync_bn: True
  train_h: 768
  train_w: 768
  st_weight: 0.01
  scale_min: 0.5
  scale_max: 2.0
  rotate_min: -10
  rotate_max: 10
  zoom_factor: 8
  ignore_label: 255
  aux_weight: 0.4
  train_gpu: [0, 1, 2, 3]
  frame_gap: 3
  random_frame: True
  sd_mode: label_lstm_update_pa_sd_kd
  workers: 16
  batch_size: 8
  batch_size_val: 1
  base_lr: 0.01
  epochs: 200
  start_epoch: 0
  power: 0.9
  momentum: 0.9
  weight_decay: 0.0001
  manual_seed:
  print_freq: 10
  save_freq: 1
  save_path: exp/cityscapes/pspnet18_ETC/model
  weight:
  resume:
  evaluate: False
Distributed:
  dist_url: tcp://127.0.0.1:6789
  dist_backend: nccl
  multiprocessing_distributed: True
  world_size: 1
  rank: 0
  use_apex: True
  opt_level: O0
  keep_batchnorm_fp32:
  loss_scale:
TEST:
  demo_dir: data/list/cityscapes/demo_video00.txt
  split: val
  base_size: 2048
  test_h: 1024
  test_w: 2048
  scales: [1.0]
  has_prediction: False
  index_start: 0
  index_step: 0
  test_gpu: [0]
  gen_gpu: [0]
  batch_size_gen: 1
  ckpt_path: ckpt/eval_para_ETC.pth
  save_folder: exp/cityscapes/pspnet18_base/result/epoch_200/val/ss
  colors_path: dataset/cityscapes/cityscapes_colors.txt
  names_path: dataset/cityscapes/cityscapes_names.txt
"""

FILES = {"flow": FLOW_FILE, "sd": DISTILLED_FILE}

GONE = {
    "train_gpu", "test_gpu", "gen_gpu", "batch_size_val", "start_epoch", "save_freq", "evaluate", "tune_weight",
    "sd_mode", "dist_url", "dist_backend", "multiprocessing_distributed", "world_size", "rank", "use_apex",
    "keep_batchnorm_fp32", "loss_scale", "split", "has_prediction", "index_start", "index_step", "model_path",
}  # fmt: skip
# Key as published -> what it is here, as (section, key, value); the paths do not exist where the test runs.
CHANGED = {
    "sync_bn": ("DISTRIBUTED", "sync_bn", True),
    "opt_level": ("TRAIN", "amp", "off"),
    "train_list": ("DATA", "train_list", "data/lists/cityscapes/train.lst"),
    "val_list": ("DATA", "val_list", "data/lists/cityscapes/val.lst"),
    "test_list": ("TEST", "test_list", "data/lists/cityscapes/val.lst"),
    "demo_dir": ("TEST", "demo_dir", None),
    "colors_path": ("DATA", "colors_path", "data/palettes/cityscapes_colors.txt"),
    "names_path": ("DATA", "names_path", "data/palettes/cityscapes_names.txt"),
}


def tree_of(name: str) -> dict[str, dict]:
    return yaml.safe_load(FILES[name])


@pytest.fixture
def load(tmp_path, monkeypatch, caplog):
    """Load a published file in an empty folder; gives the settings and the lines of the log."""
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> tuple[Settings, list[str]]:
        Path("published.yaml").write_text(text, encoding="utf-8")
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="etc.config"):
            settings = load_settings("published.yaml")
        return settings, [record.getMessage() for record in caplog.records]

    return load


def test_the_files_are_those_of_the_published_repository():
    assert [sum(map(len, tree_of(name).values())) for name in FILES] == [63, 62]


@pytest.mark.parametrize("name", FILES)
def test_every_key_of_a_published_file_has_its_value_or_is_mapped(load, name):
    settings, _ = load(FILES[name])
    for section, keys in tree_of(name).items():
        for key, value in keys.items():
            if key in GONE:
                assert all(key not in model.model_fields for model in SECTIONS.values())
                continue
            home, ours, expected = CHANGED.get(key, (section, key, value))
            if value is None:  # empty means the default
                expected = SECTIONS[home].model_fields[ours].default
            assert getattr(getattr(settings, home), ours) == expected, f"{section}.{key}"


@pytest.mark.parametrize("name", FILES)
def test_every_mapping_of_a_published_file_is_logged_once(load, name):
    _, lines = load(FILES[name])
    keys = [key for section in tree_of(name).values() for key in section]
    mapped = sorted(key for key in keys if key in GONE or key in CHANGED)
    assert sorted(line.split(": ")[1].split()[0].partition(".")[2] for line in lines) == mapped


def test_the_log_says_what_became_of_a_key_and_why(load):
    _, lines = load(DISTILLED_FILE)
    for said in (
        "TRAIN.tune_weight is obsolete",
        "DATA.train_list: ./data/list/cityscapes/debug.txt is now called data/lists/cityscapes/train.lst "
        "(./data/list/cityscapes/debug.txt does not exist)",
        "TEST.colors_path is now DATA.colors_path: data/palettes/cityscapes_colors.txt "
        "(dataset/cityscapes/cityscapes_colors.txt does not exist)",
        "TEST.demo_dir: data/list/cityscapes/demo_video00.txt is now called empty, which means the first clip of "
        "DATA.clip_list",
        "TRAIN.sd_mode is obsolete: to distil, set DISTILL.teacher_weight and DISTILL.kd_weight, pf_weight",
        "Distributed.opt_level is now TRAIN.amp: off",
    ):
        assert any(said in line for line in [*lines, *load(FLOW_FILE)[1]]), said
    _, lines = load(FLOW_FILE)
    assert "published.yaml: TEST.model_path is obsolete: ckpt_path is given too" in lines


def test_palettes_of_ours_exist_and_paths_that_exist_stay(load, tmp_path):
    settings, _ = load(FLOW_FILE)
    assert (TOOLKIT / settings.DATA.colors_path).is_file() and (TOOLKIT / settings.DATA.names_path).is_file()
    for path in ("dataset/cityscapes/cityscapes_colors.txt", "data/list/cityscapes/train.lst"):
        Path(path).parent.mkdir(parents=True)
        Path(path).write_text("")
    settings, lines = load(FLOW_FILE)
    assert settings.DATA.colors_path == "dataset/cityscapes/cityscapes_colors.txt"
    assert settings.DATA.train_list == "./data/list/cityscapes/train.lst"
    assert not any("train_list" in line for line in lines)


def test_a_list_of_ones_own_keeps_its_name(load):
    settings, _ = load("DATA:\n  train_list: data/list/cityscapes/mine.lst\n  names_path: my/names.txt\n")
    assert settings.DATA.train_list == "data/list/cityscapes/mine.lst"
    assert settings.DATA.names_path == "my/names.txt"
