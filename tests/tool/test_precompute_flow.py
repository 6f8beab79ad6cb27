"""The script that fills the flow store."""

import pytest

from tests.scripts import run


@pytest.fixture
def words(tiny_training):
    return [*tiny_training, "FLOW.name=dis", "FLOW.preset=ultrafast"]


@pytest.mark.parametrize(("purpose", "pairs"), [(["--for", "train"], 20), (["--for", "clips"], 116), ([], 136)])
def test_what_it_is_for_decides_the_pairs(words, tmp_path, capsys, purpose, pairs):
    assert run("precompute_flow", *purpose, *words) == 0
    captured = capsys.readouterr()
    assert f"flow of {pairs} pairs computed, of 0 pairs found in the cache" in captured.out
    assert f"{pairs}/{pairs}" in captured.err  # the progress bar
    assert len(list((tmp_path / "flow_store").rglob("*.b2flow"))) == pairs
    assert run("precompute_flow", *purpose, *words) == 0
    assert f"flow of 0 pairs computed, of {pairs} pairs found in the cache" in capsys.readouterr().out


def test_stored_flow_needs_no_computing(tiny_training, tmp_path, capsys):
    assert run("precompute_flow", *tiny_training) == 0
    assert "nothing to compute" in capsys.readouterr().out
    assert not (tmp_path / "flow_store").exists()


def test_estimators_whose_weights_are_missing_are_one_line(words, tmp_path, capsys):
    assert run("precompute_flow", *words, "FLOW.name=flownet2") == 2
    assert "FlowNet2_checkpoint.pth.tar" in capsys.readouterr().err
    assert not (tmp_path / "flow_store").exists()
