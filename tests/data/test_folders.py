"""Loops of links, files that are no regular files, and names that cannot be written down: each is one line, at once."""

import os
import socket

import numpy as np
import pytest

from etc.config import load_settings
from etc.data.cityscapes import cityscapes_lists
from etc.data.folders import files_below, folders_below, subfolders
from etc.data.frame_names import frame_folders, images_in
from etc.data.images import image_size, read_image, read_label, write_png
from etc.data.labels import read_colors, read_names
from etc.data.lists import read_frames
from etc.data.make_lists import folder_lists
from etc.data.sources import clips_of_frames
from etc.data.video import open_source
from etc.errors import UserError
from etc.evaluate.prediction_files import prediction_files
from etc.flow.accuracy import find_pairs
from etc.flow.files import read_flow
from etc.networks import trained_network
from tests.scripts import run
from utils.files import regular_file, sha256_of


@pytest.fixture
def looped(tmp_path):
    """Two clips; links in them lead back to the root, to the other clip and to nothing."""
    root = tmp_path / "data"
    for clip in ("a", "b"):
        (root / clip).mkdir(parents=True)
        for number in range(2):
            (root / clip / f"{number}.png").touch()
    (root / "a" / "again").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    (root / "0_link_to_b").symlink_to("b")
    (root / "broken").symlink_to("nothing")
    return root


def test_a_loop_of_links_multiplies_no_clip(looped):
    assert folder_lists(looped) == {"clips.lst": "a/0.png\na/1.png\n\nb/0.png\nb/1.png\n"}
    clips = clips_of_frames(load_settings(None, []), str(looped))
    assert [[os.path.relpath(frame.image, looped) for frame in clip] for clip in clips] == [
        ["a/0.png", "a/1.png"],
        ["b/0.png", "b/1.png"],
    ]


def test_folders_are_visited_once_and_links_out_of_the_root_are_followed(looped, tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "back").symlink_to(looped)
    (looped / "far").symlink_to(tmp_path / "far")
    found = [path.relative_to(looped).as_posix() for path in folders_below(looped)]
    assert found == [".", "a", "b", "far", "far/deep"]
    assert folders_below(looped, leave_out=lambda path: path.name == "a") == [
        *(looped / name for name in ("", "b", "far", "far/deep")),
    ]
    assert folders_below(looped / "missing") == []


def test_predictions_behind_a_link_are_found_and_a_loop_in_their_folder_is_harmless(looped, tmp_path):
    clip = folder_clip(looped / "b")
    (tmp_path / "predictions").mkdir()
    for image in (looped / "b").glob("*.png"):
        (tmp_path / "far").mkdir(exist_ok=True)
        (tmp_path / "far" / image.name).touch()
    (tmp_path / "predictions" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "predictions" / "loop").symlink_to(".")
    assert prediction_files([clip], tmp_path / "predictions") == [
        [tmp_path / "predictions" / "b" / f"{number}.png" for number in range(2)]
    ]
    assert len(files_below(looped, ".png")) == 4


def folder_clip(folder):
    return clips_of_frames(load_settings(None, []), str(folder))[0]


def test_a_city_that_is_linked_under_a_second_name_is_listed_once(tmp_path):
    for number in (19, 20):
        for folder, tail in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            path = tmp_path / folder / "val" / "x" / f"x_000000_{number:06d}_{tail}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder / "val" / "another").symlink_to("x")
    lists = cityscapes_lists(tmp_path, clips="sequences")
    assert len(lists["val.lst"].splitlines()) == 2 and len(lists["val_clips.lst"].splitlines()) == 2
    assert [path.name for path in subfolders(tmp_path / "gtFine" / "val")] == ["x"]


