"""Settings: YAML files and command-line overrides -> one validated object.

Sections and keys keep the names of the published code. A YAML file in the published format also loads:
keys that stand in another section there are moved, obsolete keys are mapped to the native feature, and each
such change is logged once. The section classes themselves stand in ``etc/config/schema.py``.
"""

from __future__ import annotations

import difflib
import logging
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from etc.config.schema import SECTIONS, Settings

logger = logging.getLogger(__name__)

TOOLKIT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = TOOLKIT / "configs" / "quickstart.yaml"

# Obsolete keys of the published files and what takes their place; None: torchrun or torch itself does it now.
_OBSOLETE = {
    "use_apex": None,
    "keep_batchnorm_fp32": None,
    "loss_scale": None,
    "multiprocessing_distributed": None,
    "dist_url": None,
    "dist_backend": None,
    "world_size": None,
    "rank": None,
    "train_gpu": None,
    "test_gpu": None,
    "start_epoch": None,
    "save_freq": None,  # a checkpoint is written after every epoch
    "batch_size_val": None,  # validation predicts frame by frame, as scoring does
    "evaluate": None,
    "has_prediction": None,
    "index_start": None,
    "index_step": None,
    "split": None,
    "model_path": "ckpt_path",
}
_OPT_LEVEL = {"O0": "off", "O1": "float16", "O2": "float16"}


class UserError(ValueError):
    """Something that only the user can mend: a file, a shape, a key; the message says what was expected."""


class ConfigError(UserError):
    """A setting that cannot be used; the message names the key."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two traps closed: ``1e-4`` is a number, and ``off`` is a word, not false."""


class _Dumper(yaml.SafeDumper):
    """Quotes what either kind of loader would not read back as a string."""


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
        tree = _translate(config, source="the settings in the checkpoint")
    else:
        path = Path(config) if config is not None else DEFAULT_CONFIG
        tree = _translate(_read(path), source=str(path))
    # Published files leave a key empty to mean its default.
    tree = {section: {k: v for k, v in keys.items() if v is not None} for section, keys in tree.items()}
    for section, key, value in _pairs(overrides or []):
        for home, change in _translate({section: {key: value}}, source="command line").items():
            tree.setdefault(home, {}).update(change)
    return _validate(tree)


def find_file(path: str | Path) -> Path:
    """A file the settings name: as it stands, or else among the lists and palettes that come with the toolkit.

    So ``data/palettes/cityscapes_names.txt`` is found from whatever folder a script is started in.
    """
    path = Path(path)
    return path if path.exists() or not (TOOLKIT / path).is_file() else TOOLKIT / path


def dump_settings(settings: Settings) -> str:
    """The effective settings as YAML, to be written beside every result."""
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
    """A value from the command line. Where a string is wanted a number is one too: ``TEST.save_folder 2024``."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    homes = _known_keys().get(key, [])
    wants_string = bool(homes) and SECTIONS[homes[0]].model_fields[key].annotation in (str, str | None)
    return text if wants_string and not isinstance(value, str | None) else value


def _known_keys() -> dict[str, list[str]]:
    """Key -> the sections that have it."""
    known: dict[str, list[str]] = {}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            known.setdefault(key, []).append(section)
    return known


def _translate(tree: dict[str, dict[str, Any]], source: str) -> dict[str, dict[str, Any]]:
    """Translate the published file format into our sections and keys.

    Raises:
        ConfigError: an unknown section or key, or two different values for one key.
    """
    result: dict[str, dict[str, Any]] = {}
    with_apex = all(keys.get("use_apex") is not False for keys in tree.values())
    for written_section, keys in tree.items():
        section = written_section.upper()
        if section not in SECTIONS:
            near = difflib.get_close_matches(section, SECTIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; sections are {', '.join(SECTIONS)}"
            raise ConfigError(f"{source}: unknown section {written_section}{hint}")
        for key, value in keys.items():
            if key == "opt_level" and not with_apex:
                value = "O0"  # published: opt_level counts only where apex is used
            home, name, value = _home(section, key, value, source)
            if (home, name) != (section, key):
                now = f"is now {home}.{name}: {'' if value is None else value}" if home else "is obsolete"
                logger.info("%s: %s.%s %s", source, written_section, key, now)
            if home is None:
                continue
            before = result.setdefault(home, {}).get(name)
            if None not in (before, value) and before != value:
                raise ConfigError(f"{source}: {home}.{name} is given twice, as {before!r} and {value!r}")
            result[home][name] = before if value is None else value
    return result


def _home(section: str, key: str, value: Any, source: str) -> tuple[str | None, str, Any]:
    """Section, key and value that a written key stands for; without section: nothing does it any more."""
    known = _known_keys()
    if key in SECTIONS[section].model_fields:
        return section, key, value
    if key == "opt_level":
        if value is not None and value not in _OPT_LEVEL:
            raise ConfigError(f"{source}: opt_level {value!r} is none of {', '.join(_OPT_LEVEL)}")
        return "TRAIN", "amp", _OPT_LEVEL.get(value)
    if key in _OBSOLETE:
        new = _OBSOLETE[key]
        return (known[new][0], new, value) if new else (None, key, value)
    if key in known:
        return known[key][0], key, value
    raise ConfigError(f"{source}: unknown key {section}.{key}{_nearest(section, key)}")


def _validate(tree: dict[str, dict[str, Any]]) -> Settings:
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        # A check over a whole section has no input worth printing.
        given = f" (got {first['input']!r})" if len(first["loc"]) > 1 else ""
        raise ConfigError(f"{where}: {message}{given}") from None


def _nearest(section: str, key: str) -> str:
    """``"; did you mean SECTION.key?"``, or nothing where no known key comes near."""
    known = _known_keys()
    near = difflib.get_close_matches(key.lower(), known, n=1)
    if not near:
        return ""
    homes = known[near[0]]
    return f"; did you mean {section if section in homes else homes[0]}.{near[0]}?"
