"""What all command-line doors share: arguments, overrides, ``--help``, one-line user errors, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from types import UnionType
from typing import get_args, get_origin

from etc.config import DEFAULT_CONFIG, load_settings
from etc.config.schema import SECTIONS, Settings
from etc.data.layouts import check_layout
from etc.errors import UserError

USER_ERROR = 2


def parse(argv: list[str] | None, *, description: str | None, sections: tuple[str, ...] = tuple(SECTIONS)):
    """Read ``[--config FILE] [SECTION.key VALUE | SECTION.key=VALUE ...]``.

    Args:
        argv: the words after the script's name; ``None`` means ``sys.argv[1:]``.
        description: the script's docstring, shown by ``--help``.
        sections: the sections that ``--help`` lists.

    Returns:
        The validated :class:`~etc.config.schema.Settings`.

    Raises:
        ConfigError: as :func:`etc.config.load_settings`.
    """
    parser = argument_parser(description, sections)
    return settings_from(parser.parse_intermixed_args(argv))


def argument_parser(description: str | None, sections: tuple[str, ...] = tuple(SECTIONS)):
    """The parser behind :func:`parse`, for scripts with options of their own."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_settings_help(sections),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help=f"YAML settings (default: {DEFAULT_CONFIG.name})")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.key VALUE", help="settings to change")
    return parser


def settings_from(words: argparse.Namespace) -> Settings:
    """Settings from parsed arguments."""
    return check_layout(load_settings(words.config, words.overrides))


def run(main: Callable[[], int]) -> int:
    """Run a script: user errors become one line on stderr and exit code 2, Ctrl-C exit code 130.

    ``UserError`` and ``OSError`` (missing file, full disk) are the user's to mend. Every other exception is a
    defect of ours and stays loud, with its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        # The path begins with tool/; somebody's network or flow estimator lies where the script is started.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        message = str(error)
    except OSError as error:
        # str() of an OSError from the system says "[Errno 28] ..."; our own ones carry a sentence.
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    print(f"error: {' '.join(_own_message(message).split())}", file=sys.stderr)
    return USER_ERROR


def _own_message(message: str) -> str:
    """What the error itself says: PyTorch wraps one of a data loading process into that process's traceback."""
    if not message.startswith("Caught ") or "Traceback" not in message:
        return message
    return message.rstrip().splitlines()[-1].partition(": ")[2]


def _settings_help(sections: tuple[str, ...]) -> str:
    lines = ["settings:"]
    for section in sections:
        model = SECTIONS[section]
        lines.append(f"\n  {section}: {model.__doc__}")
        for name, field in model.model_fields.items():
            default = "" if field.default is None else f" [{field.default}]"
            lines.append(f"    {name} ({_type_name(field.annotation)}){default}")
            lines.append(f"        {field.description}")
    lines.append("\nThe defaults in brackets hold where the settings file says nothing.")
    return "\n".join(lines)


def _type_name(annotation: object) -> str:
    arguments = [a for a in get_args(annotation) if a is not type(None)]
    if isinstance(annotation, UnionType):
        return " | ".join(_type_name(a) for a in arguments)
    if getattr(get_origin(annotation), "__name__", "") == "Literal" or str(annotation).startswith("typing.Lit"):
        return " | ".join(str(a) for a in arguments)
    if get_origin(annotation) is list:
        return f"list of {_type_name(arguments[0])}"
    return getattr(annotation, "__name__", str(annotation))