# A pipe without a writer would wait for ever: these tests would not end.
READERS = {
    "frame": read_image,
    "label": read_label,
    "size": image_size,
    "list": read_frames,
    "names": lambda path: read_names(path, 19),
    "colours": lambda path: read_colors(path, 19),
    "flow": read_flow,
    "source": lambda path: open_source(str(path), data_root="."),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_named_pipe_is_refused_before_it_is_opened(tmp_path, reader):
    path = tmp_path / f"pipe{'.flo' if reader == 'flow' else '.mkv' if reader == 'source' else '.png'}"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"pipe\.\w+.*it is a named pipe, expected a regular file"):
        READERS[reader](path)


def test_sockets_devices_and_folders_are_no_regular_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(OSError, match="it is a socket"):
            regular_file("s")
    with pytest.raises(OSError, match="it is a device"):
        regular_file("/dev/zero")
    with pytest.raises(IsADirectoryError):
        regular_file(tmp_path)
    with pytest.raises(OSError, match="it is a device"):
        sha256_of("/dev/zero")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert regular_file("link").name == "link"


def test_a_pipe_as_video_to_score_or_as_checkpoint_is_one_line(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.pth")
    assert run("eval_tc", "--frames", tmp_path / "pipe.mp4", "--predictions", tmp_path) == 2
    assert "it is a named pipe, expected a regular file" in last_line(capsys)
    assert run("compare", "--runs", f"a={tmp_path}/pipe.pth", "--out", tmp_path / "out") == 2
    assert "pipe.pth" in last_line(capsys)
    with pytest.raises(UserError, match=r"pipe\.pth"):
        trained_network(load_settings(None, [f"TEST.ckpt_path={tmp_path}/pipe.pth", "TRAIN.pretrained=false"]))


def last_line(capsys) -> str:
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.splitlines()[-1]


@pytest.fixture
def not_utf8(tmp_path):
    """A folder of two frames, one of which has a name in Latin-1."""
    folder = tmp_path / "data" / "clip"
    folder.mkdir(parents=True)
    try:
        for name in (b"stra\xdfe_000.png", b"strasse_001.png"):
            (folder / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    return folder


def test_a_frame_whose_name_is_not_utf8_is_named_by_its_bytes(not_utf8):
    for read in (images_in, folder_lists, lambda folder: open_source(str(folder), data_root=".")):
        with pytest.raises(UserError, match=r"the name of .*clip/stra\\xdfe_000\.png is not UTF-8: rename it"):
            read(not_utf8)


def test_other_names_that_are_not_utf8(not_utf8, tmp_path):
    city = tmp_path / "leftImg8bit" / "val" / os.fsdecode(b"K\xf6ln")
    city.mkdir(parents=True)
    (city / "koeln_000000_000019_leftImg8bit.png").touch()
    with pytest.raises(UserError, match=r"K\\xf6ln.* is not UTF-8"):
        cityscapes_lists(tmp_path, clips="sequences")
    (not_utf8 / os.fsdecode(b"\xff_flow.flo")).touch()
    with pytest.raises(UserError, match="is not UTF-8"):
        find_pairs(not_utf8)


def test_such_a_name_is_one_line_of_the_script(not_utf8, tmp_path, capsys):
    assert run("make_lists", "folder", not_utf8, "--out", tmp_path / "lists") == 2
    assert last_line(capsys).startswith("error: the name of ")
    # a folder of such a name on the command line, printed when all is done
    good = tmp_path / os.fsdecode(b"gr\xfcn")
    good.mkdir()
    for number in range(2):
        (good / f"{number}.png").touch()
    assert run("make_lists", "folder", good, "--out", tmp_path / os.fsdecode(b"l\xfcsts")) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_the_flow_files_of_a_data_set_are_no_frames(tmp_path):
    for number in range(3):
        write_png(tmp_path / f"v/a_{number}.png", np.zeros((8, 8, 3), np.uint8))
        write_png(tmp_path / f"v/flow/a_{number}_to_{number + 1}_flow.png", np.zeros((8, 8, 3), np.uint16))
    write_png(tmp_path / "w/flow/frame_0.png", np.zeros((8, 8, 3), np.uint8))
    assert set(frame_folders(tmp_path)) == {tmp_path / "v", tmp_path / "w/flow"}
