"""What all scripts share: arguments, overrides, ``--help``, one-line user errors, exit codes."""

from __future__ import annotations

from etc import interrupts  # first: importing the others takes seconds, in which somebody may press Ctrl-C

# isort: split
import os

# Before torch is imported. By default, OpenMP's threads spin while they wait for each other; where another program uses
# one of the cores, a forward pass takes up to nine times as long then. Sleeping costs nothing measurable without one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# isort: split
import argparse
import io
import itertools
import logging
import re
import shlex
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from etc.config import DEFAULT_CONFIG, TOOLKIT, find_file, load_settings
from etc.config.schema import SECTIONS, Settings
from etc.config.words import type_of
from etc.data.layouts import check_layout
from etc.errors import ConfigError, UserError, is_lack_of_memory

USER_ERROR = 2
HELP_WIDTH = 104
NAME_WIDTH = 22  # column of the names of settings in --help; longer names push their line to the right

# The settings that several scripts read, for the KEYS that each script passes to argument_parser.
WORLD = "DATA.data_root DATA.synthetic*"
CLIPS = f"{WORLD} DATA.layout DATA.clip_list DATA.frame_step FLOW.cache TEST.frames TEST.labels TEST.cityscapes"
NETWORK = "DATA.classes TRAIN.arch TRAIN.layers TEST.ckpt_path TEST.pad_to TEST.device"
PREDICTOR = (
    "TEST.mode TEST.test_h TEST.test_w TEST.overlap TEST.scales TEST.flip TEST.base_size TEST.amp TEST.compile "
    "TEST.fold_bn"
)
ESTIMATOR = "FLOW.name FLOW.weights FLOW.preset FLOW.input FLOW.scale"
SCORING = (
    "DATA.classes DATA.label_map DATA.names_path DATA.colors_path DATA.gaps DATA.cuts FLOW.cache FLOW.evaluate_with "
    "FLOW.occlusion TRAIN.ignore_label TEST.prediction_ids TEST.allow_gaps TEST.strides TEST.protocols TEST.device"
)
ALL = " ".join(SECTIONS)

OVERRIDES = "settings to change; text is taken as it stands; none, null or '' empties a setting"

# Keys of the published files that are accepted, but that nothing reads.
_WITHOUT_EFFECT = {"TRAIN.zoom_factor"}


def parse(argv: list[str] | None, *, description: str | None, keys: str = ALL, brief: str = "") -> Settings:
    """Read ``[--config FILE] [SECTION.key VALUE | SECTION.key=VALUE ...]``.

    Args:
        argv: the arguments after the script's name; ``None`` means ``sys.argv[1:]``.
        description: the script's docstring, shown by ``--help``.
        keys: the settings that the script reads, as :func:`matching_keys` takes them.
        brief: those of them that ``--help`` shows without type and meaning.

    Returns:
        The validated :class:`~etc.config.schema.Settings`.

    Raises:
        ConfigError: as :func:`etc.config.load_settings`.
    """
    return settings_from(argument_parser(description, keys, brief).parse_intermixed_args(argv))


def argument_parser(description: str | None, keys: str = ALL, brief: str = "") -> SettingsParser:
    """The parser behind :func:`parse`, for scripts with options of their own."""
    return SettingsParser(description, keys, brief)


def settings_from(args: argparse.Namespace) -> Settings:
    """Settings from parsed arguments.

    Raises:
        ConfigError: as :func:`etc.config.load_settings`, or an unknown ``DATA.layout``.
    """
    settings = check_layout(load_settings(args.config, args.overrides))
    check_before_work(settings, args.keys)
    return settings


def check_before_work(settings: Settings, keys: Iterable[str]) -> None:
    """Check what would otherwise be found only after data is rendered: checkpoints, and the device.

    Args:
        settings: all sections.
        keys: the settings that the script reads, as ``"SECTION.key"``.

    Raises:
        UserError: a checkpoint, a list outside of the rendered data, or TEST.frames that does not exist; class names
            that do not fit; a device that this machine does not have.
    """
    for key in ("TEST.ckpt_path", "TRAIN.weight", "DISTILL.teacher_weight"):
        section, _, name = key.partition(".")
        if key not in keys or (section == "DISTILL" and not settings.DISTILL.used):
            continue
        value = getattr(getattr(settings, section), name)
        for path in value if isinstance(value, list) else [value]:
            if path is not None and not find_file(path).is_file():
                cure = _teachers_training(path) if section == "DISTILL" else ""
                raise UserError(f"{key} {path} does not exist{cure}")
    if "DATA.names_path" in keys:
        from etc.data.labels import class_names

        class_names(settings)
    for key, path in _lists_read(settings, keys):
        # The list files of the rendered data come with it.
        if not Path(path).is_relative_to(settings.DATA.data_root) and not find_file(path).is_file():
            raise UserError(f"{key} {path} does not exist")
    if "TEST.device" in keys:
        # A script that computes on a device imports torch anyway; others start without it.
        from etc.distributed import device_of

        device_of(settings.TEST.device)


