"""What is wrong with a configuration, in words that mend it: all faults at once, each with its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from testronaut_llm.errors import ConfigError
from testronaut_llm.support.text import closest, did_you_mean
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class FromEnvironment(str):
    """Text that a `${VAR}` gave. It may stand for a number, and is never shown."""

    __slots__ = ()


Where = tuple[str | int, ...]
"""Keys and indexes that lead to a value: `("tasks", "cli_analysis", "models", 0)`."""

_MOST_SHOWN = 100
_MOST_HINTS = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to fix; `line` is 1-based, None where the place alone must tell.

    `hint` makes the end of the message. It is called for the first few faults only, since finding a name that is close
    takes time.
    """

    where: Where
    message: str
    line: int | None = None
    hint: Callable[[], str] = str


class UnknownNameError(ValueError):
    """What a check of a field raises for a name; `hint` as in a Fault."""

    def __init__(self, message: str, hint: Callable[[], str]) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file that a configuration was read from, as far as its shapes need to know it."""

    path: Path | None = None
    trusted: bool = True
    line_of: Callable[[Where], int | None] = lambda _where: None
    faults: tuple[Fault, ...] = ()


def few(names: Sequence[str]) -> str:
    """Returns the names as a message lists them, the first ten of many."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def shown(value: object) -> str:
    """Returns a value as messages may show it: short, and without what may be a secret."""
    if isinstance(value, FromEnvironment):
        return "what the environment variable holds"
    text = Redactor().redact(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def path_of(where: Where) -> str:
    """Returns `tasks.cli_analysis.models[0]`, the way people point at a value."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".")


def error_of(faults: Iterable[Fault], file: str | None = None) -> ConfigError:
    """Returns one error that tells every fault, in the order of the file."""
    known = sorted(faults, key=lambda fault: (fault.line or 0, path_of(fault.where)))
    lines = []
    for number, fault in enumerate(known[:_MOST_SHOWN]):
        place = f"{file}:{fault.line}" if file and fault.line else file
        message = fault.message + (fault.hint() if number < _MOST_HINTS else "")
        lines.append(": ".join(filter(None, (place, path_of(fault.where), message))))
    if len(known) > 1:
        lines.insert(0, f"{file or 'the configuration'} has {len(known)} faults:")
    if len(known) > _MOST_SHOWN:
        lines.append(f"and {len(known) - _MOST_SHOWN} more")
    return ConfigError(Redactor().redact("\n  ".join(lines)), file=file, line=known[0].line)


def in_words(error: ErrorDetails, root: type[BaseModel]) -> Fault:
    """Returns what pydantic found as a fault that says what is expected and what is near."""
    where: Where = tuple(part for part in error["loc"] if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden":
        return Fault(where, "unknown key", hint=lambda: did_you_mean(where[-1], keys_of(_section_at(root, where[:-1]))))
    if kind == "missing":
        return Fault(where, "is missing" + (": write  model: provider/name" if where[-1] == "model" else ""))
    if kind == "too_short":
        return Fault(where, "is empty: name at least one")
    choices = re.findall(r"'([^']+)'", error["msg"])
    cause = error["ctx"]["error"] if kind == "value_error" else None
    message = (
        str(cause) if cause else _PYDANTIC.sub(lambda found: _OURS[found[0].removeprefix("a valid ")[0]], error["msg"])
    )
    near = cause.hint if isinstance(cause, UnknownNameError) else str
    return Fault(where, message, hint=lambda: near() + _given(error["input"], where, choices))


_PYDANTIC = re.compile(r"Input should be|a valid (?:dictionary( or instance of \w+)?|string|boolean|integer)")
_OURS = {"I": "expected", "d": "a mapping", "s": "text", "b": "true or false", "i": "a whole number"}


def _in_our_words(found: re.Match[str]) -> str:
    return _OURS[found[0].removeprefix("a valid ")[0]]


def _given(value: object, where: Where, choices: list[str]) -> str:
    """Returns the end of a message; a section is too long to show, and what stands where a key belongs may be one."""
    if isinstance(value, Mapping) or str(where[-1]).startswith("api_key"):
        return ""
    near = closest(value, choices) if isinstance(value, str) and not isinstance(value, FromEnvironment) else None
    return f" (given: {shown(value)})" + (f"; did you mean `{near}`?" if near else "")


def keys_of(section: type[BaseModel]) -> list[str]:
    """Returns the keys a section of the file may hold; what its name in the file gives is none of them."""
    return [name for name, field in section.model_fields.items() if not field.exclude]


def _section_at(section: type[BaseModel], where: Where) -> type[BaseModel]:
    """Returns the shape of the section at a place; names that the user gave are passed over."""
    for part in where:
        if field := section.model_fields.get(str(part)):
            section = next(_models_in(field.annotation), section)
    return section


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
