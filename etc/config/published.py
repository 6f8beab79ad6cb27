"""Translates settings of the published YAML format and of version 1.0 into the sections, keys and values of today."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from etc.config.names import known_keys, nearest_key, nearest_section
from etc.config.schema import SECTIONS
from etc.errors import ConfigError

logger = logging.getLogger(__name__)

# Obsolete keys of the published files and what replaces them; None: nothing, torchrun or torch does it now.
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


# Keys and values of version 1.0 of this toolkit, and what they are called now.
_RENAMED_KEYS = {
    ("DATA", "allow_single"): "allow_missing_neighbours",
    ("FLOW", "judges"): "evaluate_with",
    ("FLOW", "store"): "cache",
    ("DISTILL", "store"): "cache",
}
_RENAMED_VALUES = {
    ("FLOW", "name", "stored"): "dataset",
    ("FLOW", "evaluate_with", "stored"): "dataset",
    ("FLOW", "source", "stored"): "cached",
    ("DISTILL", "source", "stored"): "cached",
}


def translate(tree: dict[str, dict[str, Any]], source: str) -> dict[str, dict[str, Any]]:
    """Translate the published file format, and names of version 1.0, into the sections and keys of today.

    Raises:
        ConfigError: an unknown section or key, two different values for one key, or no sections with keys (a damaged
            checkpoint may hold anything).
    """
    _check_tree(tree, source)
    result: dict[str, dict[str, Any]] = {}
    with_apex = all(keys.get("use_apex") is not False for keys in tree.values())
    for written_section, keys in tree.items():
        section = written_section.upper()
        if section not in SECTIONS:
            raise ConfigError(f"{source}: unknown section {written_section}{nearest_section(section)}")
        for key, value in keys.items():
            if key == "opt_level" and not with_apex:
                value = "O0"  # published: opt_level counts only where apex is used
            home, name, value = _home(section, key, value, source)
            if (home, name) != (section, key):
                now = f"is now {home}.{name}: {'' if value is None else value}" if home else "is obsolete"
                logger.info("%s: %s.%s %s", source, written_section, key, now)
            elif value != keys[key]:
                logger.info("%s: %s.%s: %s is now called %s", source, section, key, keys[key], value)
            if home is None:
                continue
            before = result.setdefault(home, {}).get(name)
            if None not in (before, value) and before != value:
                raise ConfigError(f"{source}: {home}.{name} is given twice, as {before!r} and {value!r}")
            result[home][name] = before if value is None else value
    return result


def current_name(section: str, key: str) -> tuple[str | None, str]:
    """The section and key of today for a key as somebody wrote it; section ``None``: obsolete or unknown."""
    if section not in SECTIONS:
        return None, key
    key = _RENAMED_KEYS.get((section, key), key)
    key = _OBSOLETE.get(key) or key
    if key in SECTIONS[section].model_fields:
        return section, key
    homes = known_keys().get(key)
    return (homes[0], key) if homes else (None, key)


def _check_tree(tree: Any, source: str) -> None:
    sections = tree.items() if isinstance(tree, dict) else [(None, None)]
    for section, keys in sections:
        if not isinstance(section, str) or not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
            raise ConfigError(f"{source}: expected sections {', '.join(SECTIONS)} with keys below them")


def _home(section: str, key: str, value: Any, source: str) -> tuple[str | None, str, Any]:
    """The section, key and value of today for a key in a file; section ``None``: the key is obsolete."""
    known = known_keys()
    key = _RENAMED_KEYS.get((section, key), key)
    if isinstance(value, list):
        value = [_RENAMED_VALUES.get((section, key, str(item)), item) for item in value]
    else:
        value = _RENAMED_VALUES.get((section, key, str(value)), value)
    if key in SECTIONS[section].model_fields:
        return section, key, value
    if key == "opt_level":
        if value is not None and str(value) not in _OPT_LEVEL:
            raise ConfigError(f"{source}: opt_level {value!r} is none of {', '.join(_OPT_LEVEL)}")
        return "TRAIN", "amp", _OPT_LEVEL.get(value)
    if key in _OBSOLETE:
        new = _OBSOLETE[key]
        return (known[new][0], new, value) if new else (None, key, value)
    if key in known:
        return known[key][0], key, value
    raise ConfigError(f"{source}: unknown key {section}.{key}{nearest_key(section, key)}")
