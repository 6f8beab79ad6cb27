"""Continuing a run: which settings must be those of its first half."""

from pathlib import Path

import pytest

from etc.config import load_settings
from etc.errors import UserError
from etc.train.checkpoint import check_same_run

PATH = Path("run/last.pth")


def test_a_run_from_before_there_was_a_setting_continues_with_its_default():
    content = {"config": load_settings().model_dump()}
    del content["config"]["TRAIN"]["compile"], content["config"]["TRAIN"]["backbone_weights"]
    del content["config"]["DISTILL"]
    check_same_run(content, load_settings(), PATH)
    with pytest.raises(UserError, match=r"run/last\.pth was trained with TRAIN\.compile False, now it is True"):
        check_same_run(content, load_settings(None, ["TRAIN.compile=true"]), PATH)
