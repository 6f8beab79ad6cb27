"""docs/scaling.md: its memory is what docs/make_scaling.py measures now, and that is what autograd keeps."""

import importlib.util
import re

import pytest
from torch import nn

from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/scaling.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_scaling", REPOSITORY / "docs/make_scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_memory_kept_for_the_backward_pass_is_counted_once(script, monkeypatch):
    def network(_name, *, classes, pretrained):
        return nn.Sequential(nn.Conv2d(3, classes, 1), nn.ReLU(inplace=True), nn.Identity())

    monkeypatch.setattr(script, "build_model", network)
    # A pixel: the image, the result of ReLU (kept once, for both), log softmax, the label and its weight.
    floats = 3 + 19 + 19 + 1
    assert script.kept_for_backward("own", 20, 30, False) == (4 * floats + 8) * 20 * 30
    # In float16 the image is kept as such, and softmax in float32.
    assert script.kept_for_backward("own", 20, 30, True) == (2 * (3 + 19) + 4 * (19 + 1) + 8) * 20 * 30
    assert script.state_bytes("own") == 3 * 4 * (3 * 19 + 19)
    assert script.operations("own", 20, 30, training=True) == 2 * 3 * 19 * 20 * 30


def test_the_table_is_what_the_script_prints_now(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_scaling.py", "psp18"])
    script.main()
    (row,) = re.findall(r"^\| `psp18` .*$", PAGE, re.MULTILINE)
    assert capsys.readouterr().out == f"{script.HEAD}\n{row}\n" and script.HEAD in PAGE


def test_the_figures_that_follow_from_the_table_do(script):
    rows = re.findall(r"^\| `(\w+)` \| (\d+) MiB \| (\d+) MiB \| (\d+) MiB \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    table = {name: tuple(map(int, figures)) for name, *figures in rows}
    images = 2975 // 8 * 200 * 8 * 2
    for name, exa, hours in (("psp18", "0.99", "2.9 h"), ("psp101", "4.4", "13 h")):
        operations = images * 3 * table[name][3] * 1e9
        assert f"{operations / 1e18:.2g}" == exa and f"{exa} EFLOP / (0.3 x 312 TFLOP/s) | {hours}" in PAGE
        assert f"{operations / 0.3 / 312e12 / 3600:.2g} h" == hours
