"""Writing files: all or nothing."""

import os
import stat
import threading
import time

import pytest

from tests.processes import running
from utils.files import new_folder, replacing, sweep, write_bytes, write_text


def test_bytes_and_text_arrive_in_folders_that_did_not_exist(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"\x00\xff")
    write_text(str(tmp_path / "a" / "d.txt"), "Übung\n")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a" / "d.txt").read_bytes() == "Übung\n".encode()


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.pth"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]
    assert path.read_text() == "old"


def test_an_interrupted_first_writer_leaves_nothing(tmp_path):
    with pytest.raises(OSError), replacing(tmp_path / "x.pth") as temporary:
        temporary.write_text("half")
        raise OSError
    assert list(tmp_path.iterdir()) == []


def test_until_the_end_the_old_file_is_in_place(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_temporary_file_lies_beside_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / ("long name " * 20 + ".png")) as temporary:
        assert temporary.parent == tmp_path  # a rename between file systems is no rename
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")


def test_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda *a, **k: (events.append("rename"), replace(*a, **k))[1])
    monkeypatch.setattr(os, "rename", lambda *a, **k: (events.append("rename"), replace(*a, **k))[1])
    write_bytes(tmp_path / "x", b"1")
    assert events == ["flush", "rename"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


def test_many_threads_leave_the_umask_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # slow on a busy disk, and not what this is about
    before = os.umask(0o027)
    try:
        threads = [
            threading.Thread(target=lambda n=n: [write_bytes(tmp_path / f"{n}_{i}", b"") for i in range(20)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        after = os.umask(before)
    assert after == 0o027
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


def test_a_folder_that_is_a_file_is_an_oserror(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OSError):
        write_bytes(tmp_path / "x" / "y", b"1")


WRITER = """
import sys
from utils.files import new_folder, replacing
with replacing(sys.argv[1] + "/last.pth") as file, new_folder(sys.argv[1] + "/world") as folder:
    file.write_bytes(bytes(1000))
    (folder / "a.png").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path):
    with running(WRITER, tmp_path) as other:
        other.stdout.readline()
        assert len(names_in(tmp_path)) == 2
        other.kill()
        other.wait()
        write_text(tmp_path / "settings.yaml", "new run")
    assert names_in(tmp_path) == ["settings.yaml"]


def test_temporaries_of_a_running_process_stay(tmp_path):
    with running(WRITER, tmp_path) as other:
        other.stdout.readline()
        write_text(tmp_path / "settings.yaml", "another run")
        assert len(names_in(tmp_path)) == 3
        other.communicate("\n")
    assert names_in(tmp_path) == ["last.pth", "settings.yaml", "world"]


def test_a_process_number_that_was_given_again_is_told_by_the_start(tmp_path):
    with replacing(tmp_path / "x.png") as temporary:
        machine, pid, start, rest = temporary.name.split("-")
        assert int(pid) == os.getpid()
        earlier = tmp_path / f"{machine}-{pid}-{int(start) - 1}-{rest}"
        earlier.write_bytes(b"")
        sweep(tmp_path)
        assert temporary.exists() and not earlier.exists()


@pytest.mark.parametrize(
    "name", [".0123abcd-1-1-0123abcd.tmp.png", ".0123456789abcdef.tmp", ".0123abcd-1-1-0123abcd.tmp"]
)
def test_temporaries_that_name_no_process_of_this_machine_are_removed_after_a_day(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    sweep(tmp_path)
    assert names_in(tmp_path) == [name]
    a_day_ago = time.time() - 24 * 3600 - 60
    os.utime(tmp_path / name, (a_day_ago, a_day_ago))
    sweep(tmp_path)
    assert names_in(tmp_path) == []


def test_hidden_and_temporary_files_of_others_stay(tmp_path):
    theirs = [
        ".tmp",
        ".x.tmp",
        "0123456789abcdef.tmp",
        ".0123456789abcdef.tmp~",
        ".notes",
        "a.tmp",
        ".Abc-1-1-x.tmp.png",
    ]
    for name in theirs:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert names_in(tmp_path) == sorted(theirs)


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "world") as building:
        (building / "a").write_text("x")
        assert not (tmp_path / "world").exists()
    assert (tmp_path / "world/a").read_text() == "x"
    assert names_in(tmp_path) == ["world"]


def test_a_new_folder_never_replaces_one_that_another_process_made_meanwhile(tmp_path):
    with pytest.raises(FileExistsError, match="world exists already"), new_folder(tmp_path / "world") as building:
        (building / "a").write_text("mine")
        (tmp_path / "world").mkdir()
        (tmp_path / "world/a").write_text("theirs")
    assert (tmp_path / "world/a").read_text() == "theirs"
    assert names_in(tmp_path) == ["world"]


def test_a_folder_whose_writer_fails_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "world") as building:
        (building / "a").write_text("half")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []
