"""docs/reliability.md: every line of its table names a test that exists."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs/reliability.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_fault_has_a_test_that_exists():
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]
    faults = [line for line in lines if not line.startswith(("| fault ", "| **"))]
    assert len(faults) > 30
    assert not [line for line in faults if not TEST.search(line)]
    missing = [
        f"{file}::{name}"
        for file, name in TEST.findall(PAGE)
        if not re.search(rf"^def {name}\(", (REPOSITORY / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert not missing


def test_every_file_of_the_toolkit_that_the_page_names_exists():
    paths = re.findall(r"`((?:etc|model|utils)/[\w/]+\.py)`", PAGE)
    assert len(paths) > 4 and not [path for path in paths if not (REPOSITORY / path).is_file()]
