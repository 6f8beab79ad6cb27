"""The script that fills the flow store."""

import pytest

from tests.scripts import run


@pytest.fixture
def words(tiny_training):
    return [*tiny_training, "FLOW.name=dis", "FLOW.preset=ultrafast"]


@pytest.mark.parametrize(
    ("purpose", "pairs", "bars"),
    [(["--for", "train"], 20, [20]), (["--for", "clips"], 116, [116]), ([], 136, [20, 116])],
)
def test_what_it_is_for_decides_the_pairs(words, tmp_path, capsys, purpose, pairs, bars):
    assert run("precompute_flow", *purpose, *words) == 0
    captured = capsys.readouterr()
    assert f"flow of {pairs} pairs computed, of 0 pairs found in the cache" in captured.out
    assert all(f"{count}/{count}" in captured.err for count in bars)
    assert len(list((tmp_path / "flow_store").rglob("*.b2flow"))) == pairs
    assert run("precompute_flow", *purpose, *words) == 0
    assert f"flow of 0 pairs computed, of {pairs} pairs found in the cache" in capsys.readouterr().out


def test_clips_get_the_flow_that_their_scoring_reads(words, tmp_path, capsys):
    scoring = ["FLOW.evaluate_with=[dis@fast, dataset]", "TEST.strides=[1, 2]"]
    assert run("precompute_flow", "--for", "clips", *words, *scoring) == 0
    assert "flow of 228 pairs computed" in capsys.readouterr().out  # two clips of 30 frames, both ways
    assert {path.parents[2].name for path in (tmp_path / "flow_store").rglob("*.b2flow")} == {"dis-fast"}


def test_stored_flow_needs_no_computing(tiny_training, tmp_path, capsys):
    assert run("precompute_flow", *tiny_training) == 0
    assert "nothing to compute" in capsys.readouterr().out
    assert not (tmp_path / "flow_store").exists()


def test_estimators_whose_weights_are_missing_are_one_line(words, tmp_path, capsys):
    assert run("precompute_flow", *words, "FLOW.name=flownet2") == 2
    assert "FlowNet2_checkpoint.pth.tar" in capsys.readouterr().err
    assert not (tmp_path / "flow_store").exists()
