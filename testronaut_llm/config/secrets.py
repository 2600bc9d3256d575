"""`${VAR}` in a file, keys that were written out, and what of a configuration may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from testronaut_llm.config.faults import Fault, FromEnvironment, Where
from testronaut_llm.telemetry.redaction import Redactor, is_secret_name, looks_like_key

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\}|\$\{")
_FOREIGN = re.compile(r"(?:\$|os\.environ/)([A-Za-z_][A-Za-z0-9_]*)")
"""A variable as a shell or LiteLLM's proxy writes it."""
_FREE_TEXT = ("system", "stop")
_LONG = 16


@dataclass(slots=True)
class Filling:
    """Fills `${VAR}`, `${VAR:-default}` and `$${` in a document; a variable that is set to nothing is not set.

    Attributes:
        environment: None where nothing is to be filled in, defaults included.
        unset: where a variable without value and default stands, and its name. The reference stays as written there.
        faults: what is no well-formed reference.
    """

    environment: Mapping[str, str] | None
    unset: list[tuple[Where, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def fill(self, data: Any) -> Any:
        """Returns the data with each text in it filled; keys are left alone."""
        return _replaced(data, self._text)

    def _text(self, where: Where, text: str) -> str:
        if (found := _FOREIGN.fullmatch(text)) and not (text[0] == "$" and set(_FREE_TEXT) & {*where}):
            name = found[1] if where[-1] == "api_key_env" else f"${{{found[1]}}}"
            self.faults.append(Fault(where, f"{text} is not filled in: write  {name}"))
        parts: list[str] = []
        unset: dict[str, None] = {}
        last, filled, malformed = 0, False, False
        for found in _REFERENCE.finditer(text):
            name, part = found["name"], found[0]
            value = None if self.environment is None or not name else self.environment.get(name) or found["default"]
            if value is not None:
                part, filled = value, True
            elif name:
                unset[name] = None
            elif part == "$${":
                part = "${"
            else:
                malformed = True
            parts += (text[last : found.start()], part)
            last = found.end()
        if malformed:
            words = "has a `${` that is no ${NAME} or ${NAME:-default}; write $${ for a literal one"
            self.faults.append(Fault(where, words))
        self.unset += ((where, name) for name in unset)
        result = "".join(parts) + text[last:]
        return FromEnvironment(result) if filled else result


def variables_in(text: str) -> tuple[str, ...]:
    """Returns the names of the variables that a text refers to, sorted, whether it is valid or not."""
    return tuple(sorted({found["name"] for found in _REFERENCE.finditer(text) if found["name"]}))


def keys_written_out(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Yields a problem, with the line to write instead, for each value that is a key or stands where keys stand."""
    for where, text in _placed_texts(data, ()):
        in_row = len(where) == 3 and where[0] == "models" and isinstance(data["models"][where[1]], Mapping)
        name = next((part for part in reversed(where) if isinstance(part, str)), "")
        stands_for_key = is_secret_name(name) and (in_row or "${" not in text)
        if stands_for_key or (looks_like_key(text) if name == "system" else Redactor().redact(text) != text):
            yield Fault(where, _instead(text, data["models"][where[1]] if in_row else None))


def _instead(text: str, row: Mapping[str, Any] | None) -> str:
    """A model's row has a field for it; elsewhere a reference takes its place."""
    if row is None:
        return "looks like a key, and keys are not written into this file: export it and write  ${NAME_OF_A_VARIABLE}"
    provider = re.sub(r"\W", "_", str(row.get("model", "my")).partition("/")[0]).upper()
    named = re.fullmatch(r"(?:\$\{?|os\.environ/)([A-Za-z_]\w*)\}?", text)
    variable = named[1] if named else f"{provider}_API_KEY"
    return f"keys are not written into this file: export the key as {variable}, and write  api_key_env: {variable}"


def texts(value: Any) -> Iterator[str]:
    """Yields each text inside mappings and lists, without keys."""
    return (text for _, text in _placed_texts(value, ()))


def secret_parts(url: str) -> tuple[str, ...]:
    """Long segments of a URL's path that are the value of some variable: what a `${TOKEN}` in it became."""
    long = [part for part in url.partition("://")[2].partition("?")[0].split("/")[1:] if len(part) >= _LONG]
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
    if name == "extra":
        return _replaced(value, lambda _, text: "***" if isinstance(text, FromEnvironment) else text)
    return value


def _placed_texts(value: Any, where: Where) -> Iterator[tuple[Where, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _placed_texts(item, (*where, key))


def _replaced(value: Any, change: Callable[[Where, str], str], where: Where = ()) -> Any:
    """Returns a copy of mappings and lists with each text changed."""
    if isinstance(value, str):
        return change(where, value)
    if isinstance(value, Mapping):
        return {key: _replaced(item, change, (*where, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, change, (*where, index)) for index, item in enumerate(value)]
    return value
