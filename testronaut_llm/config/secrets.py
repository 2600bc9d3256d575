"""Keys that were written out where they do not belong, and what of a configuration may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from testronaut_llm.config.faults import Fault, Where
from testronaut_llm.config.values import FromEnvironment
from testronaut_llm.telemetry.redaction import Redactor, is_secret_name, looks_like_key

LONG = 16


def keys_written_out(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Yields a fault, with the line to write instead, for each value that is a key or stands where keys stand."""
    for where, text in _placed_texts(data, ()):
        in_row = len(where) == 3 and where[0] == "models" and isinstance(data["models"][where[1]], Mapping)
        name = next((part for part in reversed(where) if isinstance(part, str)), "")
        stands_for_key = is_secret_name(name) and (in_row or "${" not in text)
        if stands_for_key or (looks_like_key(text) if name == "system" else Redactor().redact(text) != text):
            yield Fault(where, _mend(text, data["models"][where[1]] if in_row else None))


def _placed_texts(value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _placed_texts(item, (*where, key))


def _mend(text: str, row: Mapping[str, Any] | None) -> str:
    """A model's row has a field for it; elsewhere a reference takes its place."""
    if row is None:
        return "looks like a key, and keys are not written into this file: export it and write  ${NAME_OF_A_VARIABLE}"
    provider = re.sub(r"\W", "_", str(row.get("model", "my")).partition("/")[0]).upper()
    named = re.fullmatch(r"(?:\$\{?|os\.environ/)([A-Za-z_]\w*)\}?", text)
    variable = named[1] if named else f"{provider}_API_KEY"
    return f"keys are not written into this file: export the key as {variable}, and write  api_key_env: {variable}"


def texts(value: Any) -> Iterator[str]:
    """Yields each text inside mappings and lists; keys are none."""
    return (text for _, text in _placed_texts(value, ()))


def secret_parts(url: str) -> tuple[str, ...]:
    """Long segments of a URL's path that are the value of some variable: what a `${TOKEN}` in it became."""
    long = [part for part in url.partition("://")[2].partition("?")[0].split("/")[1:] if len(part) >= LONG]
    return tuple(part for part in long if part in os.environ.values()) if long else ()


def public(name: str, value: Any) -> Any:
    """Returns a field's value as `repr` and dumps may show it."""
    if name == "api_base" and isinstance(value, str):
        shown = re.sub(r"//[^/@]*@", "//***@", value).partition("?")[0]
        for part in secret_parts(value):
            shown = shown.replace(part, "***")
        return shown
    if name == "api_key_command" and value is not None:
        return "***"
    return _blotted(value) if name == "extra" else value


def _blotted(value: Any) -> Any:
    if isinstance(value, FromEnvironment):
        return "***"
    if isinstance(value, Mapping):
        return {key: _blotted(item) for key, item in value.items()}
    return [_blotted(item) for item in value] if isinstance(value, list) else value
