"""Reads the YAML of settings; repeated keys, alias bombs, deep nesting and unusable values are errors of one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from utils.files import regular_file

MAX_BYTES = 100_000  # PyYAML reads about 100 kB per second; the longest file of the toolkit has 8 kB
MAX_DEPTH = 10  # sections, keys, lists: 4 are used
MAX_NODES = 10_000  # values in the file, those of an alias counted wherever it is used
MAX_BITS = 128  # of an integer: more than any setting accepts, and few enough to print


class YamlError(yaml.YAMLError):
    """YAML that cannot be used; the message is one line, without the name of the file."""


class Loader(yaml.SafeLoader):
    """YAML 1.1 with its traps closed: ``1e-4`` is a number, ``off`` is a word, and ``12:30`` a text, not 750.

    Raises :class:`YamlError` for nesting that is too deep and for values that do not fit their tag or are too large.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise YamlError(f"line {_line(self.peek_event())}: values are nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            # PyYAML converts the text of "!!int x", "!!timestamp x" or "!!bool x" without checking it.
            raise YamlError(f"line {_line(node)}: {_text_of(node)} cannot be read as a value") from error
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise YamlError(f"line {_line(node)}: the number {_text_of(node)} is too large")
        return value


class Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.1 or :class:`Loader` would not read back as strings."""


_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_INT = "tag:yaml.org,2002:int"
_DATE = "tag:yaml.org,2002:timestamp"  # a folder named by its date is a name
# As of YAML 1.1, without its numbers to the base of 60.
_INT_RULE = re.compile(r"^[-+]?(0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_FLOAT_RULE = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$")
Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] not in (_BOOL, _INT, _FLOAT, _DATE)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
Loader.add_implicit_resolver(_INT, _INT_RULE, list("-+0123456789"))
for _class in (Loader, Dumper):
    # Appended, so that it is asked after the rule for integers, which it matches too.
    _class.add_implicit_resolver(_FLOAT, _FLOAT_RULE, list("-+.0123456789"))


def read_text(path: Path) -> str:
    """The text of a settings file.

    Raises:
        OSError: the file cannot be read, or is a named pipe or a device, which may never end.
        UnicodeDecodeError: it is not UTF-8.
        YamlError: it is longer than a settings file can be.
    """
    with open(regular_file(path), "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES} bytes: this is no settings file")
    return data.decode("utf-8")


def parse(text: str) -> Any:
    """The value that a YAML text stands for: plain dicts, lists and scalars.

    Raises:
        yaml.YAMLError: the text is not YAML; as :class:`YamlError` also a key that is given twice (section names
            count as equal in upper and lower case), and aliases that refer to themselves or expand to too many values.
    """
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded_size(node, {}) > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES} values, with those of aliases: this is no settings file")
        _check_repeated(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _expanded_size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Number of values of a node, with those of an alias wherever it is used; each node is visited once.

    The depth of the recursion is at most ``MAX_DEPTH`` per anchor, and an alias refers back: chains of aliases end.
    """
    size = known.get(id(node), 0)
    if size is None:
        raise YamlError(f"line {_line(node)}: an anchor that contains itself")
    if size == 0:
        known[id(node)] = None
        size = 1
        for child in _children(node):
            size += _expanded_size(child, known)
            if size > MAX_NODES:
                break
        known[id(node)] = size
    return size


def _check_repeated(root: yaml.Node) -> None:
    """Every key of a section and every section may be given once: PyYAML would drop the first in silence."""
    waiting: list[tuple[yaml.Node, str]] = [(root, "")]
    while waiting:
        node, name = waiting.pop()
        lines: dict[str, int] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
            if not isinstance(key, yaml.ScalarNode):
                continue
            text = key.value.upper() if node is root else key.value
            if text in lines:
                raise YamlError(f"{name}{key.value} is given twice, in lines {lines[text]} and {_line(key)}")
            lines[text] = _line(key)
            waiting.append((value, f"{name}{key.value}."))


def _line(place: yaml.Node | yaml.Event) -> int:
    return place.start_mark.line + 1


def _text_of(node: yaml.Node) -> str:
    text = node.value if isinstance(node, yaml.ScalarNode) else type(node).__name__
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
