"""Settings: YAML files and command-line overrides -> one validated object.

Sections and keys keep the names of the published code. A YAML file in the published format also loads:
keys that belong to another section here are moved, obsolete keys are mapped to the native feature, and each
such change is logged once. The section classes are in ``etc/config/schema.py``.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from etc.config.published import present_key, translate
from etc.config.schema import SECTIONS, Settings, known_keys
from etc.errors import ConfigError

logger = logging.getLogger(__name__)

TOOLKIT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = TOOLKIT / "configs" / "quickstart.yaml"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two traps closed: ``1e-4`` is a number, and ``off`` is a word, not false."""


class _Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or :class:`_Loader` would not read back as strings."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_DATE = "tag:yaml.org,2002:timestamp"  # a folder named by its date is a name
_FLOAT_RULE = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$")
_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] not in (_BOOL, _FLOAT, _DATE)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
for _class in (_Loader, _Dumper):
    # Appended, so that it is asked after the rule for integers, which it matches too.
    _class.add_implicit_resolver(_FLOAT, _FLOAT_RULE, list("-+.0123456789"))


def load_settings(config: str | Path | dict | None = None, overrides: list[str] | None = None) -> Settings:
    """Read a YAML file and apply overrides.

    Args:
        config: the file, or the settings that a checkpoint holds; ``None`` means the embedded default,
            ``configs/quickstart.yaml``.
        overrides: ``["SECTION.key", "VALUE", ...]`` or ``["SECTION.key=VALUE", ...]``, freely mixed; values
            are YAML scalars or lists.

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
    """A file that the settings name: at that path, or else among the lists and palettes that come with the toolkit.

    So ``data/palettes/cityscapes_names.txt`` is found from whatever folder a script is started in.
    """
    path = Path(path)
    return path if path.exists() or not (TOOLKIT / path).is_file() else TOOLKIT / path


def dump_settings(settings: Settings) -> str:
    """The effective settings as YAML, which are written beside every result."""
    return yaml.dump(settings.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
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
        pairs.append((section, key, _parsed(text, key)))
    return pairs


def _parsed(text: str, key: str) -> Any:
    """A value from the command line. Where the setting is a string, a number stays one: ``TEST.save_folder 2024``."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    key = present_key(key)
    homes = known_keys().get(key, [])
    wants_string = bool(homes) and SECTIONS[homes[0]].model_fields[key].annotation in (str, str | None)
    return text if wants_string and not isinstance(value, str | None) else value


def _validate(tree: dict[str, dict[str, Any]]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        # The input of a check over a whole section is too long to print.
        given = f" (got {first['input']!r})" if len(first["loc"]) > 1 else ""
        raise ConfigError(f"{where}: {message}{given}") from None
