"""Code of the user's own that settings name, as ``package.module:factory``, and who may name it.

Importing a module runs it. Settings that the user writes may name any module; settings that lie in a file beside
somebody else's results (a checkpoint, ``settings.yaml``, ``tc_settings.yaml``) may name only what the user names too.
"""

from __future__ import annotations

import re
from pathlib import Path

from etc.config.load import load_settings
from etc.config.schema import Settings
from etc.errors import UserError
from model.own_source import is_own_code

# What separates the values in a word of the command line: SECTION.key=VALUE, [a, "b"].
_BETWEEN_VALUES = re.compile(r"[\s,=\[\]'\"]+")


def network_code(settings: Settings) -> list[str]:
    """The module that ``TRAIN.arch`` imports, or nothing."""
    arch = settings.TRAIN.arch
    return [arch] if is_own_code(arch) else []


def flow_code(settings: Settings) -> list[str]:
    """The modules that ``FLOW.evaluate_with``, or ``FLOW.name`` where it is empty, import for scoring."""
    flow = settings.FLOW
    names = [entry.partition("@")[0] for entry in flow.evaluate_with or [flow.name]]
    return [name for name in names if ":" in name]


def code_of_user(config: str | Path | None, overrides: list[str]) -> frozenset[str]:
    """The names of code that the user gives: on the command line, or in the file given by ``--config``.

    A setting that is given several times allows each of its values, so that runs of different networks can be compared.

    Raises:
        ConfigError: as :func:`etc.config.load_settings`.
    """
    values = {value.partition("@")[0] for word in overrides for value in _BETWEEN_VALUES.split(word)}
    if config is not None:
        settings = load_settings(config, overrides)
        values |= {*network_code(settings), *flow_code(settings)}
    return frozenset(value for value in values if ":" in value)


def check_network_code(settings: Settings, allowed: frozenset[str], source: str | Path) -> None:
    """Refuse a network that a file names and the user does not.

    Args:
        settings: holds ``TRAIN.arch``.
        allowed: from :func:`code_of_user`.
        source: the file that the settings come from, for the message.

    Raises:
        UserError: the network would be imported, and is not in ``allowed``.
    """
    _check(network_code(settings), allowed, f"{source} names the network", "TRAIN.arch")


def check_flow_code(settings: Settings, allowed: frozenset[str], source: str | Path) -> None:
    """:func:`check_network_code` for the flow estimators of scoring."""
    _check(flow_code(settings), allowed, f"{source} names the flow estimator", "FLOW.name")


def _check(names: list[str], allowed: frozenset[str], who: str, key: str) -> None:
    for name in names:
        if name not in allowed:
            raise UserError(
                f"{who} {name}, which would be imported: give {key} {name} yourself to allow it "
                f"({key} several times for several)"
            )
