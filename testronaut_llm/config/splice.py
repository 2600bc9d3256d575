"""Where in the text of a configuration a value goes, and the text with it in place.

It proposes; `config.edit` reads each proposal back and takes the first that says what it should.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from testronaut_llm.config.faults import Where, path_of
from testronaut_llm.config.yaml_reader import Document, Place
from testronaut_llm.errors import ConfigError


def where_of(document: Document, dotted_key: str, file: str) -> Where:
    """Returns the keys of `tasks.x.models`; names in the file may hold dots. Raises ConfigError: it leads nowhere."""
    data, rest = document.data, dotted_key.strip()
    where: Where = ()
    while rest:
        if not isinstance(data, dict | list) and (data is not None or not where):
            raise ConfigError(f"{file}: {path_of(where) or 'the file'} has no keys to set", file=file)
        head, rest = _first_key(data, rest)
        if isinstance(data, list):
            if not head.isdecimal() or int(head) >= len(data):
                raise ConfigError(f"{file}: {path_of(where)} has no item {head!r} (0 to {len(data) - 1})", file=file)
            where, data = (*where, int(head)), data[int(head)]
        else:
            where, data = (*where, head), (data or {}).get(head, {})
    if not where:
        raise ConfigError("name the value to set, such as tasks.cli_analysis.models", file=file)
    return where


def value_at(data: Any, dotted_key: str) -> Any:
    """Returns the value at `tasks.x.models`; names may hold dots. Raises ConfigError: nothing is there."""
    rest = dotted_key.strip()
    while rest:
        head, rest = _first_key(data, rest)
        items = dict(enumerate(data)) if isinstance(data, list) else data if isinstance(data, dict) else {}
        found = {str(key): value for key, value in items.items()}
        if head not in found:
            raise ConfigError(f"no {head!r} in {dotted_key}; there is: {', '.join(found) or 'nothing below it'}")
        data = found[head]
    return data


def _first_key(data: Any, rest: str) -> tuple[str, str]:
    if quoted := re.match(r'"([^"]+)"(?:\.|$)', rest):
        return quoted[1], rest[quoted.end() :]
    known = [key for key in data if f"{rest}.".startswith(f"{key}.")] if isinstance(data, dict) else []
    head = max(known, key=len, default=rest.partition(".")[0])
    return head, rest[len(head) + 1 :]


def changed(data: Any, where: Where, value: Any) -> Any:
    """Returns a copy of the data with one value set, and what leads to it made where it was missing."""
    if not where:
        return value
    if isinstance(data, list):
        return [changed(item, where[1:], value) if n == where[0] else item for n, item in enumerate(data)]
    known = data or {}
    return {**known, where[0]: changed(known.get(where[0]), where[1:], value)}


def spliced(text: str, document: Document, where: Where, raw: str) -> Iterator[str]:
    """Yields texts with the value in place, the best-looking first; some may be no valid YAML."""
    places = document.places
    if place := places.get(where):
        yield from _replaced(text, place, raw)
        return
    size = next(n for n in range(len(where) - 1, -1, -1) if where[:n] in places)
    for part in reversed(where[size + 1 :]):
        raw = f"{{{_key(part)}: {raw}}}"
    entry = f"{_key(where[size])}: {raw}"
    base = places[where[:size]]
    ends = [place.end for at, place in places.items() if len(at) == size + 1 and at[:size] == where[:size]]
    if base.style == "block":
        yield _with_line(text, base, entry)
    elif base.style == "flow" and ends:
        yield f"{text[: max(ends)]}, {entry}{text[max(ends) :]}"
    else:
        yield from _replaced(text, base, f"{{{entry}}}")


def _replaced(text: str, place: Place, raw: str) -> Iterator[str]:
    """A block value that begins on the line below its key moves up to the key."""
    old = text[place.start : place.end].rstrip()
    before, after = text[: place.start], text[place.start + len(old) :]
    if not old or place.style == "block":
        yield f"{before.rstrip()} {raw}{after}"
    yield f"{before}{raw}{after}"


def _with_line(text: str, block: Place, entry: str) -> str:
    """The new line goes below the block's last one, whatever comment ends that."""
    last = block.start + len(text[block.start : block.end].rstrip())
    line_end = text.find("\n", last)
    line_end = len(text) if line_end < 0 else line_end
    newline = "\r\n" if text[:line_end].endswith("\r") else "\n"
    head = text[:line_end].removesuffix("\r")
    return f"{head}{newline}{' ' * block.indent}{entry}{text[len(head) :]}"


def _key(part: str | int) -> str:
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z_][\w-]*", text) else json.dumps(text, ensure_ascii=False)