def _teachers_training(path: str | Path) -> str:
    """How to get a teacher that is not there: those of ``configs`` are saved in ``exp/<data set>/<file name>``."""
    config = Path("configs", *Path(path).parent.parts[1:]).with_suffix(".yaml")
    command = f", python tool/train_with_flow.py --config {config}" if find_file(config).is_file() else ""
    return f": train the teacher first{command}"


def _lists_read(settings: Settings, keys: Iterable[str]) -> list[tuple[str, str]]:
    """The settings of list files that a script reads, with their values, where the data may have to be rendered."""
    read = set(keys)

    def value(key: str) -> Any:
        section, _, name = key.partition(".")
        return getattr(getattr(settings, section), name) if key in read else None

    if not value("DATA.synthetic"):
        return []
    lists = ["DATA.train_list", "TEST.test_list"]
    if not value("TEST.test_list"):
        lists.append("DATA.val_list")
    if not value("TEST.frames") and not value("TEST.cityscapes") and value("TEST.demo_dir") is None:
        lists.append("DATA.clip_list")
    return [(key, value(key)) for key in lists if value(key)]


def matching_keys(patterns: str) -> list[str]:
    """The settings that patterns stand for, as ``"SECTION.key"`` in the order of the schema.

    Args:
        patterns: ``SECTION``, ``SECTION.key`` or ``SECTION.start*``, separated by spaces.
    """
    known = [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]
    every = [pattern if "." in pattern else f"{pattern}.*" for pattern in patterns.split()]
    return [key for key in known if key not in _WITHOUT_EFFECT and any(fnmatchcase(key, p) for p in every)]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a docstring; the same width on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=HELP_WIDTH)


class Parser(argparse.ArgumentParser):
    """Of a script: its docstring and epilog as they stand in ``--help``, and a wrong argument is one line."""

    def __init__(self, description: str | None, **further: Any) -> None:
        super().__init__(description=description, formatter_class=HelpFormatter, **further)

    def error(self, message: str) -> NoReturn:
        """End the script with one line, as for all other errors of its user."""
        self.exit(USER_ERROR, f"error: {message} (--help shows how to call it)\n")


class SettingsParser(Parser):
    """``--config``, overrides, and a ``--help`` that shows the script's settings with the values in force.

    These are the values of the file that ``--config`` names on the same command line, changed by the overrides there;
    so ``--help`` can be answered only when everything else has been read.

    Args:
        description: the script's docstring.
        keys: the settings to list, as :func:`matching_keys` takes them.
        brief: those of them to list by name and value only.
    """

    def __init__(self, description: str | None, keys: str, brief: str = "") -> None:
        super().__init__(description, add_help=False)
        # for check_before_work; a program that names no keys reads what it likes
        self.set_defaults(keys=[] if keys == ALL else matching_keys(keys))
        self.keys, self.brief = matching_keys(keys), matching_keys(brief)
        shared = self.add_argument_group("arguments")
        shared.add_argument("overrides", nargs="*", metavar="SECTION.key VALUE", help=OVERRIDES)
        shared.add_argument("-h", "--help", action="store_true", help="show this help and exit")
        default = DEFAULT_CONFIG.relative_to(TOOLKIT)
        shared.add_argument("--config", metavar="FILE", help=f"YAML file of settings (default: {default})")

    def parse_intermixed_args(self, args=None, namespace=None) -> Any:
        """As argparse does, options and overrides in any order; ``--help`` prints and exits."""
        parsed = super().parse_intermixed_args(args, namespace)
        if parsed.help:
            self.epilog = settings_help(self.keys, parsed.config, parsed.overrides, self.brief)
            self.print_help()
            self.exit()
        return parsed


