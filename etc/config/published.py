"""Translates settings of the published YAML format and of version 1.0 into the sections, keys and values of today."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

from etc.config.names import nearest_key, nearest_section
from etc.config.schema import SECTIONS
from etc.errors import ConfigError

logger = logging.getLogger(__name__)

# Obsolete keys of the published files, by the section that has them there: torchrun or torch does it now, or nothing.
_OBSOLETE = {
    "TRAIN": {
        "train_gpu",
        "start_epoch",
        "save_freq",  # a checkpoint is written after every epoch
        "batch_size_val",  # validation predicts frame by frame, as scoring does
        "evaluate",
        "tune_weight",
        "sd_mode",
    },
    "DISTRIBUTED": {
        "dist_url",
        "dist_backend",
        "multiprocessing_distributed",
        "world_size",
        "rank",
        "use_apex",
        "keep_batchnorm_fp32",
        "loss_scale",
    },
    "TEST": {"split", "has_prediction", "index_start", "index_step", "test_gpu", "gen_gpu"},
}
_INSTEAD = {"sd_mode": "to distil, set DISTILL.teacher_weight and DISTILL.kd_weight, pf_weight or mf_weight"}

# Lists and palettes of the published files, which lie elsewhere here, and the names of the lists.
_LIST = re.compile(r"(?:\./)?(?:data|dataset)/list/(camvid|cityscapes)/(\w+)\.(?:lst|txt)")
_LIST_NAMES = {"train": "train", "fine_train": "train", "debug": "train", "val": "val", "fine_val": "val"}
_LIST_NAMES |= {"test": "test", "fine_test": "test"}
_PALETTE = re.compile(r"(?:.*/)?((?:camvid|cityscapes)_(?:colors|names)\.txt)")

_NO_WEIGHT = (None, False, "", "none")  # values of tune_weight
_OPT_LEVEL = {"O0": "off", "O1": "float16", "O2": "float16"}


# Keys of the published files and of version 1.0 whose section or name is another one now. A key anywhere else is a
# mistake: moved to whatever section has it, its value would be lost for what was meant (TRAIN.weights, FLOW.weights).
_MOVED = {
    ("TRAIN", "sync_bn"): ("DISTRIBUTED", "sync_bn"),
    ("DISTRIBUTED", "opt_level"): ("TRAIN", "amp"),
    ("TEST", "colors_path"): ("DATA", "colors_path"),
    ("TEST", "names_path"): ("DATA", "names_path"),
    ("TEST", "model_path"): ("TEST", "ckpt_path"),
    ("DATA", "allow_single"): ("DATA", "allow_missing_neighbours"),
    ("FLOW", "judges"): ("FLOW", "evaluate_with"),
    ("FLOW", "store"): ("FLOW", "cache"),
    ("DISTILL", "store"): ("DISTILL", "cache"),
}
# Values of version 1.0, and what they are called now.
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
        for key, written in keys.items():
            if key == "model_path" and keys.get("ckpt_path") is not None:
                logger.info("%s: %s.model_path is obsolete: ckpt_path is given too", source, written_section)
                continue
            value = written
            if key == "opt_level" and not with_apex:
                value = "O0"  # published: opt_level counts only where apex is used
            home, name, value = _home(section, key, value, source)
            value, why = _path_of_ours(name, value)
            if (home, name) != (section, key):
                now = f"is now {home}.{name}: {_text(value)}{why}" if home else _obsolete(key)
                logger.info("%s: %s.%s %s", source, written_section, key, now)
            elif value != written:
                logger.info("%s: %s.%s: %s is now called %s%s", source, section, key, written, _text(value), why)
            if home is None:
                continue
            before = result.setdefault(home, {}).get(name)
            if None not in (before, value) and before != value:
                raise ConfigError(f"{source}: {home}.{name} is given twice, as {before!r} and {value!r}")
            result[home][name] = before if value is None else value
    return result


def current_name(section: str, key: str) -> tuple[str | None, str]:
    """The section and key of today for a key as somebody wrote it; section ``None``: obsolete or unknown."""
    home, name = _MOVED.get((section, key), (section, key))
    return (home if home in SECTIONS and name in SECTIONS[home].model_fields else None), name


def _obsolete(key: str) -> str:
    return f"is obsolete: {_INSTEAD[key]}" if key in _INSTEAD else "is obsolete"


def _text(value: Any) -> str:
    return "empty" if value is None else str(value)


def _path_of_ours(key: str, value: Any) -> tuple[Any, str]:
    """A list or palette of the published files as it is called here, if it does not exist, and why, for the log."""
    # os.path.exists: a text from a command line may be too long for a name, or hold a NUL
    if not isinstance(value, str) or os.path.exists(value):
        return value, ""
    listed, palette = _LIST.fullmatch(value), _PALETTE.fullmatch(value)
    why = f" ({value} does not exist)"
    if key in ("names_path", "colors_path") and palette:
        ours = f"data/palettes/{palette[1]}"
        return ours, why if ours != value else ""
    if key in ("train_list", "val_list", "test_list") and listed and listed[2] in _LIST_NAMES:
        return f"data/lists/{listed[1]}/{_LIST_NAMES[listed[2]]}.lst", why
    if key == "demo_dir" and listed and listed[2].startswith("demo_video"):
        return None, f", which means the first clip of DATA.clip_list{why}"
    return value, ""


def _check_tree(tree: Any, source: str) -> None:
    sections = tree.items() if isinstance(tree, dict) else [(None, None)]
    for section, keys in sections:
        if not isinstance(section, str) or not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
            raise ConfigError(f"{source}: expected sections {', '.join(SECTIONS)} with keys below them")


def _home(section: str, key: str, value: Any, source: str) -> tuple[str | None, str, Any]:
    """The section, key and value of today for a key in a file; section ``None``: the key is obsolete."""
    if key in _OBSOLETE.get(section, ()):
        if key == "tune_weight" and value not in _NO_WEIGHT:
            raise ConfigError(
                f"{source}: TRAIN.tune_weight is obsolete: to start from {value}, set TRAIN.weight (in a settings file "
                "leave tune_weight empty)"
            )
        return None, key, value
    home, name = current_name(section, key)
    if home is None:
        raise ConfigError(f"{source}: unknown key {section}.{key}{nearest_key(section, key)}")
    if key == "opt_level":
        if value is not None and str(value) not in _OPT_LEVEL:
            raise ConfigError(f"{source}: opt_level {value!r} is none of {', '.join(_OPT_LEVEL)}")
        return home, name, _OPT_LEVEL.get(value)
    if isinstance(value, list):
        return home, name, [_RENAMED_VALUES.get((home, name, str(item)), item) for item in value]
    return home, name, _RENAMED_VALUES.get((home, name, str(value)), value)
