"""YAML that no settings file should hold: one line, at once, with the place."""

import os
import time

import pytest

from etc.config import load_settings
from etc.config.yaml_reader import parse
from etc.errors import ConfigError
from tests.scripts import run

BOMB = "TEST:\n  scales:\n" + "".join(
    f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1, 1'}]\n" for i in range(9)
)


@pytest.fixture
def refused(tmp_path):
    def refused(text: str) -> str:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        start = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            load_settings(path)
        assert time.monotonic() - start < 5
        message = str(caught.value)
        assert message.startswith(f"{path}: ") or str(path) in message
        assert "\n" not in message and len(message) < 400 + len(str(path))
        return message

    return refused


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("TRAIN:\n  epochs: 1\nTEST:\n  fps: 2\nTRAIN:\n  layers: 18\n", "TRAIN is given twice, in lines 1 and 5"),
        ("TRAIN:\n  epochs: 1\n  layers: 18\n  epochs: 1\n", "TRAIN.epochs is given twice, in lines 2 and 4"),
        ("TRAIN: {epochs: 1}\ntrain: {layers: 18}\n", "train is given twice, in lines 1 and 2"),
        ("TRAIN:\n  epochs: 1\n  'epochs': 2\n", "TRAIN.epochs is given twice, in lines 2 and 3"),
    ],
)
def test_a_repeated_section_or_key_names_both_lines(refused, text, named):
    assert named in refused(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("TEST:\n  scales: " + "[" * 20_000, "line 2: values are nested more than 10 levels deep"),
        ("TEST:\n  scales: " + "{a: " * 5_000, "nested more than"),
        ("? " * 3_000 + "a", "nested more than"),
        ("TRAIN:\n  epochs: !!int x\n", "line 2: 'x' cannot be read as a value"),
        ("TRAIN:\n  epochs: !!timestamp x\n", "line 2: 'x' cannot be read"),
        ("TRAIN:\n  compile: !!bool perhaps\n", "line 2: 'perhaps' cannot be read"),
        ("TRAIN:\n  base_lr: !!float ''\n", "line 2: '' cannot be read"),
        (f"TRAIN:\n  epochs: {'9' * 5_000}\n", "line 2: '9999999999999999999999999999999999999999...' cannot be read"),
        (f"TRAIN:\n  epochs: 0x{'f' * 5_000}\n", "line 2: the number '0xfff"),
        (f"TRAIN:\n  epochs: {'9' * 100}\n", "line 2: the number '999"),
        (BOMB, "more than 10000 values"),
        ("a: &a {x: 1}\nb: &b {<<: [*a, *a]}\n" + "\n" * 110_000, "more than 100000 bytes"),
        ("TEST: &a\n  scales: [*a]\n", "contains itself"),
        ("TEST:\n  save_folder: ''\n", None),
        ('TEST:\n  save_folder: "a\\0b"\n', None),
    ],
)
def test_what_would_crash_or_take_for_ever_is_one_line(tmp_path, text, named, refused):
    if named is None:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"TEST\.save_folder: must not "):
            load_settings(path)
    else:
        assert named in refused(text)


def test_anchors_and_aliases_of_sensible_size_work(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("TEST:\n  test_h: &side 65\n  test_w: *side\nTRAIN:\n  <<: {train_h: 33}\n  train_h: 49\n")
    settings = load_settings(path)
    assert (settings.TEST.test_h, settings.TEST.test_w, settings.TRAIN.train_h) == (65, 65, 49)


def test_an_endless_file_is_refused_before_it_is_read():
    with pytest.raises(ConfigError, match="cannot read the settings file /dev/zero: it is a device"):
        load_settings("/dev/zero")


def test_a_named_pipe_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "settings.yaml")
    assert run("gen_video", "--config", tmp_path / "settings.yaml") == 2
    error = f"error: cannot read the settings file {tmp_path}/settings.yaml: it is a named pipe, expected a regular"
    assert capsys.readouterr().err.startswith(error)


@pytest.mark.parametrize("config", [{"TRAIN": 3}, {5: {}}, {"TRAIN": {5: 1}}, {"TRAIN": None}, {"NOPE": {}}])
def test_damaged_settings_in_a_checkpoint_are_one_line(config):
    with pytest.raises(ConfigError, match=r"the settings in the checkpoint: (expected sections|unknown section)"):
        load_settings(config)


def test_an_old_key_with_a_list_for_a_word_is_one_line(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("Distributed:\n  opt_level: [O1]\n")
    with pytest.raises(ConfigError, match=r"opt_level \['O1'\] is none of O0, O1, O2"):
        load_settings(path)


def test_a_number_to_the_base_of_60_is_a_text():
    assert parse("[12:30, 1:2:3.5, 12, -7, 0x1f, 010, 1_000, 0]") == ["12:30", "1:2:3.5", 12, -7, 31, 8, 1000, 0]
    with pytest.raises(ConfigError, match=r"TEST\.fps: expected float .*, got '12:30'"):
        load_settings(None, ["TEST.fps=12:30"])
