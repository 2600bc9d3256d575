"""Reads an `llm.yaml` with the line of each value, and replaces one value without any other change.

PyYAML's loader drops line numbers, accepts duplicate keys, reads `off` as false and `2024-10-21` as a date, and expands
a page of aliases to gigabytes. So its nodes are read here: mappings with text keys, lists, plain values; no tags.
"""

import copy
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from testronaut_llm.config.problems import Problem, Source, Where, path_of, quoted
from testronaut_llm.config.sections import scalar
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import did_you_mean

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
MAX_DEPTH = 24
_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


@dataclass(slots=True)
class Document(Source):
    """The data of a text, and PyYAML's node of each value."""

    data: Any = None
    nodes: dict[Where, Any] = field(default_factory=dict)
    _count: int = 0

    def read(self, node: Any, where: Where, line: int) -> Any:
        """Returns the plain data of a node, and notes the line of each part. Raises ConfigError if it is refused."""
        self.nodes[where], self.lines[where] = node, line
        self._count += 1
        if len(where) > MAX_DEPTH:  # an alias inside its own value
            raise self.refused(where, _TOO_DEEP, line)
        if self._count > MAX_VALUES:
            raise self.refused(where, f"makes the file hold more than {MAX_VALUES:,} values, aliases included", line)
        if node.tag:
            raise self.refused(where, f"has the tag {node.tag}: write the plain value", line)
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else scalar(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*where, n), item.start_mark.line + 1) for n, item in enumerate(node.value)]
        return self._mapping(node, where)

    def refused(self, where: Where, message: str, line: int | None = None) -> ConfigError:
        """Returns the error that ends the reading of a text."""
        return self.error([Problem(where[:4], message, line)])

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line, key = key_node.start_mark.line + 1, key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag:
                raise self.refused(where, "has a key that is not plain text", line)
            value = self.read(value_node, (*where, f"{key} (again)" if key in found else key), line)
            if key in found:
                message = f"is given twice; the first is on line {self.lines[*where, key]}"
                self.problems.append(Problem((*where, key), message, line))
            elif key == "<<":
                parts = value if isinstance(value, list) else [value]
                if not all(isinstance(part, dict) for part in parts):
                    raise self.refused(where, "merges (`<<`) what is not a mapping", line)
                merged |= {name: item for part in reversed(parts) for name, item in part.items()}
            else:
                found[key] = value
        return merged | found


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the one in C, where it was built
    """Adds no tags to nodes, and limits the depth."""

    depth = 0

    def resolve(self, _kind: type[yaml.Node], _value: str | None, _implicit: Any) -> str:
        return ""

    def descend_resolver(self, current: yaml.Node | None, _index: Any) -> None:
        """Called by the parser before each node."""
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            raise yaml.MarkedYAMLError(problem=f"it {_TOO_DEEP}", problem_mark=current.start_mark if current else None)

    def ascend_resolver(self) -> None:
        self.depth -= 1


def read_yaml(text: str, path: Path | None = None) -> Document:
    """Returns the document; problems that leave it readable (a key given twice) are noted in it.

    Raises ConfigError if it is not YAML, too large, too deep, or uses forms that a configuration must not have.
    """
    document = Document(path)
    if len(text) > MAX_BYTES:
        raise document.refused((), f"is larger than {MAX_BYTES:,} characters, the limit for llm.yaml")
    try:
        if root := yaml.compose(text, Loader=_Loader):
            document.data = document.read(root, (), root.start_mark.line + 1)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = error.problem or error.context or ""
        if words.startswith("but "):  # a second document: PyYAML splits this message
            words = f"{error.context}, {words}"
        raise document.refused((), f"is not valid YAML: {words}", mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        position = getattr(error, "position", None) or getattr(error, "start", 0)
        line = text.count("\n", 0, position) + 1
        raise document.refused((), "holds a character that is not allowed in YAML", line) from None
    return document


def edited(text: str, dotted_key: str, yaml_text: str, path: Path) -> str:
    """Returns the text with another value (in YAML) for a scalar, or for a value in flow style (`[a, b]`).

    Raises ConfigError if there is no such value, it spans lines or is shared, or the new one is not YAML.
    """
    document = read_yaml(text, path)
    try:
        value = read_yaml(yaml_text).data
    except ConfigError as error:
        raise ConfigError(f"{dotted_key}: the new value {error} (given: {quoted(yaml_text)})") from None
    try:
        where = _found(document.data, dotted_key)[0]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; to add a key, edit the file", file=str(path)) from None
    if not where:
        raise ConfigError("name the value to set, such as tasks.cli_analysis.models", file=str(path))
    wanted = section = copy.deepcopy(document.data)
    for part in where[:-1]:
        section = section[part]
    section[where[-1]] = value
    node = document.nodes.get(where)
    if node and (isinstance(node, yaml.ScalarNode) or node.flow_style):
        start = node.start_mark.index
        old = text[start : node.end_mark.index].rstrip()  # PyYAML counts the blank lines below a literal text in
        for raw in (yaml_text.strip(), json.dumps(value, ensure_ascii=False)):
            new = text[:start] + (raw if old else f" {raw}") + text[start + len(old) :]
            with suppress(ConfigError):  # compared as text, since 1 and true are equal
                if json.dumps(read_yaml(new).data) == json.dumps(wanted):
                    return new
    raise document.error([Problem(where, "is written over several lines or shared: edit the file by hand")])


def value_at(data: Any, dotted_key: str) -> Any:
    """Returns the value at `tasks.x.models`. Raises ConfigError, with the names there, if it is missing."""
    return _found(data, dotted_key)[1]


def _found(data: Any, dotted_key: str) -> tuple[Where, Any]:
    """Returns the place and the value of `tasks.x.models`; a name may have dots: `models.gpt-5.6`."""
    rest = dotted_key.strip()
    where: Where = ()
    while rest:
        keys: dict[str, str | int] = {}
        if isinstance(data, list | dict):
            keys = {str(key): key for key in (data if isinstance(data, dict) else range(len(data)))}
        known = [key for key in keys if f"{rest}.".startswith(f"{key}.")]
        head = max(known, key=len, default=rest.partition(".")[0])
        if head not in keys:
            raise ConfigError(f"{path_of(where) or 'the file'} has no {head!r}{did_you_mean(head, keys)}")
        rest = rest[len(head) + 1 :]
        where, data = (*where, keys[head]), data[keys[head]]
    return where, data
