"""The script that writes list files."""

from pathlib import Path

import pytest

from etc.errors import UserError
from tests.scripts import load_script


@pytest.fixture
def main():
    return load_script("make_lists").main


@pytest.fixture
def frames(tmp_path) -> Path:
    for clip, count in (("a", 3), ("b", 2)):
        (tmp_path / "videos" / clip).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "videos" / clip / f"{number}.png").touch()
    return tmp_path / "videos"


def test_lists_are_written_and_counted(main, frames, tmp_path, capsys):
    assert main(["folder", str(frames), "--out", str(tmp_path / "lists")]) == 0
    written = tmp_path / "lists" / "clips.lst"
    assert written.read_text() == "a/0.png\na/1.png\na/2.png\n\nb/0.png\nb/1.png\n"
    assert capsys.readouterr().out == f"{written}: 5 frames in 2 clips\n"


def test_the_default_place_is_the_folder_of_lists(main, frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["folder", str(frames)]) == 0
    assert (tmp_path / "data" / "lists" / "folder" / "clips.lst").is_file()


def test_two_files_of_splits_need_two_names(main, frames, tmp_path):
    files = [tmp_path / name / "list.txt" for name in "xy"]
    for file, clip in zip(files, "ab", strict=True):
        file.parent.mkdir()
        file.write_text(f"{clip}\n")
    with pytest.raises(UserError, match="lists are called after these files, and two have one name"):
        main(["parallel", str(frames), "--frames", "{clip}/{frame}.png", "--splits", *map(str, files)])


def test_a_missing_folder_is_a_user_error_and_writes_nothing(main, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        main(["camvid", str(tmp_path / "nowhere"), "--out", str(tmp_path / "lists")])
    assert not (tmp_path / "lists").exists()


def test_an_unknown_layout_ends_with_code_2(main, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["kitti", str(tmp_path)])
    assert caught.value.code == 2
    assert "cityscapes" in capsys.readouterr().err


def test_gaps_in_the_frame_numbers_are_counted(main, frames, tmp_path, capsys):
    for number in (3, 7, 8):
        (frames / "a" / f"{number}.png").touch()
    assert main(["folder", str(frames), "--out", str(tmp_path / "lists")]) == 0
    assert "8 frames in 2 clips; gaps in the frame numbers: 1, a new clip begins" in capsys.readouterr().out


def test_lists_of_an_earlier_call_stay_and_are_named(main, frames, tmp_path, capsys):
    for name in ("val.lst", "names.txt", "clips.lst"):
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / name).write_text("earlier\n")
    assert main(["folder", str(frames), "--out", str(tmp_path / "lists")]) == 0
    assert capsys.readouterr().out.endswith("\nnot of this call, left as they were: names.txt val.lst\n")
    assert (tmp_path / "lists/val.lst").read_text() == "earlier\n"