def run(main: Callable[[], int]) -> int:
    """Run a script: user errors become one line on stderr and exit code 2, Ctrl-C exit code 130.

    ``UserError``, ``OSError`` (missing file, full disk) and killed workers are caused by user input or the environment;
    with the environment variable ``ETC_DEBUG=1`` their traceback is printed before that line. Any other exception is a
    bug in the toolkit and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold bytes that the terminal's encoding does not have.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        interrupts.raise_again()
        # sys.path starts with tool/; the user's own networks and flow estimators are in the current folder.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return interrupts.INTERRUPTED
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        known = isinstance(error, UserError | OSError) or _worker_was_killed(error) or is_lack_of_memory(error)
        if not known:
            raise
        if os.environ.get("ETC_DEBUG") == "1":
            traceback.print_exception(error)
        print(f"error: {' '.join(_message(error).split())}", file=sys.stderr)
        return USER_ERROR
    finally:
        interrupts.end_at_once()


def run_script(name: str, *args: str) -> None:
    """Run another script of the toolkit, shown as it is called; its failure ends this one with the same exit code."""
    print(f"\n$ python tool/{name}.py {shlex.join(args)}", flush=True)
    code = subprocess.run([sys.executable, str(TOOLKIT / f"tool/{name}.py"), *args], check=False).returncode
    if code:
        raise SystemExit(code)


def _worker_was_killed(error: Exception) -> bool:
    """Whether the error is PyTorch's or Python's report that the system ended a worker process.

    PyTorch's error, or the one that caused it, names the signal. A crash (segmentation fault, abort) is a defect in
    somebody's code, so its traceback is kept.
    """
    crashed = re.search("by signal: (Segmentation fault|Aborted|Floating point|Illegal instruction)", _report(error))
    return isinstance(error, BrokenProcessPool) or (str(error).startswith("DataLoader worker (pid") and not crashed)


def _report(error: Exception) -> str:
    """PyTorch's report with the signal, which is the cause of the one that it raises at last."""
    return str(error.__cause__ if str(error.__cause__).startswith("DataLoader worker (pid") else error)


def _message(error: Exception) -> str:
    """The error's own sentence."""
    message = str(error)
    if _worker_was_killed(error):
        return (
            "a worker process was killed, often by lack of memory: free some memory, or lower TRAIN.workers or "
            f"--workers ({_report(error).strip().rstrip('.')})"
        )
    if is_lack_of_memory(error):
        return (
            "not enough memory: lower TRAIN.batch_size or the training crop, TEST.batch_size_gen, TEST.base_size or "
            f"TEST.pad_to, FLOW.scale ({(str(error).splitlines() or ['MemoryError'])[0]})"
        )
    if isinstance(error, OSError):
        # str() of an OSError from the system starts with "[Errno 28]"; those of the toolkit hold a sentence.
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if message.startswith("Caught ") and "Traceback" in message:
        # PyTorch puts the whole traceback of a DataLoader worker into the message; the sentence is its last line.
        return message.rstrip().splitlines()[-1].partition(": ")[2]
    return message


def settings_help(
    keys: Iterable[str], config: str | None = None, overrides: list[str] | None = None, brief: Iterable[str] = ()
) -> str:
    """One entry per setting: name, type and range, value in force, meaning.

    Args:
        keys: the settings, as ``"SECTION.key"``. Neighbours with the same type and description share an entry.
        config: the settings file; ``None`` means the default.
        overrides: as :func:`etc.config.load_settings` takes them. A file or override that cannot be used is reported
            at the end, and the values shown are the default's: somebody who asks for help must get it.
        brief: those of the settings that are listed at the end, by name and value only.
    """
    source, problem = config or DEFAULT_CONFIG.relative_to(TOOLKIT), ""
    try:
        settings = load_settings(config, overrides)
    except ConfigError as error:
        settings, source, problem = (
            load_settings(),
            DEFAULT_CONFIG.relative_to(TOOLKIT),
            f"\n\nvalues not used: {error}",
        )
    given = " and the command line" if overrides and not problem else ""
    lines = [f"settings that this script reads [value in {source}{given}]:"]
    full = [key for key in keys if key not in brief]
    for (section, kind, meaning), group in itertools.groupby(full, _entry):
        names = [key.partition(".")[2] for key in group]
        values = ", ".join(shown_value(settings, f"{section}.{name}") for name in names)
        together = f"{section}.{', '.join(names)}"
        lines += _wrapped(f"{together:<{NAME_WIDTH}}  {kind} [{values}]  {meaning}")
    if brief:
        # a no-break space keeps a value on the line of its name
        named = ", ".join(f"{key}\xa0[{shown_value(settings, key)}]" for key in brief)
        text = f"described in docs/settings.md: {named}"
        lines += [line.replace("\xa0", " ") for line in _wrapped(text, indent=4)]
    return "\n".join(lines) + problem


def _entry(key: str) -> tuple[str, str, str]:
    """Section, type and meaning of a setting; settings that agree in them share an entry."""
    section, _, name = key.partition(".")
    field = SECTIONS[section].model_fields[name]
    return section, type_of(field), str(field.description)


def _wrapped(entry: str, indent: int = NAME_WIDTH + 4) -> list[str]:
    return textwrap.wrap(
        entry,
        HELP_WIDTH,
        initial_indent="  ",
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def shown_value(settings: Settings, key: str) -> str:
    """The value of ``"SECTION.key"`` as ``--help`` shows it."""
    section, _, name = key.partition(".")
    return _shown(getattr(getattr(settings, section), name))


def _shown(value: Any) -> str:
    """A value as it is written in YAML, and ``empty`` for none."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
