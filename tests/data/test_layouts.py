"""The list of data layouts, and what loops over it."""

from pathlib import Path

import numpy as np
import pytest

from etc import cli
from etc.config import load_settings
from etc.data.frame_names import frame_number
from etc.data.labels import label_table
from etc.data.layouts import LABEL_MAPS, LAYOUTS, check_layout, layout_named
from etc.data.sources import clips_to_score
from etc.data.training_list import training_pairs
from etc.errors import ConfigError, UserError
from tests.scripts import load_script

README = (Path(__file__).resolve().parents[2] / "data" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_complete(name, tmp_path):
    layout = LAYOUTS[name]
    assert layout.name == name and layout.description
    assert layout_named(name) is layout
    if layout.frame_name is not None:
        assert set(layout.frame_name.groupindex) == {"head", "number", "tail"}
    else:
        assert frame_number("x_000001.png", layout) is None
    with pytest.raises(UserError, match=str(tmp_path)):
        layout.make_lists(tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_a_choice_of_the_settings_of_the_script_and_of_its_help(name, capsys):
    assert check_layout(load_settings(None, [f"DATA.layout={name}"])).DATA.layout == name
    with pytest.raises(SystemExit) as ended:
        load_script("make_lists").main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"  {name}\n" in shown
    assert " ".join(LAYOUTS[name].description.split()) in " ".join(shown.split())


def test_every_layout_stands_in_the_readme_of_the_data_folder():
    assert [name for name in LAYOUTS if f"`{name}`" not in README] == []


@pytest.mark.parametrize(("name", "label_ids"), LABEL_MAPS.items(), ids=LABEL_MAPS)
def test_every_label_map_is_a_choice_and_makes_a_table(name, label_ids):
    assert check_layout(load_settings(None, [f"DATA.label_map={name}"])).DATA.label_map == name
    classes = len(label_ids or range(5))
    table = label_table(name, classes, 255)
    assert table[list(label_ids or range(5))].tolist() == list(range(classes)) and table[255] == 255
    assert np.count_nonzero(table < 254) == classes


@pytest.mark.parametrize("key", ["layout", "label_map"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(key):
    known = ", ".join(LAYOUTS if key == "layout" else LABEL_MAPS)
    message = rf"DATA\.{key} 'cityscape' is unknown: expected one of {known}"
    with pytest.raises(ConfigError, match=message):
        cli.parse([f"DATA.{key}=cityscape"], description="")


def test_settings_that_no_script_parsed_are_checked_before_any_work(tmp_path):
    (tmp_path / "x_1.png").touch()
    (tmp_path / "train.lst").write_text("x_1.png\n")
    words = ["layout=cityscape", "synthetic=false", f"data_root={tmp_path}", f"train_list={tmp_path}/train.lst"]
    settings = load_settings(None, [f"DATA.{word}" for word in words])
    for work in (clips_to_score, training_pairs):
        with pytest.raises(ConfigError, match=r"DATA\.layout 'cityscape' is unknown"):
            work(settings)
    with pytest.raises(ConfigError, match=r"DATA\.label_map 'cityscape' is unknown"):
        label_table("cityscape", 19, 255)
