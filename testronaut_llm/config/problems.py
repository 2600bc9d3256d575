"""Problems of a configuration as one message: each with its line and the closest valid name, and without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import closest, did_you_mean
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class FromEnvironment(str):
    """The value of a `${VAR}`. It may stand for a number, and messages never contain it."""

    __slots__ = ()


Where = tuple[str | int, ...]
"""Keys and indexes that lead to a value: `("tasks", "cli_analysis", "models", 0)`."""

_MOST_SHOWN, _MOST_HINTS, _LONG = 100, 10, 16
_EXPECTED = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "too_short": "is empty: name at least one",
    **dict.fromkeys(("model_type", "mapping_type", "dict_type"), "expected a mapping"),
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
}
"""Our message for each error type of pydantic."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to fix. `line` is 1-based; None means the line of that place in the file.

    `hint` returns the end of the message. Only the first few are called, since finding close names takes time.
    """

    where: Where
    message: str
    line: int | None = None
    hint: Callable[[], str] = str


@dataclass(slots=True)
class Source:
    """The file that a configuration was read from, with the 1-based line of each place, and problems of its YAML."""

    path: Path | None = None
    trusted: bool = True
    lines: dict[Where, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, where: Where) -> int | None:
        """Returns the line of a place, or of the nearest one around it that is in the file."""
        return next((self.lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in self.lines), None)

    def error(self, problems: Iterable[Problem]) -> ConfigError:
        """Returns one error that names every problem, in the order of the file."""
        file = str(self.path) if self.path else None
        placed = [(one.line or self.line_of(one.where), path_of(one.where), one) for one in problems]
        placed.sort(key=lambda item: (item[0] or 0, item[1]))
        lines = [f"{file or 'the configuration'} has {len(placed)} problems:"] if len(placed) > 1 else []
        for number, (line, path, problem) in enumerate(placed[:_MOST_SHOWN]):
            message = problem.message + (problem.hint() if number < _MOST_HINTS else "")
            lines.append(": ".join(filter(None, (f"{file}:{line}" if file and line else file, path, message))))
        if len(placed) > _MOST_SHOWN:
            lines.append(f"and {len(placed) - _MOST_SHOWN} more")
        return ConfigError(Redactor().redact("\n  ".join(lines)), file=file, line=placed[0][0])


def quoted(value: object) -> str:
    """Returns a value for a message: short, and without what may be a secret."""
    if isinstance(value, FromEnvironment):
        return "the value of the environment variable"
    text = Redactor().redact(repr(public("extra", value)))
    return text if len(text) <= 60 else text[:57] + "..."


def path_of(where: Where) -> str:
    """Returns a place as text: `tasks.cli_analysis.models[0]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def of_pydantic(error: ErrorDetails, root: type[BaseModel]) -> Problem:
    """Returns an error of pydantic as a problem, with what is expected and the closest name."""
    where: Where = tuple(part for part in error["loc"] if part != "[key]")
    kind, given = error["type"], error["input"]
    message = _EXPECTED.get(kind) or error["msg"].replace("Input should be", "expected")
    if kind == "extra_forbidden":
        return Problem(where, message, hint=lambda: did_you_mean(where[-1], keys_of(_section_at(root, where[:-1]))))
    if kind == "missing" and where[-1] == "model":
        message += ": write  model: provider/name"
    if kind == "value_error":
        message = str(error["ctx"]["error"])

    def hint() -> str:
        if isinstance(given, Mapping) or str(where[-1]).startswith("api_key"):  # too long, or perhaps a key
            return ""
        near = closest(given, re.findall(r"'([^']+)'", error["msg"])) if type(given) is str else None
        return f" (given: {quoted(given)})" + (f"; did you mean `{near}`?" if near else "")

    return Problem(where, message, hint=hint)


def keys_of(section: type[BaseModel]) -> list[str]:
    """Returns the keys that a section of the file may hold."""
    return [name for name, field in section.model_fields.items() if not field.exclude]


def _section_at(section: type[BaseModel], where: Where) -> type[BaseModel]:
    """Returns the pydantic class of the section at a place; names that the user chose are skipped."""
    for part in where:
        if field := section.model_fields.get(str(part)):
            section = next(_models_in(field.annotation), section)
    return section


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def texts(value: Any) -> Iterator[str]:
    """Yields each text inside mappings and lists, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts(item)


def replaced(value: Any, change: Callable[[Where, str], str], where: Where = ()) -> Any:
    """Returns a copy of mappings and lists with each text changed."""
    if isinstance(value, str):
        return change(where, value)
    if isinstance(value, Mapping):
        return {key: replaced(item, change, (*where, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, change, (*where, index)) for index, item in enumerate(value)]
    return value


def secret_parts(url: str) -> tuple[str, ...]:
    """Returns long segments of a URL's path that are the value of a variable, as from `${TOKEN}`."""
    long = [part for part in url.partition("://")[2].partition("?")[0].split("/")[1:] if len(part) >= _LONG]
    return tuple(part for part in long if part in os.environ.values()) if long else ()


def public(name: str, value: Any) -> Any:
    """Returns the value of a model's field for `repr`, dumps and messages."""
    if name == "api_base" and isinstance(value, str):
        url = re.sub(r"//[^/@]*@", "//***@", value).partition("?")[0]
        for part in secret_parts(value):
            url = url.replace(part, "***")
        return url
    if name == "api_key_command" and value is not None:
        return "***"
    if name == "extra":
        return replaced(value, lambda _, text: "***" if isinstance(text, FromEnvironment) else text)
    return value
