"""Every command of every page, configuration and script: the script that it calls takes these options and settings.

Other tests run the commands that take no hours; here each is read as its script reads it.
"""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from etc.config import load_settings
from tests.scripts import load_script

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "configs").rglob("*.yaml")),
    *sorted(path for folder in ("tool", "docs") for path in (REPOSITORY / folder).glob("*.py")),
]
START = r"(?:^[ #]*|`)(?:[a-z]+ )?(?:python|torchrun)\b[^\n`]*?"
CALL = re.compile(START + r"\b((?:tool|docs)/\w+)\.py([^\n`|;>()]*)", re.MULTILINE)
# What a page writes where its reader puts a value: one that would do.
VALUES = {"PRESET": "medium", "RATE": "0.01", "W": "0.5", "KD": "1", "T": "0"}
VALUES["configs/study/FILE.yaml"] = "configs/study/street_student.yaml"
NOTHING = {"FURTHER", "...", "$whole", "$test"}  # further words of the reader, or of a line above


class Parsed(Exception):
    """Ends a script that has read its command line."""


def calls_in(text: str) -> list[tuple[str, list[str]]]:
    """The scripts that a text calls, as ``folder/name``, each with its arguments."""
    found = CALL.findall(re.sub(r"\\\n[ #]*", "", text))
    arguments = [[VALUES.get(word, word) for word in shlex.split(rest, comments=True)] for _, rest in found]
    return [(name, [w for w in words if w not in NOTHING]) for (name, _), words in zip(found, arguments, strict=True)]


def understood(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The arguments as the script's parser takes them; its own error where it refuses them."""

    def ending(parse):
        def parse_and_end(self, args=None, namespace=None):
            raise Parsed(parse(self, args, namespace))

        return parse_and_end

    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", [name, *words])
        for method in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, method, ending(getattr(argparse.ArgumentParser, method)))
        with pytest.raises(Parsed) as parsed:
            load_script(f"../{name}").main()  # beside tool/
    return parsed.value.args[0]


@pytest.mark.parametrize("place", PLACES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_scripts_understand_the_commands(place, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    for name, words in calls_in(place.read_text(encoding="utf-8")):
        if name in ("tool/quickstart", "docs/make_settings"):  # settings or nothing, and no parser
            load_settings(None, words)
            continue
        arguments = understood(name, words, monkeypatch)
        config = getattr(arguments, "config", None)
        if config and config.startswith("configs/"):
            assert Path(config).is_file(), f"{name} {words}"
        elif name != "tool/study":
            arguments.config = None  # the reader's own file
        if hasattr(arguments, "overrides"):
            load_settings(arguments.config, arguments.overrides)


def test_calls_are_found_as_pages_write_them():
    page = "Then `python tool/test.py A.b 1` ends.\ntorchrun --n 8 tool/gen_video.py --config \\\n    my.yaml  # it\n"
    comment = "#   python docs/study.py --config FILE\nsrun torchrun tool/demo.py A.b W > log\nRun tool/compare.py."
    assert calls_in(page) == [("tool/test", ["A.b", "1"]), ("tool/gen_video", ["--config", "my.yaml"])]
    assert calls_in(comment) == [("docs/study", ["--config", "FILE"]), ("tool/demo", ["A.b", "0.5"])]
    counts = {str(p.relative_to(REPOSITORY)): len(calls_in(p.read_text(encoding="utf-8"))) for p in PLACES}
    assert counts["README.md"] > 8 and counts["docs/scaling.md"] > 5 and sum(counts.values()) > 120


def test_a_wrong_command_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        understood("tool/gen_video", ["--fast"], monkeypatch)
    assert "--fast" in capsys.readouterr().err
