"""Settings: YAML files and command-line overrides -> one validated object.

Sections and keys keep the names of the published code. A YAML file in the published format also loads:
keys that stand in another section there are moved, obsolete keys are mapped to the native feature, and each
such change is logged once. The section classes themselves stand in ``etc/config_schema.py``.
"""

from __future__ import annotations

import difflib
import logging
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from etc.config_schema import SECTIONS, Settings

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"

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
    """YAML 1.1 reads ``1e-4`` as a string; everybody who writes a learning rate means the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)
# The integer rule has to be asked before the float rule above, which matches integers too.
_Loader.yaml_implicit_resolvers = {
    first: sorted(rules, key=lambda rule: rule[0] != "tag:yaml.org,2002:int")
    for first, rules in _Loader.yaml_implicit_resolvers.items()
}


def load_settings(config: str | Path | None = None, overrides: list[str] | None = None) -> Settings:
    """Read a YAML file and apply overrides.

    Args:
        config: the file; ``None`` means the embedded default, ``configs/quickstart.yaml``.
        overrides: ``["SECTION.key", "VALUE", ...]`` or ``["SECTION.key=VALUE", ...]``, freely mixed; values
            are YAML scalars or lists.

    Returns:
        Validated settings.

    Raises:
        ConfigError: a missing or malformed file, an unknown key (the nearest known key is named), a value of
            the wrong type or out of range.
    """
    path = Path(config) if config is not None else DEFAULT_CONFIG
    tree = _move_published_keys(_read(path), source=str(path))
    for key, value in _pairs(overrides or []):
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    return _validate(tree)


def dump_settings(settings: Settings) -> str:
    """The effective settings as YAML, to be written beside every result."""
    return yaml.safe_dump(settings.model_dump(), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(v, dict) or v is None for v in tree.values()):
        raise ConfigError(f"{path}: expected sections {', '.join(SECTIONS)} with keys below them")
    return {str(name): dict(keys or {}) for name, keys in tree.items()}


def _pairs(words: list[str]) -> list[tuple[str, Any]]:
    """Split ``SECTION.key VALUE`` and ``SECTION.key=VALUE`` words into keys and parsed values."""
    pairs, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        key, equals, text = word.partition("=")
        if not re.fullmatch(r"[A-Za-z]+\.\w+", key):
            raise ConfigError(f"unexpected argument {word!r}: expected SECTION.key VALUE or SECTION.key=VALUE")
        if not equals:
            if not rest:
                raise ConfigError(f"{key} has no value: expected SECTION.key VALUE or SECTION.key=VALUE")
            text = rest.pop(0)
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            value = text
        section, _, name = key.partition(".")
        pairs.append((f"{section.upper()}.{name}", value))
    return pairs


def _known_keys() -> dict[str, list[str]]:
    """Key -> the sections that have it."""
    known: dict[str, list[str]] = {}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            known.setdefault(key, []).append(section)
    return known


def _move_published_keys(tree: dict[str, dict[str, Any]], source: str) -> dict[str, dict[str, Any]]:
    """Translate the published file format; unknown keys stay where they are for the validation to name."""
    known, result = _known_keys(), {}
    for written_section, keys in tree.items():
        section = written_section.upper()
        for key, value in keys.items():
            target = result.setdefault(section, {})
            if section in SECTIONS and key in SECTIONS[section].model_fields:
                # Published files leave a key empty to mean its default.
                if value is not None:
                    target[key] = value
            elif key == "opt_level":
                amp = _OPT_LEVEL.get(str(value))
                if amp is None:
                    raise ConfigError(f"{source}: opt_level {value!r} is none of {', '.join(_OPT_LEVEL)}")
                result.setdefault("TRAIN", {})["amp"] = amp
                logger.info("%s: opt_level %s is now TRAIN.amp %s", source, value, amp)
            elif key in _OBSOLETE:
                new = _OBSOLETE[key]
                if new and value is not None:
                    result.setdefault(known[new][0], {})[new] = value
                logger.info("%s: %s.%s is obsolete%s", source, section, key, f", now {new}" if new else "")
            elif len(known.get(key, [])) == 1 and section in SECTIONS:
                home = known[key][0]
                if value is not None:
                    result.setdefault(home, {})[key] = value
                logger.info("%s: %s.%s is now %s.%s", source, section, key, home, key)
            else:
                target[key] = value
        result.setdefault(section, {})
    return result


def _validate(tree: dict[str, dict[str, Any]]) -> Settings:
    for section, keys in tree.items():
        if section not in SECTIONS:
            near = difflib.get_close_matches(section, SECTIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; sections are {', '.join(SECTIONS)}"
            raise ConfigError(f"unknown section {section}{hint}")
        for key in keys:
            if key not in SECTIONS[section].model_fields:
                raise ConfigError(f"unknown key {section}.{key}{_nearest(section, key)}")
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
    known = _known_keys()
    if key in known:
        return f"; did you mean {known[key][0]}.{key}?"
    names = {f"{home}.{name}": name for name, homes in known.items() for home in homes}
    own = difflib.get_close_matches(key, list(names.values()), n=1, cutoff=0.5)
    if not own:
        return ""
    homes = known[own[0]]
    return f"; did you mean {section if section in homes else homes[0]}.{own[0]}?"
