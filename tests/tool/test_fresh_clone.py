"""On a fresh clone, scripts look at their input before they render the synthetic world, which takes its time."""

import pytest

from tests.scripts import run


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("gen_video", ["TEST.ckpt_path=junk.pth"], "junk.pth"),
        ("gen_video", ["DATA.colors_path=none.txt"], "cannot read none.txt"),
        ("gen_video", ["DATA.clip_list=none.lst"], "DATA.clip_list none.lst does not exist"),
        ("demo", ["TEST.ckpt_path=junk.pth"], "junk.pth"),
        ("test", ["TEST.ckpt_path=junk.pth"], "junk.pth"),
        ("test", ["TEST.test_list=none.lst"], "TEST.test_list none.lst does not exist"),
        ("eval_tc", [], "holds no predictions"),
        ("eval_tc", ["--predictions", "missing"], "missing holds no predictions"),
        ("eval_tc", ["--predictions", ".", "DATA.names_path=none.txt"], "cannot read none.txt"),
        ("eval_tc", ["--predictions", ".", "FLOW.evaluate_with=[dis@slow]"], "dis has no preset 'slow'"),
        ("train_with_flow", ["DATA.val_list=none.lst"], "DATA.val_list none.lst does not exist"),
        ("train_with_flow", ["TRAIN.weight=junk.pth"], "junk.pth"),
        ("train_with_flow", ["DATA.colors_path=none.txt"], "cannot read none.txt"),
        ("precompute_flow", ["DATA.train_list=none.lst"], "DATA.train_list none.lst does not exist"),
        ("gen_pseudo_labels", ["--frames", "none.lst"], "none.lst: No such file"),
        ("gen_pseudo_labels", ["--threshold", "7"], "7"),
        ("eval_flow", ["FLOW.name=flownet2"], "flownet2 needs its weights"),
    ],
)
def test_the_world_is_not_rendered_for_input_that_cannot_be_used(
    script, words, message, tmp_path, monkeypatch, capsys, fresh
):
    assert run(script, *fresh, *words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "data").exists()


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> list[str]:
    """A folder without any data, and settings that would render it there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.pth").write_bytes(b"no weights")
    (tmp_path / "best.pth").write_bytes(b"never read")
    return ["DATA.synthetic=true", "TEST.device=cpu", "TEST.ckpt_path=best.pth"]
