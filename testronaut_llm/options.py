"""The options of a call, and how arguments become a `Call`.

A new option takes a line in `EmbedOptions` or `CallOptions`, and a field of `records.Call`.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, cast, get_args, get_type_hints

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.prompts import Prompt, encodable, messages_of, texts_of
from testronaut_llm.records import Accept, CacheMode, Call, Message, Schema
from testronaut_llm.routing.task_router import one_vector_space, select
from testronaut_llm.support.owned_fields import refused_in_extra
from testronaut_llm.support.text import did_you_mean

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, TaskConfig

F = TypeVar("F", bound=Callable[..., Any])

CACHE_VARIABLE = "TESTRONAUT_LLM_CACHE"
"""Names the cache mode of all tasks for one run."""
_OF_TASK = ("system", "max_tokens", "temperature", "stop", "seed", "timeout", "deadline")
"""Options that the task sets where the caller does not."""
_DEFAULTS = {"sample": 0}
"""Of the options for which None is not a value."""


class Expected(NamedTuple):
    """What an error says that an option has to be."""

    words: str


def _stop(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(one, str) and one for one in stops):
        raise ValueError
    return tuple(encodable("stop", one) for one in stops)


def _usd(value: Any) -> Decimal:
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError from None
    if not amount.is_finite() or amount < 0:
        raise ValueError
    return amount


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if _number(value) == 0:
        raise ValueError
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return encodable("system", value)


def _extra(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError
    for place, reason in refused_in_extra(value):
        raise InvalidRequestError(f"extra holds {'.'.join(place)!r}: {reason}")
    return dict(value)


def _function(value: Any) -> Any:
    if not callable(value):
        raise ValueError
    return value


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

    model: Annotated[str | None, Expected("a name from `models`, or provider/model")]
    cache: Annotated[CacheMode | None, Expected(f"one of {', '.join(get_args(CacheMode))}")]
    max_cost: Annotated[
        Decimal | float | str | None, PlainValidator(_usd), Expected("USD as a number of at least 0, such as 0.05")
    ]
    timeout: Annotated[float | None, PlainValidator(_seconds), Expected("more than 0 seconds")]
    deadline: Annotated[float | None, PlainValidator(_seconds), Expected("more than 0 seconds")]
    extra: Annotated[Mapping[str, Any] | None, PlainValidator(_extra), Expected("a mapping of body fields")]
    metadata: Annotated[Mapping[str, Any] | None, Expected("a mapping")]


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

    system: Annotated[str | None, PlainValidator(_text), Expected("a text")]
    max_tokens: Annotated[int | None, Field(strict=True, ge=1), Expected("a whole number of at least 1")]
    temperature: Annotated[float | None, PlainValidator(_number), Expected("a number of at least 0")]
    stop: Annotated[
        str | Sequence[str] | None, PlainValidator(_stop), Expected("a text, or a list of texts, none empty")
    ]
    seed: Annotated[int | None, Field(strict=True), Expected("a whole number")]
    sample: Annotated[int, Field(strict=True, ge=0), Expected("a whole number of at least 0")]
    accept: Annotated[Accept | None, PlainValidator(_function), Expected("a function of the Answer")]


@with_config(extra="forbid", arbitrary_types_allowed=True)
class AllOptions(CallOptions, total=False):
    """Those of `CallOptions`, and the `schema`, which some signatures name for the type of `.parsed`."""

    schema: Annotated[Schema[Any], PlainValidator(lambda value: value)]


_HINTS = get_type_hints(AllOptions, include_extras=True)
_ADAPTER = TypeAdapter(AllOptions)
_EMBEDS = frozenset(EmbedOptions.__annotations__)


def takes(options: Any) -> Callable[[F], F]:
    """Returns a decorator for a method with `**options`: `help()` and `inspect.signature` then list each option."""
    plain = get_type_hints(options)
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=plain[name])
        for name in options.__annotations__
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
        InvalidRequestError: it is not a mapping, or an option is unknown or wrong.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InvalidRequestError(f"options is {options!r:.60}; expected a mapping of options of a call")
    _checked(options or {})
    return cast("AllOptions", options or {})


def call_of(
    config: LLMConfig,
    task: str | None,
    prompt: Prompt,
    options: AllOptions,
    *,
    stream: bool = False,
    logprobs: bool = False,
) -> Call:
    """Returns the call that asks for text.

    Raises:
        LLMError: the task or a model is unknown, or an argument is wrong.
    """
    settings, given = _task(config, task), _checked(options)
    given = {name: value for name in _OF_TASK if (value := getattr(settings, name)) is not None} | given
    messages = messages_of(prompt, given.pop("system", None))
    return _call(config, settings, messages, {**given, "logprobs": logprobs}, stream=stream)


def embed_call_of(config: LLMConfig, task: str | None, texts: str | Sequence[str], options: EmbedOptions) -> Call:
    """Returns the call that embeds texts.

    Raises:
        LLMError: the task or a model is unknown, or an argument is wrong.
    """
    settings, given = _task(config, task), _checked(options)
    for name in given:
        if name not in _EMBEDS:
            raise _unknown(name, _EMBEDS)
    given = {name: value for name in ("timeout", "deadline") if (value := getattr(settings, name)) is not None} | given
    checked = texts_of(texts)
    messages = tuple([Message(role="user", content=text) for text in checked])
    return _call(config, settings, messages, {"max_tokens": settings.max_tokens, **given}, texts=checked)


def _call(
    config: LLMConfig,
    settings: TaskConfig,
    messages: tuple[Message, ...],
    given: dict[str, Any],
    *,
    texts: tuple[str, ...] = (),
    stream: bool = False,
) -> Call:
    selected = select(config, given.get("model"), settings)
    schema = given.pop("schema", None)
    if "cache" not in given:
        given["cache"] = _cache_mode(settings)
    if schema is not None:
        from testronaut_llm.schema.output_schema import OutputSchema

        given["output"] = OutputSchema.of(schema)
    return Call(
        task=settings.name,
        settings=settings,
        config=config,
        selected=one_vector_space(selected) if texts else selected,
        messages=messages,
        texts=texts,
        stream=stream,
        **given,
    )


def _cache_mode(settings: TaskConfig) -> CacheMode:
    named = os.environ.get(CACHE_VARIABLE)
    if named and named not in get_args(CacheMode):
        raise InvalidRequestError(f"{CACHE_VARIABLE} is {named!r}; expected one of {', '.join(get_args(CacheMode))}")
    mode: CacheMode = named or settings.cache  # type: ignore[assignment]  # one of them
    return mode


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that were given, in the form in which a Call holds them."""
    given = {name: value for name, value in options.items() if value is not None or name in _DEFAULTS}
    try:
        return dict(_ADAPTER.validate_python(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = first["loc"][0] if first["loc"] else ""
    if first["type"] == "extra_forbidden" or name not in _HINTS:
        raise _unknown(name, _HINTS)
    words = next(one.words for one in get_args(_HINTS[str(name)]) if isinstance(one, Expected))
    raise InvalidRequestError(f"{name} is {given[name]!r:.60}; expected {words}")


def _unknown(name: Any, known: Iterable[str]) -> InvalidRequestError:
    return InvalidRequestError(f"unknown option {name!r:.60}{did_you_mean(name, known)}")


def _task(config: LLMConfig, name: Any) -> TaskConfig:
    if name is not None and not isinstance(name, str):
        raise InvalidRequestError(f"task is {name!r:.60}; expected a name from `tasks` of llm.yaml, or None")
    return config.task(name)
