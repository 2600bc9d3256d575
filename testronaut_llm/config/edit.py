"""Changes one value of an `llm.yaml` and not one character around it.

The text of the value is replaced where it stands, so comments, order and alignment stay (a YAML
library that writes the whole file again loses some of each). The new text is used only if it reads
as the old data with that one change, and is valid as a whole.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from testronaut_llm.config.faults import Where, path_of
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.source import find_config, parse_config, read_text
from testronaut_llm.config.trust import is_trusted, trust
from testronaut_llm.config.yaml_reader import Document, read_yaml
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import write_atomically


def set_value(path: str | Path, dotted_key: str, yaml_text: str) -> LLMConfig:
    """Sets one value in a configuration file and returns the new configuration.

    Scalars and values in flow style (`[a, b]`) are replaced, and a missing key is added. A file that was trusted stays
    trusted.

    Args:
        path: the file; a symbolic link is followed.
        dotted_key: such as `tasks.cli_analysis.models`; names with dots are found, or quoted: `models."gpt-5.6"`.
        yaml_text: the value in YAML, such as `[qwen]` or `9`.

    Raises:
        ConfigError: the file, the key or the value is wrong, or the file as a whole would be; it is left untouched.
    """
    found = find_config(path)
    text = read_text(found.path)
    new = edited(text, dotted_key, yaml_text, str(found.path))
    config = parse_config(new, found)
    known = is_trusted(found.path, text)
    if read_text(found.path) != text:
        raise ConfigError(f"{found.path} was changed by someone else just now: try again", file=str(found.path))
    try:
        write_atomically(found.path, new)
    except OSError as error:
        raise ConfigError(f"cannot write {found.path}: {error.strerror}", file=str(found.path)) from None
    if known:
        trust(found.path)
    return config


def edited(text: str, dotted_key: str, yaml_text: str, file: str) -> str:
    """Returns the text with one value set. Raises ConfigError: no such key, no YAML, or no safe way to edit it."""
    document, value = read_yaml(text, file), read_yaml(yaml_text, f"the value of {dotted_key}").data
    where = _where_of(document.data, dotted_key)
    if not where:
        raise ConfigError("name the value to set, such as tasks.cli_analysis.models", file=file)
    wanted = _canonical(_changed(document.data, where, value))
    for raw in (yaml_text.strip(), json.dumps(value, ensure_ascii=False)):
        new = _spliced(text, document, where, raw)
        if new is not None and _reads_as(new, wanted):
            return new
    line = document.line_of(where)
    words = f"{dotted_key} is written over several lines or shared: edit the file by hand"
    raise ConfigError(f"{file}:{line}: {words}", file=file, line=line)


def value_at(data: Any, dotted_key: str) -> Any:
    """Returns the value at `tasks.x.models`; names may hold dots. Raises ConfigError: nothing is there."""
    for part in _where_of(data, dotted_key):
        if not isinstance(data, list) and part not in (data or {}):
            raise ConfigError(f"no {part!r} in {dotted_key}; there is: {', '.join(data or ()) or 'nothing below it'}")
        data = data[part]
    return data


def _where_of(data: Any, dotted_key: str) -> Where:
    """Returns the keys of `tasks.x.models`; those at its end may be missing. Raises ConfigError: it leads nowhere."""
    rest = dotted_key.strip()
    where: Where = ()
    while rest:
        quoted = re.match(r'"([^"]+)"(?:\.|$)', rest)
        known = [key for key in data if f"{rest}.".startswith(f"{key}.")] if isinstance(data, dict) else []
        head = quoted[1] if quoted else max(known, key=len, default=rest.partition(".")[0])
        rest = rest[quoted.end() if quoted else len(head) + 1 :]
        if isinstance(data, list):
            if not head.isdecimal() or int(head) >= len(data):
                raise ConfigError(f"{path_of(where)} has no item {head!r} (0 to {len(data) - 1})")
            where, data = (*where, int(head)), data[int(head)]
        elif data is None or isinstance(data, dict):
            where, data = (*where, head), (data or {}).get(head)
        else:
            raise ConfigError(f"{path_of(where) or 'the file'} has no keys: no {head!r} in {dotted_key}")
    return where


def _changed(data: Any, where: Where, value: Any) -> Any:
    """Returns a copy of the data with one value set; mappings that lead to it are made where they are missing."""
    if not where:
        return value
    if isinstance(data, list):
        return [_changed(item, where[1:], value) if n == where[0] else item for n, item in enumerate(data)]
    known = data or {}
    return {**known, where[0]: _changed(known.get(where[0]), where[1:], value)}


def _spliced(text: str, document: Document, where: Where, raw: str) -> str | None:
    """Returns the text with the value in its place; it may be no valid YAML. None: the place is a block of lines."""
    size = next((n for n in range(len(where), -1, -1) if where[:n] in document.nodes), None)
    if size is None:
        return None
    node: Any = document.nodes[where[:size]]
    for part in reversed(where[size + 1 :]):
        raw = f"{{{_key(part)}: {raw}}}"
    if size < len(where):
        entry = f"{_key(where[size])}: {raw}"
        if isinstance(node, yaml.MappingNode) and node.value:
            return _with_entry(text, node, entry)
        raw = f"{{{entry}}}"
    elif isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return None
    start, end = node.start_mark.index, _end_of(text, node)
    if start == end:  # nothing stands there: it goes to the colon or dash before it
        start = end = len(text[:start].rstrip())
        raw = f" {raw}"
    return text[:start] + raw + text[end:]


def _with_entry(text: str, node: Any, entry: str) -> str:
    """Adds a key behind the last one of a mapping: on its line in flow style, else on a line of its own."""
    last = node.value[-1][1]
    if node.flow_style:
        end = _end_of(text, last)
        return f"{text[:end]}, {entry}{text[end:]}"
    while isinstance(last, yaml.CollectionNode) and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    head = text[: _end_of(text, last)] + text[_end_of(text, last) :].partition("\n")[0].removesuffix("\r")
    newline = "\r\n" if "\r\n" in text else "\n"
    return f"{head}{newline}{' ' * node.start_mark.column}{entry}{text[len(head) :]}"


def _end_of(text: str, node: Any) -> int:
    """Returns where a value ends; PyYAML counts the blank lines below a literal text in."""
    start = node.start_mark.index
    return int(start + len(text[start : node.end_mark.index].rstrip()))


def _key(part: str | int) -> str:
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z_][\w-]*", text) else json.dumps(text, ensure_ascii=False)


def _reads_as(text: str, wanted: str) -> bool:
    try:
        return _canonical(read_yaml(text).data) == wanted
    except ConfigError:
        return False


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True)
