"""Types and ranges of settings in words, for ``--help`` and for error messages."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from etc.config.fields import LARGEST_SIDE
from etc.config.schema import SECTIONS

_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def type_of(field: FieldInfo, *, every_limit: bool = False) -> str:
    """Type and range of a setting: ``"int >= 1"``, ``"dsn | ohem"``, ``"path"``.

    Args:
        field: of a section of the schema; its ``title`` is used where the Python type says too little.
        every_limit: give upper limits too that are far beyond any use.
    """
    return field.title or _type_name(field.annotation, field.metadata, every_limit)


def refusal(error: ValidationError, tree: dict[str, dict[str, Any]]) -> str:
    """Why settings are refused: which of them, what was expected and what was found.

    Args:
        error: of the schema, for these settings.
        tree: section -> key -> value.
    """
    first = error.errors()[0]
    section, *rest = (str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if not rest:  # a check over the whole section: its input is too long to print
        return f"{section}: {message}"
    key = rest[0]
    field = SECTIONS[section].model_fields.get(key)
    if field is None:
        return f"{section}.{key}: unknown key"
    got = f"{tree[section][key]!r}"
    got = got if len(got) <= 80 else f"{got[:80]}..."
    if first["type"] == "value_error":
        return f"{section}.{key}: {message} (got {got})"
    *others, last = type_of(field, every_limit=True).split(" | ")
    expected = f"{', '.join(others)} or {last}" if others else last
    if type(None) in get_args(field.annotation):
        expected += ", or null for none"
    if first["type"] == "too_short":
        expected += " with at least one value"
    return f"{section}.{key}: expected {expected}, got {got}"


def _type_name(annotation: Any, bounds: list[Any], every_limit: bool) -> str:
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(arguments[0], [b for info in arguments[1:] for b in info.metadata], every_limit)
    if origin in (Union, UnionType):
        return " | ".join(_type_name(argument, bounds, every_limit) for argument in arguments)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is list:
        return f"list of {_type_name(arguments[0], [], every_limit)}"
    return {bool: "true | false", str: "text"}.get(annotation, annotation.__name__ + _range(bounds, every_limit))


def _range(bounds: list[Any], every_limit: bool) -> str:
    """``" 0..1"``, ``" >= 1"`` or ``" > 0, <= 1"``, from the constraints that pydantic keeps for a field."""
    limits = {name: getattr(bound, name) for name in _SIGNS for bound in bounds if hasattr(bound, name)}
    if limits.get("le", 0) >= LARGEST_SIDE and not every_limit:
        del limits["le"]
    texts = {name: f"{limit:g}" if isinstance(limit, float) else str(limit) for name, limit in limits.items()}
    if texts.keys() == {"ge", "le"}:
        return f" {texts['ge']}..{texts['le']}"
    return f" {', '.join(f'{_SIGNS[name]} {limit}' for name, limit in texts.items())}".rstrip()
