"""What all scripts share: help, errors, exit codes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from etc import cli
from etc.config.schema import SECTIONS
from etc.errors import ConfigError, UserError
from tests.scripts import load_script

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = sorted((REPOSITORY / "tool").glob("*.py"))


def raising(error: BaseException):
    def main() -> int:
        raise error

    return main


class Broken:
    """A data set whose every item fails in the loading process."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index):
        raise self.error


def test_parse_gives_settings_from_a_file_and_overrides(tmp_path):
    (tmp_path / "s.yaml").write_text("TRAIN:\n  epochs: 7\n")
    argv = ["TRAIN.base_lr", "2", "--config", str(tmp_path / "s.yaml"), "TRAIN.rotate_min", "-3", "TRAIN.rotate_max=-2"]
    train = cli.parse(argv, description="x").TRAIN
    assert (train.epochs, train.base_lr, train.rotate_min, train.rotate_max) == (7, 2.0, -3.0, -2.0)


def test_parse_reads_the_command_line_by_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "TRAIN.epochs=9"])
    assert cli.parse(None, description="x").TRAIN.epochs == 9


def test_help_shows_every_setting_with_type_default_and_meaning(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--help"], description="What it does.\n\n    how to run it")
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "What it does.\n\n    how to run it" in text
    for section, model in SECTIONS.items():
        assert f"  {section}: {model.__doc__}" in text
        own = text[text.index(f"  {section}: ") :]
        for name, field in model.model_fields.items():
            entry = own[own.index(f"    {name} (") :].splitlines()[:2]
            assert entry[1].strip() == field.description
            assert field.default is None or f"[{field.default}]" in entry[0]
    assert "layers (18 | 50 | 101 | 152) [18]" in text
    assert "scales (list of float) [[1.0]]" in text
    assert "resume (str)" in text
    assert "flip (bool) [False]" in text


def test_help_is_limited_to_the_sections_that_a_script_uses(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["-h"], description="x", sections=("TEST",))
    text = capsys.readouterr().out
    assert "ckpt_path (str)" in text and "base_lr" not in text


@pytest.mark.parametrize("path", TOOLS, ids=lambda p: p.stem)
def test_every_script_explains_itself(path, capsys):
    try:
        code = load_script(path.stem).main(["--help"])
    except SystemExit as leaving:
        code = leaving.code
    text = capsys.readouterr().out
    assert code == 0
    assert f"python tool/{path.name}" in text
    if path.name not in ("make_lists.py", "get_weights.py", "quickstart.py", "benchmark.py"):
        assert "settings:" in text


@pytest.mark.parametrize("error", [UserError("bad  file\n x.png"), ConfigError("bad file x.png")])
def test_a_user_error_is_one_line_on_stderr_and_exit_code_2(error, capsys):
    assert cli.run(raising(error)) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: bad file x.png\n")


def test_a_full_disk_is_one_line_that_names_the_file(capsys):
    assert cli.run(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "exp/last.pth"))) == 2
    assert capsys.readouterr().err == "error: exp/last.pth: No space left on device\n"


def test_a_full_disk_without_file_name_is_one_line_too(capsys):
    assert cli.run(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) == 2
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_ctrl_c_is_130(capsys):
    assert cli.run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), AssertionError("x"), RuntimeError("x")])
def test_a_defect_of_ours_stays_loud(error):
    with pytest.raises(type(error)):
        cli.run(raising(error))


def test_success_keeps_the_exit_code_of_the_script():
    assert cli.run(lambda: 0) == 0
    assert cli.run(lambda: 5) == 5


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.png is truncated"), "error: a.png is truncated\n"),
        (OSError(errno.ENOSPC, "No space left", "a b.png"), "error: [Errno 28] No space left: 'a b.png'\n"),
    ],
)
def test_an_error_in_a_data_loading_process_is_one_line(error, line, capsys):
    loader = DataLoader(Broken(error), num_workers=1)
    assert cli.run(lambda: len(list(loader))) == 2
    assert capsys.readouterr().err == line


def test_a_defect_in_a_data_loading_process_stays_loud():
    loader = DataLoader(Broken(KeyError("x")), num_workers=1)
    with pytest.raises(KeyError):
        cli.run(lambda: len(list(loader)))


def test_a_script_started_by_the_shell_ends_with_one_line_and_code_2(tmp_path):
    words = [sys.executable, REPOSITORY / "tool" / "make_lists.py", "folder", tmp_path / "nowhere"]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'nowhere'} is not a folder\n"
    assert done.stdout == ""
