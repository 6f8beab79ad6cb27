"""The script that lists and fetches weights."""

import hashlib

import pytest

from etc import cli
from etc.weights import WeightFile
from tests.scripts import load_script


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The script on a list of one file with a link and one without."""
    module = load_script("get_weights")
    source = tmp_path / "raft_small.pth"
    source.write_bytes(b"raft")
    files = {
        "raft_small": WeightFile(
            "raft_small", source.name, "FLOW.name", source.as_uri(), hashlib.sha256(b"raft").hexdigest()[:8], "BSD"
        ),
        "flownet2": WeightFile("flownet2", "FlowNet2_checkpoint.pth.tar", "FLOW.name", "https://x", "", "terms"),
    }
    monkeypatch.setattr(module, "weight_files", lambda: files)
    monkeypatch.chdir(tmp_path)
    return lambda *words: cli.run(lambda: module.main(list(words)))


def test_the_list_names_every_file_and_fetches_none(run, capsys, tmp_path):
    assert run("--folder", "out") == 0
    text = capsys.readouterr().out
    assert "raft_small.pth" in text and "FlowNet2_checkpoint.pth.tar" in text and "terms" in text
    assert text.count("no, looked for out/") == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["raft_small", "all"])
def test_what_has_a_link_is_fetched(run, capsys, tmp_path, word):
    assert run(word, "--folder", "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["raft_small.pth"]
    assert hashlib.sha256(b"raft").hexdigest() in capsys.readouterr().out


def test_what_has_no_link_is_said_to_have_none(run, capsys):
    assert run("flownet2") == 2
    error = capsys.readouterr().err
    assert "has no direct link: download it by hand" in error and "put it at pretrained_model/FlowNet2_check" in error


def test_an_unknown_name_is_answered_with_the_known_ones(run, capsys):
    assert run("raft_small", "raft_tiny") == 2
    assert "unknown weights raft_tiny: expected all, raft_small, flownet2" in capsys.readouterr().err
