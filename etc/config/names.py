"""Names of settings: which exist, and which one somebody may have meant by a name that does not."""

from __future__ import annotations

import difflib
import re

from etc.config.schema import SECTIONS

# What other toolkits call a setting, without the underscores -> what it is called here.
_MEANT = {
    "lr": "base_lr",
    "learningrate": "base_lr",
    "numclasses": "classes",
    "nclasses": "classes",
    "nclass": "classes",
    "numepochs": "epochs",
    "maxepochs": "epochs",
    "numworkers": "workers",
    "seed": "manual_seed",
    "wd": "weight_decay",
    "ignoreindex": "ignore_label",
    "model": "arch",
    "network": "arch",
    "checkpoint": "ckpt_path",
    "ckpt": "ckpt_path",
    "classnames": "names_path",
    "palette": "colors_path",
    "croph": "train_h",
    "cropw": "train_w",
    "cropsize": "train_h",
    "motionweight": "st_weight",
    "temporalweight": "st_weight",
    "output": "save_folder",
    "savepath": "save_folder",
    "savefolder": "save_path",
    "outputdir": "save_folder",
}
_LIKE_WORD, _LIKE_NAME, _LIKE_JOINED = 0.6, 0.8, 0.9  # of difflib's ratio; below, two names only share letters


def known_keys() -> dict[str, list[str]]:
    """Key -> the sections that have it."""
    known: dict[str, list[str]] = {}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            known.setdefault(key, []).append(section)
    return known


def nearest_key(section: str, key: str) -> str:
    """``"; did you mean SECTION.key?"`` for a misspelling or another toolkit's word; else where the keys are listed.

    Keys of the section itself come first; a key that another section has by exactly this name is named too. A hint
    must be close in meaning: ``sd_mode`` shares four letters with ``mode`` and nothing else, and whoever followed that
    hint would change how frames are predicted.
    """
    known, key = known_keys(), key.lower()
    elsewhere = f"{known[key][0]}.{key}" if key in known else None
    own = _nearest(key, list(SECTIONS[section].model_fields))
    if own and elsewhere:
        return f"; did you mean {section}.{own}? ({elsewhere} is something else)"
    if elsewhere:
        return f"; there is {elsewhere}"
    near = own or _nearest(key, list(known))
    if near is None:
        return "; --help lists the settings that a script reads"
    return f"; did you mean {section if own else known[near][0]}.{near}?"


def _nearest(key: str, names: list[str]) -> str | None:
    """The one of some names that a key is another toolkit's word for, or a misspelling of."""
    meant = _MEANT.get(re.sub("[^a-z0-9]", "", key))
    if meant in names:
        return meant
    return max((name for name in names if _is_misspelling(key, name)), key=lambda name: _ratio(key, name), default=None)


def nearest_section(section: str) -> str:
    """``"; did you mean SECTION?"``, or the list of sections where no name comes near."""
    near = difflib.get_close_matches(section, SECTIONS, n=1)
    return f"; did you mean {near[0]}?" if near else f"; sections are {', '.join(SECTIONS)}"


def _is_misspelling(key: str, name: str) -> bool:
    """Whether two names have the same words, misspelt or in another order; joined words must be nearly the same."""
    words, own = sorted(key.split("_")), sorted(name.split("_"))
    if len(words) != len(own):
        return _ratio(key.replace("_", ""), name.replace("_", "")) >= _LIKE_JOINED
    alike = (_ratio(word, mine) >= _LIKE_WORD for word, mine in zip(words, own, strict=True))
    return _ratio("_".join(words), "_".join(own)) >= _LIKE_NAME and all(alike)


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
