"""Code named by a file is imported only if the user names it too; names of runs stay inside the folder of results."""

import re
import sys

import pytest
import torch

from etc.config import dump_settings, load_settings
from etc.config.own_code import check_flow_code, code_of_user
from etc.errors import UserError
from etc.report.runs import named_runs, runs_of, settings_to_compare
from tests.scripts import run

EVIL = "evilmod:make"
IMPORTED = (
    f"names the network {EVIL}, which would be imported: give TRAIN.arch {EVIL} yourself to allow it "
    "(TRAIN.arch several times for several)"
)


@pytest.fixture(autouse=True)
def evil_module(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    trace = tmp_path / "imported"
    (folder / "evilmod.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(folder)
    yield trace
    sys.modules.pop("evilmod", None)


def checkpoint(path, *words):
    config = load_settings(None, list(words)).model_dump()
    torch.save({"student": {"weight": torch.zeros(2)}, "config": config}, path)
    return str(path)


def test_compare_does_not_import_the_network_that_a_checkpoint_names(tmp_path, evil_module, capsys):
    path = checkpoint(tmp_path / "evil.pth", f"TRAIN.arch={EVIL}", "TRAIN.pretrained=false")
    assert run("compare", "--runs", f"a={path}", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {path} {IMPORTED}"
    assert not evil_module.exists()


def test_the_second_checkpoint_is_checked_before_the_first_is_scored(tmp_path, evil_module):
    named = [
        ("a", checkpoint(tmp_path / "good.pth")),
        ("b", checkpoint(tmp_path / "evil.pth", f"TRAIN.arch={EVIL}", "TRAIN.pretrained=false")),
    ]
    with pytest.raises(UserError, match=re.escape(IMPORTED)):
        runs_of(named, load_settings(), tmp_path / "out")
    assert not evil_module.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [[f"FLOW.name={EVIL}"], [f"FLOW.evaluate_with=[dis, {EVIL}@x.pth]"]])
def test_a_flow_estimator_that_a_file_names_is_not_imported(tmp_path, evil_module, words, capsys):
    path = checkpoint(tmp_path / "evil.pth", *words)
    line = f"{path} names the flow estimator {EVIL}, which would be imported: give FLOW.name {EVIL} yourself"
    assert run("compare", "--runs", f"a={path}", "--out", tmp_path / "out") == 2
    assert line in capsys.readouterr().err
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "tc_settings.yaml").write_text(dump_settings(load_settings(None, words)))
    with pytest.raises(UserError, match=r"tc_settings\.yaml names the flow estimator evilmod:make"):
        settings_to_compare([("a", str(folder))], None, [])
    assert not evil_module.exists()


def test_what_the_user_names_is_allowed(tmp_path):
    assert code_of_user(None, ["TRAIN.arch", EVIL]) == {EVIL}
    assert code_of_user(None, [f"TRAIN.arch={EVIL}", "TRAIN.arch=other:make"]) == {EVIL, "other:make"}
    assert code_of_user(None, [f"FLOW.evaluate_with=[dis, '{EVIL}@w.pth']"]) == {EVIL}
    assert code_of_user(None, ["TRAIN.arch=psp"]) == frozenset()
    config = tmp_path / "my.yaml"
    config.write_text(f"TRAIN:\n  arch: {EVIL}\nFLOW:\n  name: flows:make\n")
    assert code_of_user(str(config), []) == {EVIL, "flows:make"}


def test_a_network_that_the_user_names_reaches_the_import(tmp_path, evil_module, capsys, tiny_training):
    path = checkpoint(tmp_path / "own.pth", f"TRAIN.arch={EVIL}", "TRAIN.pretrained=false")
    words = [word for word in tiny_training if not word.startswith("TEST.save_folder")]
    assert run("compare", "--runs", f"a={path}", "--out", tmp_path / "out", f"TRAIN.arch={EVIL}", *words) == 2
    assert "there is no make in" in capsys.readouterr().err
    assert evil_module.exists()


def test_the_toolkits_own_networks_need_no_permission():
    for words in ([], ["TRAIN.arch=mobile"], ["TRAIN.arch=timm:resnet18"], ["FLOW.evaluate_with=[dis@fast]"]):
        check_flow_code(load_settings(None, words), frozenset(), "file")


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".", ".hidden", "a\\b", "a\nb", "a\udcff"])
def test_a_name_of_a_run_does_not_leave_the_folder_of_results(name):
    with pytest.raises(UserError, match="cannot be the name of a run"):
        named_runs([f"{name}=exp/a/best.pth"])


def test_a_result_folder_may_have_any_caption_that_can_be_printed():
    assert named_runs(["ours/v2=exp/a"]) == ([("ours/v2", "exp/a")], [])
    for name in ("a\nb", "a\udcff"):
        with pytest.raises(UserError, match="cannot be the name of a run"):
            named_runs([f"{name}=exp/a"])


def test_two_runs_of_one_name_are_refused_before_anything_is_scored():
    with pytest.raises(UserError, match="two runs are called a"):
        named_runs(["a=x.pth", "b=z", "a=y.pth"])
