"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def real_data() -> Path:
    """Root of the real data sets; the test is skipped, visibly, where they are absent."""
    root = Path(os.environ.get("ETC_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root} (set ETC_REAL_DATA)")
    return root
