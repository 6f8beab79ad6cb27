"""Gaps in frame numbers and cuts: where clips break, what is told otherwise, and what is kept of the verdicts."""

import json
import logging

import pytest

from etc.config import load_settings
from etc.data import breaks as module
from etc.data.breaks import Breaks, breaks_in, runs_in_folders
from etc.data.frame_names import starts_after_gaps, starts_of_sequences
from etc.data.images import write_png
from etc.data.layouts import LAYOUTS
from etc.data.lists import Frame, existing_neighbours
from tests.data.test_cuts import scene, view


def numbered(*numbers: int, name: str = "v/{:03d}.png") -> list[str]:
    return [name.format(number) for number in numbers]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (numbered(0, 1, 2, 7, 8), [3]),
        (numbered(0, 1, 3, 4), [2]),  # a single frame is missing
        (numbered(0, 1, 2, 3), []),
        (numbered(0, 5, 10, 15, 20), []),  # a regular stride
        (numbered(0, 5, 10, 20, 25), [3]),
        (numbered(0, 1, 5, 6, 10, 11), [2, 4]),
        (numbered(0, 1, 6), [2]),  # 1 and 5 are as frequent: the smaller one is the step
        (numbered(0, 5), []),  # two frames have no usual step
        (numbered(8, 9, 10, 12, name="v/frame_{}.jpg"), [3]),  # numbers without leading zeros
        (numbered(1, 2, 5, name="v/aachen_000000_{:06d}_leftImg8bit.png"), [2]),
        (numbered(33, 66, 100, 133, 167, name="v/{:06d}.png"), []),  # milliseconds at 30 Hz
        (numbered(10013, 20561, 29774, 61005, 90000, name="v/{}.png"), []),  # time stamps without a usual step
        (["v/a.png", "v/b.png", "v/d.png"], []),  # no numbers
        (["v/1_1.png", "v/1_2.png", "v/2_9.png", "v/2_10.png"], []),  # two sequences
        (["v/001.png", "v/002.png", "w/009.png", "w/010.png"], []),  # two folders
        (numbered(2, 1, 0), []),  # backwards, as the list has it
        (["v/0.png"], []),
        ([], []),
    ],
)
def test_gaps_are_found_by_the_usual_step(images, expected):
    assert starts_after_gaps(images) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mon_002.png", "mon_003.png", "tue_000.png", "tue_001.png"], [2]),
        (["1_001.png", "1_002.png", "2_001.png", "2_002.png"], [2]),
        (["7_12_58.png", "7_12_59.png", "7_13_00.png", "7_13_01.png"], [2]),  # a minute looks like a sequence
        (["10_900.png", "10_950.png", "11_910.png", "11_960.png"], []),  # seconds and milliseconds
        (["000_left.png", "001_left.png"], []),
        (["5.png", "9.png", "10.png"], []),
        (["x.png"], []),
        ([], []),
    ],
)
def test_sequences_that_share_a_folder_are_told_by_their_names(names, expected):
    assert starts_of_sequences(names) == expected


def test_parts_are_numbered_over_all_clips():
    found = Breaks(gaps=[[2], [], [1]], cuts=[[2, 3], [], [4]])
    assert found.split(["abcde", "fg", "hijklm"]) == [
        ["a", "b"], ["c"], ["d", "e"], ["f", "g"], ["h"], ["i", "j", "k"], ["l", "m"]
    ]  # fmt: skip
    assert found.parts_after(found.gaps) == [1, 5]
    assert found.parts_after(found.cuts) == [1, 2, 6]


@pytest.fixture
def video(tmp_path):
    """A folder of two scenes of four frames each, and a missing number in the second one."""
    for number in (0, 1, 2, 3, 4, 5, 8, 9):
        picture = view(scene(20 if number < 4 else 21), 2 * number)
        write_png(tmp_path / "v" / f"{number:03d}.png", picture)
    return tmp_path / "v"


def settings_of(tmp_path, *words):
    return load_settings(None, [f"DATA.data_root={tmp_path}", f"FLOW.cache={tmp_path}/cache", *words])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Breaks([[6]], [[4]])),
        (["DATA.gaps=keep"], Breaks([[]], [[4]])),
        (["DATA.cuts=keep"], Breaks([[6]], [[]])),
        (["DATA.gaps=keep", "DATA.cuts=keep"], Breaks([[]], [[]])),
    ],
)
def test_breaks_are_found_and_said_unless_told_otherwise(words, expected, video, tmp_path, caplog):
    clip = [Frame(f"v/{path.name}") for path in sorted(video.iterdir())]
    with caplog.at_level(logging.WARNING):
        assert breaks_in([clip], settings_of(tmp_path, *words)) == expected
    said = "gaps in the frame numbers (DATA.gaps): 1, each begins a new clip; the first is before v/008.png"
    assert (said in caplog.text) == (expected.gaps == [[6]])
    said = "cuts (DATA.cuts): 1, each begins a new clip; the first is before v/004.png"
    assert (said in caplog.text) == (expected.cuts == [[4]])


def test_cuts_are_looked_for_once_as_long_as_the_frames_stay(video, tmp_path, monkeypatch):
    clip, settings = [Frame(f"v/{path.name}") for path in sorted(video.iterdir())], settings_of(tmp_path)
    calls, look = [], module.starts_after_cuts
    monkeypatch.setattr(module, "starts_after_cuts", lambda paths: calls.append(1) or look(paths))
    assert breaks_in([clip], settings).cuts == breaks_in([clip], settings).cuts == [[4]]
    assert len(calls) == 1
    (kept,) = (tmp_path / "cache" / "cuts").iterdir()
    for damage in ("", "[]", json.dumps(json.loads(kept.read_text()) | {"cuts": [99]})):
        kept.write_text(damage)
        assert breaks_in([clip], settings).cuts == [[4]]
    assert len(calls) == 4
    write_png(video / "004.png", view(scene(20), 8))  # now of the first scene
    assert breaks_in([clip], settings).cuts == [[5]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [[1], [-1, 1], [-1, 1], [-1], [1], [-1], [1], [-1]]),
        (["DATA.gaps=keep"], [[1], [-1, 1], [-1, 1], [-1], [1], [-1, 1], [-1, 1], [-1]]),
        (["DATA.gaps=keep", "DATA.cuts=keep"], [[1], *[[-1, 1]] * 6, [-1]]),
    ],
)
def test_neighbours_in_training_are_not_taken_across_a_break(words, expected, video, tmp_path):
    frames = [Frame(f"v/{path.name}") for path in sorted(video.iterdir())]
    runs = runs_in_folders([video], settings_of(tmp_path, *words))
    assert existing_neighbours(frames, tmp_path, [-1, 1], layout=LAYOUTS["folder"], runs=runs) == expected


def test_the_training_list_of_a_folder_lacks_the_neighbours_across_breaks(video, tmp_path):
    from etc.data.training_list import training_pairs

    frames = sorted(video.iterdir())
    (tmp_path / "train.lst").write_text("".join(f"v/{path.name}\n" for path in frames))
    words = [f"DATA.train_list={tmp_path}/train.lst", "DATA.layout=folder", "DATA.synthetic=false"]
    words += ["DATA.allow_missing_neighbours=true", "TRAIN.frame_gap=1", "TRAIN.st_weight=0.1"]
    pairs = {(int(t.stem), int(k.stem)) for t, k in training_pairs(settings_of(tmp_path, *words))}
    assert pairs == {(a, b) for x, y in ((0, 1), (1, 2), (2, 3), (4, 5), (8, 9)) for a, b in ((x, y), (y, x))}
