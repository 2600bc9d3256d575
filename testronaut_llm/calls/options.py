"""The options of a call: their names and types for callers and type checkers, and the check of each value.

A new option takes a line in one of the classes, one in `_CHECKS`, and a field of `Call`.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, cast, get_args

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.records import Accept, CacheMode, Schema
from testronaut_llm.support.owned_fields import refused_in_extra
from testronaut_llm.support.text import did_you_mean

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import TaskConfig
    from testronaut_llm.schema.output_schema import OutputSchema

F = TypeVar("F", bound=Callable[..., Any])

MODES: tuple[CacheMode, ...] = get_args(CacheMode)
CACHE_VARIABLE = "TESTRONAUT_LLM_CACHE"
"""Names the mode of all tasks for one run."""

_OF_TASK = ("system", "max_tokens", "temperature", "stop", "seed", "timeout", "deadline")
"""Options that the task sets where the caller does not."""
_DEFAULTS = {"sample": 0}
"""Of the options for which None is no value."""


class EmbedOptions(TypedDict, total=False):
    """Options that all calls share. What is not given, or None, comes from the task.

    Attributes:
        model: an alias, or `provider/model`, that overrides the route.
        cache: `use`, `refresh`, `off` or `only`.
        max_cost: USD for all attempts together.
        timeout: seconds for one attempt.
        deadline: seconds for everything.
        extra: fields that the provider gets untouched.
        metadata: goes to telemetry.
    """

    model: str | None
    cache: CacheMode | None
    max_cost: Decimal | float | str | None
    timeout: float | None
    deadline: float | None
    extra: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


class CallOptions(EmbedOptions, total=False):
    """Options of the calls that ask for text, with those of `EmbedOptions`.

    Attributes:
        system: a text that comes before the prompt.
        max_tokens: length of the longest answer.
        temperature: 0 for the likeliest answer.
        stop: a text, or several, that end the answer.
        seed: asks for the same random choices again.
        sample: a number other than 0 asks for another, still cached, answer.
        accept: a function that says whether the answer is good enough.
    """

    system: str | None
    max_tokens: int | None
    temperature: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    sample: int
    accept: Accept | None


class AllOptions(CallOptions, total=False):
    """Those of `CallOptions`, and the `schema` that the methods whose result it types take by itself."""

    schema: Schema[Any]


def takes(options: Any) -> Callable[[F], F]:
    """Returns a decorator for a method with `**options`: `help()` and `inspect.signature` then list each option."""
    listed = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=kind.__forward_arg__
        )
        for name, kind in options.__annotations__.items()
    ]

    def decorate(method: F) -> F:
        found = inspect.signature(method)
        own = [one for one in found.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        method.__signature__ = found.replace(parameters=[*own, *listed])  # type: ignore[attr-defined]
        return method

    return decorate


def options_of(options: Any) -> AllOptions:
    """Returns options that come in a mapping; none for None.

    Raises:
        InvalidRequestError: it is no mapping, or no call takes such an option; with the closest one that it takes.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InvalidRequestError(f"options is {options!r:.60}; expected a mapping of arguments of `complete`")
    refuse_unknown(options or {}, AllOptions)
    return cast("AllOptions", options or {})


def refuse_unknown(options: Mapping[Any, Any], kind: Any) -> None:
    """Checks the names of options.

    Raises:
        InvalidRequestError: one is no option of that kind; with the closest one that is.
    """
    known = kind.__annotations__
    for name in options:
        if name not in known:
            raise InvalidRequestError(f"options holds {name!r:.60}, which no call takes{did_you_mean(name, known)}")


def checked(task: TaskConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the caller or the task sets, in the form in which a Call holds it.

    Raises:
        InvalidRequestError: a value is wrong; the message names the option, what was given and what is expected.
    """
    values = {name: value for name in _OF_TASK if (value := getattr(task, name)) is not None}
    values.update((name, value) for name, value in options.items() if value is not None or name in _DEFAULTS)
    fields = {name: _CHECKS[name](name, value) for name, value in values.items()}
    fields |= {"retries": task.retries, "prompt_cache": task.prompt_cache}
    if "cache" not in fields:
        fields["cache"] = _mode(CACHE_VARIABLE, os.environ.get(CACHE_VARIABLE) or task.cache)
    return fields


def encodable(name: str, text: str) -> str:
    """Returns the text.

    Raises:
        InvalidRequestError: it holds a lone surrogate, and so cannot be sent.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} holds a lone surrogate at character {error.start}, which is no text; "
            "read the input with errors='replace'"
        ) from None
    return text


def _of_kind(name: str, value: Any, *, kind: Any, expected: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidRequestError(f"{name} is {value!r:.60}; expected {expected}")
    return value


def _text(name: str, value: Any) -> str:
    return encodable(name, _of_kind(name, value, kind=str, expected="a text"))


def _whole(name: str, value: Any, *, least: float = -math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        bound = f" of at least {least}" if math.isfinite(least) else ""
        raise InvalidRequestError(f"{name} is {value!r:.60}; expected a whole number{bound}")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidRequestError(f"{name} is {value!r}; expected a number of at least 0")
    return value


def _seconds(name: str, value: Any) -> float:
    if _number(name, value) == 0:
        raise InvalidRequestError(f"{name} is 0; expected more than 0 seconds")
    return float(value)


def _stop(name: str, value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(one, str) and one for one in stops):
        raise InvalidRequestError(f"{name} is {value!r:.60}; expected a text, or a list of texts, none empty")
    return tuple(encodable(name, one) for one in stops)


def _mode(name: str, value: Any) -> CacheMode:
    if value not in MODES:
        raise InvalidRequestError(f"{name} is {value!r}; expected one of {', '.join(MODES)}")
    mode: CacheMode = value
    return mode


def _usd(name: str, value: Any) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise InvalidRequestError(f"{name} is {value!r}; expected USD as a number of at least 0, such as 0.05")
    return amount


def _extra(name: str, value: Any) -> dict[str, Any]:
    extra = dict(_of_kind(name, value, kind=Mapping, expected="a mapping of body fields"))
    for place, reason in refused_in_extra(extra):
        raise InvalidRequestError(f"{name} holds {'.'.join(place)!r}: {reason}")
    return extra


def _schema(_name: str, value: Any) -> OutputSchema:
    from testronaut_llm.schema.output_schema import OutputSchema

    return OutputSchema.of(value)


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "model": partial(_of_kind, kind=str, expected="a name from `models`, or provider/model"),
    "system": _text,
    "max_tokens": partial(_whole, least=1),
    "temperature": _number,
    "stop": _stop,
    "seed": _whole,
    "sample": partial(_whole, least=0),
    "cache": _mode,
    "max_cost": _usd,
    "timeout": _seconds,
    "deadline": _seconds,
    "extra": _extra,
    "metadata": lambda name, value: dict(_of_kind(name, value, kind=Mapping, expected="a mapping")),
    "schema": _schema,
    "accept": partial(_of_kind, kind=Callable, expected="a function of the Answer"),
}
