"""Reads YAML that a person wrote, with the line of every value, and bounds what it may become.

PyYAML's own loading drops line numbers, lets the second of two equal keys win, reads `off` as false and
`2024-10-21` as a date, and grows a page of aliases into gigabytes. This builds plain data from its nodes instead:
mappings with text keys, lists, scalars of YAML 1.2; no tags.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from testronaut_llm.config.faults import Fault, Where, error_of
from testronaut_llm.config.values import scalar
from testronaut_llm.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
MAX_DEPTH = 24

_PLAIN, _OTHER = "plain", "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The data of a text, PyYAML's node and the 1-based line (of its key) of each value, and problems of its YAML."""

    data: Any = None
    nodes: dict[Where, yaml.Node] = field(default_factory=dict)
    lines: dict[Where, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def line_of(self, where: Where) -> int | None:
        """Returns the 1-based line of a place, or of the nearest one around it that is in the text."""
        return next((self.lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in self.lines), None)


def read_yaml(text: str, file: str | None = None) -> Document:
    """Returns the document, with the problems that leave it readable (a key given twice) noted in it.

    Raises:
        ConfigError: it is no YAML, too large or too deep, or uses what has no place in a configuration.
    """
    if len(text) > MAX_BYTES:
        raise error_of([Fault((), f"is larger than {MAX_BYTES:,} characters: no llm.yaml needs that")], file)
    reader = _Reader(file)
    try:
        root = yaml.compose(text, Loader=_Loader)
        data = reader.value(root, (), None) if root else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = error.problem or error.context or ""
        if words.startswith("but "):  # of a second document, whose sentence PyYAML cuts in two
            words = f"{error.context}, {words}"
        raise error_of([Fault((), f"is not valid YAML: {words}", mark.line + 1 if mark else None)], file) from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        position = getattr(error, "position", None) or getattr(error, "start", 0)
        line = text.count("\n", 0, position) + 1
        raise error_of([Fault((), "holds a character that no YAML text may hold", line)], file) from None
    return Document(data=data, nodes=reader.nodes, lines=reader.lines, faults=tuple(reader.faults))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the one in C, where it was built
    """Notes which scalars have no quotes and which nodes have a tag, and stops at depth before it costs memory."""

    depth = 0

    def resolve(self, kind: type[yaml.Node], _value: str | None, implicit: Any) -> str:
        """Returns the tag of a node without one."""
        return _PLAIN if kind is yaml.ScalarNode and implicit[0] else _OTHER

    def descend_resolver(self, current: yaml.Node | None, _index: Any) -> None:
        """Counts one level more; the parser calls it before each node."""
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=current.start_mark if current else None)

    def ascend_resolver(self) -> None:
        """Counts one level less."""
        self.depth -= 1


_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


class _Reader:
    """Builds the data of one document."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.nodes: dict[Where, yaml.Node] = {}
        self.lines: dict[Where, int] = {}
        self.faults: list[Fault] = []
        self.count = 0

    def refused(self, where: Where, message: str, line: int) -> ConfigError:
        return error_of([Fault(where[:4], message, line)], self.file)

    def value(self, node: Any, where: Where, key_line: int | None) -> Any:
        line = key_line or node.start_mark.line + 1
        self.nodes[where], self.lines[where] = node, line
        self.count += 1
        if len(where) > MAX_DEPTH:  # of an alias inside its own value
            raise self.refused(where, f"is nested more than {MAX_DEPTH} levels deep", line)
        if self.count > MAX_VALUES:
            words = f"makes the file hold more than {MAX_VALUES:,} values, aliases included"
            raise self.refused(where, words, line)
        if node.tag not in (_PLAIN, _OTHER):
            raise self.refused(where, f"has the tag {node.tag}: write the plain value", line)
        if isinstance(node, yaml.ScalarNode):
            return scalar(node.value) if node.tag == _PLAIN else node.value
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*where, index), None) for index, item in enumerate(node.value)]
        return self.mapping(node, where)

    def mapping(self, node: Any, where: Where) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self.key(key_node, where, line)
            value = self.value(value_node, (*where, f"{key} (again)" if key in found else key), line)
            if key in found:
                first = self.lines[(*where, key)]
                self.faults.append(Fault((*where, key), f"is given twice; the first is on line {first}", line))
            elif key == "<<":
                merged |= self.merged(value, where, line)
            else:
                found[key] = value
        return merged | found

    def key(self, node: Any, where: Where, line: int) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in (_PLAIN, _OTHER):
            raise self.refused(where, "has a key that is not plain text", line)
        key = scalar(node.value) if node.tag == _PLAIN else node.value
        if not isinstance(key, str):
            kind = type(key).__name__
            self.faults.append(Fault(where, f"has the key {node.value!r}, a {kind} to YAML: put it in quotes", line))
        return str(node.value)

    def merged(self, value: Any, where: Where, line: int) -> dict[str, Any]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self.refused(where, "merges (`<<`) what is not a mapping", line)
        return {key: item for part in reversed(parts) for key, item in part.items()}
