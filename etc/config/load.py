"""Settings: YAML files and command-line overrides -> one validated object.

Sections and keys keep the names of the published code. A YAML file in the published format also loads:
its keys that belong to another section here are moved, obsolete keys are mapped to the native feature, and each
such change is logged once; any other key in a wrong section is an error. The section classes are in
``etc/config/schema.py``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from etc.config.published import current_name, translate
from etc.config.schema import SECTIONS, Settings
from etc.config.words import refusal
from etc.config.yaml_reader import Dumper, YamlError, parse, read_text
from etc.errors import ConfigError

logger = logging.getLogger(__name__)

TOOLKIT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = TOOLKIT / "configs" / "quickstart.yaml"

_EMPTY = ("", "null", "none")  # on the command line, for a setting that may be empty


def load_settings(config: str | Path | dict | None = None, overrides: list[str] | None = None) -> Settings:
    """Read a YAML file and apply overrides.

    Args:
        config: the file, or the settings that a checkpoint holds; ``None`` means the embedded default,
            ``configs/quickstart.yaml``.
        overrides: ``["SECTION.key", "VALUE", ...]`` or ``["SECTION.key=VALUE", ...]``, freely mixed; values
            of text settings are taken as they stand, others are YAML scalars or lists; ``null``, ``none`` and nothing
            empty a setting that may be empty.

    Returns:
        Validated settings.

    Raises:
        ConfigError: a missing or malformed file, an unknown key (the nearest known key is named), a value of
            the wrong type or out of range.
    """
    if isinstance(config, dict):
        tree = translate(config, source="the settings in the checkpoint")
    else:
        path = Path(config) if config is not None else DEFAULT_CONFIG
        tree = translate(_read(path), source=str(path))
    # Published files leave a key empty to mean its default.
    tree = {section: {k: v for k, v in keys.items() if v is not None} for section, keys in tree.items()}
    for section, key, value in _pairs(overrides or []):
        for home, change in translate({section: {key: value}}, source="command line").items():
            tree.setdefault(home, {}).update(change)
    return _validate(tree)


def is_given(key: str, overrides: Sequence[str]) -> bool:
    """Whether overrides, as :func:`load_settings` takes them, name a setting ``SECTION.key``."""
    return any(word.partition("=")[0] == key for word in overrides)


def with_changes(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """A copy of settings with some keys changed: ``with_changes(settings, TEST={"fps": 5.0})``.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    tree = settings.model_dump()
    for section, change in sections.items():
        tree[section].update(change)
    return _validate(tree)


def find_file(path: str | Path) -> Path:
    """A file that the settings name: at that path, or else among the lists, palettes and weights of the toolkit.

    So ``data/palettes/cityscapes_names.txt`` is found from whatever folder a script is started in.
    """
    path = Path(path)
    return path if path.exists() or not (TOOLKIT / path).is_file() else TOOLKIT / path


def dump_settings(settings: Settings) -> str:
    """The effective settings as YAML, which are written beside every result."""
    return yaml.dump(settings.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = parse(read_text(path))
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from error
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict) or not all(isinstance(v, dict) or v is None for v in tree.values()):
        raise ConfigError(f"{path}: expected sections {', '.join(SECTIONS)} with keys below them")
    return {str(name): {str(k): v for k, v in (keys or {}).items()} for name, keys in tree.items()}


def _pairs(words: list[str]) -> list[tuple[str, str, Any]]:
    """Split ``SECTION.key VALUE`` and ``SECTION.key=VALUE`` words into sections, keys and parsed values."""
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if not re.fullmatch(r"[A-Za-z]+\.\w+", name):
            raise ConfigError(f"unexpected argument {word!r}: expected SECTION.key VALUE or SECTION.key=VALUE")
        if not equals:
            if not rest:
                raise ConfigError(f"{name} has no value: expected SECTION.key VALUE or SECTION.key=VALUE")
            text = rest.pop(0)
        section, _, key = name.partition(".")
        pairs.append((section, key, _parsed(text, section, key)))
    return pairs


def _parsed(text: str, section: str, key: str) -> Any:
    """A value from the command line.

    Where the setting is a text, it is taken as it stands: ``TEST.save_folder "exp/run #3"``, ``TEST.save_folder 2024``.
    Where a setting may be empty, ``null``, ``none`` and nothing mean that it is. All else is parsed as YAML, as is a
    text in brackets for a setting that may be a list.
    """
    types = _types_of(section, key)
    if any(get_origin(kind) is list for kind in types) and text.lstrip().startswith("["):
        types = ()
    if type(None) in types and text.casefold() in _EMPTY:
        return None
    if text.lstrip().startswith("{") and any(get_origin(each) is dict for each in types):
        return parse(text)
    if str in types:
        return int(text) if int in types and re.fullmatch("[0-9]{1,9}", text) else text
    try:
        return parse(text)
    except yaml.YAMLError:
        return text


def _types_of(section: str, key: str) -> tuple[type, ...]:
    """The types that a setting accepts, nothing for one that does not exist: ``(str, NoneType)``."""
    home, name = current_name(section.upper(), key)
    if home is None:
        return ()
    annotation = SECTIONS[home].model_fields[name].annotation
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _validate(tree: dict[str, dict[str, Any]]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(refusal(error, tree)) from error
