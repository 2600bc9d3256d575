"""YAML that a person wrote, read with the place of every value, and read warily.

PyYAML's own loaders drop line numbers, let the second of two equal keys win, read `off` as false and
`2024-10-21` as a date, and grow a page of aliases into gigabytes. This builds plain data from PyYAML's
parser events instead: mappings with text keys, lists, scalars of YAML 1.2; no tags; everything bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, DocumentStartEvent, ScalarEvent, SequenceStartEvent

from testronaut_llm.config.faults import Fault, Where, error_of
from testronaut_llm.config.values import scalar
from testronaut_llm.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
MAX_DEPTH = 24


class Place(NamedTuple):
    """Where a value stands: 1-based line (of its key), first and last character, first key's column.

    `style` is `scalar`, `alias`, `flow` (`{...}`, `[...]`) or `block`; `indent` counts for block mappings.
    """

    line: int
    start: int
    end: int
    style: str
    indent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a text says, where it says it, and what is wrong with its YAML."""

    data: Any = None
    places: dict[Where, Place] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def line_of(self, where: Where) -> int | None:
        """Returns the 1-based line of a place, or of the nearest one around it that is in the text."""
        for size in range(len(where), -1, -1):
            if place := self.places.get(where[:size]):
                return place.line
        return None


def read_yaml(text: str, file: str | None = None) -> Document:
    """Returns the document, with the faults that leave it readable (a key given twice) noted in it.

    Raises:
        ConfigError: it is no YAML, too large or too deep, or uses what has no place in a configuration.
    """
    if len(text) > MAX_BYTES:
        raise error_of([Fault((), f"is larger than {MAX_BYTES:,} characters: no llm.yaml needs that")], file)
    try:
        events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _Builder(events, file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = f"is not valid YAML: {error.problem or error.context}"
        raise error_of([Fault((), words, mark.line + 1 if mark else None)], file) from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        position = getattr(error, "position", None) or getattr(error, "start", 0)
        line = text.count("\n", 0, position) + 1
        raise error_of([Fault((), "holds a character that no YAML text may hold", line)], file) from None


class _Builder:
    def __init__(self, events: Iterator[Any], file: str | None) -> None:
        self.events = events
        self.file = file
        self.places: dict[Where, Place] = {}
        self.faults: list[Fault] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.count = 0

    def refused(self, where: Where, message: str, line: int) -> ConfigError:
        return error_of([Fault(where, message, line)], self.file)

    def document(self) -> Document:
        data = None
        for event in self.events:
            line = event.start_mark.line + 1
            if isinstance(event, DocumentStartEvent):
                if self.count:
                    raise self.refused((), "holds a second document (`---`): only one is read", line)
                data = self.value(next(self.events), (), None)
        return Document(data=data, places=self.places, faults=tuple(self.faults))

    def value(self, event: Any, where: Where, key_line: int | None) -> Any:
        start, end = event.start_mark, event.end_mark
        line = key_line or start.line + 1
        before = self.count
        self.grow(1, where, line)
        if isinstance(event, AliasEvent):
            self.places[where] = Place(line, start.index, end.index, "alias")
            return self.aliased(event, where, line)
        if event.tag is not None:
            raise self.refused(where, f"has the tag {event.tag}: write the plain value", line)
        if isinstance(event, ScalarEvent):
            value: Any = scalar(event.value) if event.implicit[0] else event.value
            self.places[where] = Place(line, start.index, end.index, "scalar")
        else:
            value = self.collection(event, where, line)
        if event.anchor:
            self.anchors[event.anchor] = (value, self.count - before)
        return value

    def collection(self, event: Any, where: Where, line: int) -> Any:
        """The parser ends a block at whatever comes next; what belongs to it ends with its last value."""
        place = Place(line, event.start_mark.index, 0, "flow" if event.flow_style else "block", event.start_mark.column)
        self.places[where] = place
        build: Any = self.items if isinstance(event, SequenceStartEvent) else self.mapping
        value, last_value, end = build(where)
        self.places[where] = place._replace(end=end if event.flow_style else last_value)
        return value

    def items(self, where: Where) -> tuple[list[Any], int, int]:
        found: list[Any] = []
        last = 0
        for event in self.events:
            if isinstance(event, CollectionEndEvent):
                break
            here = (*where, len(found))
            found.append(self.value(event, here, None))
            last = self.places[here].end
        return found, last, event.end_mark.index

    def mapping(self, where: Where) -> tuple[dict[str, Any], int, int]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        last = 0
        for event in self.events:
            if isinstance(event, CollectionEndEvent):
                break
            line = event.start_mark.line + 1
            key = self.key(event, where, line)
            here = (*where, f"{key} (again)" if key in found else key)
            value = self.value(next(self.events), here, line)
            last = self.places[here].end
            if key in found:
                first = self.places[(*where, key)].line
                self.faults.append(Fault((*where, key), f"is given twice; the first is on line {first}", line))
            elif key == "<<":
                merged |= self.merged(value, where, line)
            else:
                found[key] = value
        return merged | found, last, event.end_mark.index

    def key(self, event: Any, where: Where, line: int) -> str:
        if not isinstance(event, ScalarEvent) or event.tag or event.anchor:
            raise self.refused(where, "has a key that is not plain text", line)
        self.grow(1, where, line)
        key = scalar(event.value) if event.implicit[0] else event.value
        if not isinstance(key, str):
            kind = type(key).__name__
            self.faults.append(Fault(where, f"has the key {event.value!r}, a {kind} to YAML: put it in quotes", line))
        return str(event.value)

    def merged(self, value: Any, where: Where, line: int) -> dict[str, Any]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise self.refused(where, "merges (`<<`) what is not a mapping", line)
        return {key: item for part in reversed(parts) for key, item in part.items()}

    def aliased(self, event: Any, where: Where, line: int) -> Any:
        if event.anchor not in self.anchors:
            raise self.refused(where, f"uses *{event.anchor}, which is not defined above it", line)
        value, size = self.anchors[event.anchor]
        self.grow(size, where, line)
        return value

    def grow(self, by: int, where: Where, line: int) -> None:
        self.count += by
        if len(where) > MAX_DEPTH:
            raise self.refused(where[:4], f"is nested more than {MAX_DEPTH} levels deep", line)
        if self.count > MAX_VALUES:
            raise self.refused(
                where[:4], f"makes the file hold more than {MAX_VALUES:,} values, aliases included", line
            )
