"""The log of a training as it is read back, and the curves drawn from it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from etc.display.curves import draw_curve, draw_curves, drawable_log, read_log
from etc.errors import UserError

LOG = "step,name,value\n10,loss/loss,2.5\n10,learning_rate,0.01\n20,loss/loss,1.5\n20,validation/mIoU,0.25\n"


def written(folder, text=LOG):
    folder.mkdir()
    (folder / "log.csv").write_text(text)
    return folder


def test_a_log_is_read_by_name_and_step(tmp_path):
    assert read_log(written(tmp_path / "a")) == {
        "loss/loss": [(10, 2.5), (20, 1.5)],
        "learning_rate": [(10, 0.01)],
        "validation/mIoU": [(20, 0.25)],
    }


def test_what_a_killed_training_wrote_half_is_left_out(tmp_path):
    for end in range(len(LOG) - 20, len(LOG)):
        curves = read_log(written(tmp_path / str(end), LOG[:end]))
        assert curves["loss/loss"] == [(10, 2.5), (20, 1.5)] and "validation/mIoU" not in curves


@pytest.mark.parametrize(
    "text", ["", "epoch,loss\n", "step,name,value\nten,loss,1\n", "step,name,value\n1,loss\n", LOG + "\0\0\n"]
)
def test_a_file_of_another_kind_is_named(tmp_path, text):
    with pytest.raises(UserError, match=r"log\.csv is damaged, or no log of a training"):
        read_log(written(tmp_path / "a", text))


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "log.csv").write_bytes(LOG.encode() + b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"log\.csv is damaged"):
        read_log(tmp_path)


@pytest.mark.parametrize("text", ["step,name,value\n", "step,name,value\n5,loss/loss,nan\n"])
def test_a_log_without_a_figure_to_draw_is_no_success(tmp_path, text):
    folder = written(tmp_path / "a", text)
    with pytest.raises(UserError, match=r"log\.csv holds no figure yet"):
        drawable_log(folder)
    assert drawable_log(written(tmp_path / "b", LOG)) == read_log(tmp_path / "b")


def test_a_folder_without_log_is_named(tmp_path):
    with pytest.raises(UserError, match=r"log\.csv does not exist: trainings of this version write it"):
        read_log(tmp_path)


def test_losses_are_means_of_neighbours_and_scores_are_percent():
    axes = Figure().add_subplot()
    noise = np.random.default_rng(0).random(250)
    draw_curve(axes, {"loss/loss": list(enumerate(noise)), "validation/TC": [(5, 0.5), (9, 0.75)]}, "loss/loss", "a")
    draw_curve(axes, {"validation/TC": [(5, 0.5), (9, 0.75)]}, "validation/TC", "b")
    draw_curve(axes, {}, "loss/motion", "not logged")
    loss, score = axes.lines
    assert loss.get_ydata()[0] == pytest.approx(noise[:3].mean()) and loss.get_xdata()[0] == 1
    assert loss.get_ydata()[-1] == pytest.approx(noise[249]) and len(loss.get_xdata()) == 84
    assert list(score.get_ydata()) == [50, 75]


def test_a_run_has_one_colour_in_all_panels_and_no_panel_is_left_empty(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: figures.append(figure) or Path(file).write_bytes(b""))
    both = {"loss/loss": [(1, 2.0)], "loss/motion": [(1, 1.0)]}
    draw_curves({"a": {"loss/loss": [(1, 3.0)]}, "b": both}, tmp_path / "curves.png")
    first, second, third = figures[0].axes
    assert [line.get_label() for line in first.lines] == ["a", "b"]
    assert first.lines[1].get_color() == second.lines[0].get_color() != first.lines[0].get_color()
    assert first.axison and second.axison and not third.axison


def test_runs_are_drawn_over_each_other_with_a_panel_for_each_name(tmp_path):
    other = {"loss/motion": [(10, 0.5)], "validation/mIoU": [(20, 0.5)]}
    draw_curves({"a": read_log(written(tmp_path / "a")), "b": other}, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000 and picture.height > 600  # two rows of panels
