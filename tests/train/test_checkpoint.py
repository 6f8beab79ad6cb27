"""Continuing a run: which settings must be those of its first half."""

from pathlib import Path

import pytest
import torch

from etc.config import load_settings
from etc.errors import UserError
from etc.train.checkpoint import check_same_run, load_checkpoint, save_checkpoint

PATH = Path("run/last.pth")


def test_a_run_that_is_older_than_a_setting_continues_with_its_default():
    content = {"config": load_settings().model_dump()}
    del content["config"]["TRAIN"]["compile"], content["config"]["TRAIN"]["backbone_weights"]
    del content["config"]["DISTILL"]
    check_same_run(content, load_settings(), PATH)
    with pytest.raises(UserError, match=r"run/last\.pth was trained with TRAIN\.compile False, now it is True"):
        check_same_run(content, load_settings(None, ["TRAIN.compile=true"]), PATH)


def test_a_run_of_version_1_continues_under_the_new_names_of_its_settings():
    overrides = ["DATA.allow_missing_neighbours=true", "FLOW.name=dataset", "FLOW.source=cached"]
    now = load_settings(None, [*overrides, "DISTILL.source=cached", "DISTILL.pf_on=logits", "DISTILL.mf_on=logits"])
    config = now.model_dump()
    data, flow, distill = config["DATA"], config["FLOW"], config["DISTILL"]
    data["allow_single"] = data.pop("allow_missing_neighbours")
    flow |= {"judges": flow.pop("evaluate_with"), "store": flow.pop("cache"), "name": "stored", "source": "stored"}
    distill |= {"store": distill.pop("cache"), "source": "stored"}
    check_same_run({"config": config}, now, PATH)
    with pytest.raises(UserError, match=r"trained with DATA\.allow_missing_neighbours True, now it is False"):
        check_same_run({"config": config}, load_settings(None, ["DATA.allow_missing_neighbours=false"]), PATH)


@pytest.mark.parametrize("setting", ["DISTRIBUTED.sync_bn=false", "TEST.pad_to=32", "TRAIN.st_weight=7"])
def test_settings_that_change_the_weights_may_not(setting):
    key, _, value = setting.partition("=")
    with pytest.raises(UserError, match=rf"trained with {key} .*, now it is {value.capitalize()}"):
        check_same_run({"config": load_settings().model_dump()}, load_settings(None, [setting]), PATH)


@pytest.mark.parametrize("setting", ["FLOW.cache=elsewhere", "FLOW.evaluate_with=[dis]", "DISTILL.cache=elsewhere"])
def test_settings_that_change_no_weight_may_change_when_a_run_is_resumed(setting):
    check_same_run({"config": load_settings().model_dump()}, load_settings(None, [setting]), PATH)


TRAINING = {
    "optimizer": {}, "scheduler": {}, "scaler": {}, "rng": {}, "metrics": {}, "step": 1, "epoch": 1, "config": {}
}  # fmt: skip


def test_a_flipped_bit_in_the_weights_of_a_training_is_refused(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, TRAINING | {"student": {"weight": torch.ones(400)}})
    load_checkpoint(path)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(torch.ones(400).numpy().tobytes()) + 800] ^= 64
    path.write_bytes(damaged)
    with pytest.raises(
        UserError, match=r"^TRAIN\.resume: .*last\.pth is truncated, damaged or no checkpoint \(.*/data/0 "
    ):
        load_checkpoint(path)


def test_a_training_whose_weights_are_not_finite_is_not_continued(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint(path, TRAINING | {"student": {"conv.weight": torch.tensor([1.0, float("nan")])}})
    with pytest.raises(
        UserError, match=r"^TRAIN\.resume: .*last\.pth: 1 of 2 values of conv\.weight are NaN or infinite"
    ):
        load_checkpoint(path)
