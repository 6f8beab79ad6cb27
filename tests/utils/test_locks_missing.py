"""Locks on file systems that have none."""

import errno
import os

import pytest

from utils.locks import exclusive


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used_without_a_lock(tmp_path, monkeypatch, caplog, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / "a"):
        (tmp_path / "a/x.txt").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.txt"]
    assert "has no locks" in caplog.text
