"""The options of a call, and how arguments become a `Call`.

A new option takes a line in one of the classes of options, one in `_CHECKS`, and a field of `records.Call`;
CONTRIBUTING.md lists what else may be needed.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from typing_extensions import TypedDict

from testronaut_llm.config.extra_fields import refused_in_extra
from testronaut_llm.config.sections import CacheMode
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.masking import Masking, masked, refuse_secrets
from testronaut_llm.prompts import Prompt, encodable, messages_of, texts_of
from testronaut_llm.records import Accept, Call, Message, Schema
from testronaut_llm.routing.task_router import one_vector_space, select
from testronaut_llm.support.text import did_you_mean

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, TaskConfig

F = TypeVar("F")

CACHE_VARIABLE = "TESTRONAUT_LLM_CACHE"
"""Environment variable with the cache mode of all tasks for one run."""
_MODES = get_args(CacheMode)
_OF_TASK = ("system", "max_tokens", "temperature", "stop", "seed", "timeout", "deadline")
"""Options with a default in the task."""
DEFAULTS = {"sample": 0, "votes": 3, "min_confidence": 0.0}
"""Defaults of the options that cannot be None."""


class EmbedOptions(TypedDict, total=False):
    """Options that all calls share. An option that is missing or None has the value of the task.

    Attributes:
        model: an alias or `provider/model`; only this model is asked.
        cache: `use`, `refresh`, `off` or `only`.
        max_cost: USD for all attempts together.
        timeout: seconds for one attempt.
        deadline: seconds for the whole call.
        extra: more fields of the request body, sent unchanged.
        metadata: written to telemetry; not sent.

    >>> llm.embed("embedding", "ls", timeout=10, metadata={"run": 7}).model
    'fake'
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
        system: system text, sent before the prompt.
        max_tokens: longest answer, in tokens.
        temperature: 0 for the most likely answer.
        stop: a text, or several, at which the answer ends.
        seed: seed of random choices, for models that support one.
        sample: each number has its own cached answer (default: 0).
        accept: a function of the `Answer` that returns True if it is good enough.

    >>> shared: CallOptions = {"max_tokens": 200, "max_cost": "0.01", "accept": lambda answer: len(answer.text) > 3}
    >>> llm.complete("cli_analysis", "What is ls?", **shared).text
    'It lists files.'
    """

    system: str | None
    max_tokens: int | None
    temperature: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    sample: int
    accept: Accept | None


class ClassifyOptions(CallOptions, total=False):
    """Options of `classify`, with those of `CallOptions`.

    Attributes:
        votes: most requests to a model without log-probabilities.
        min_confidence: from 0 to 1; after a verdict below it, the next better model of the task is asked.

    >>> llm.classify("result_verification", "2 of 2 tests passed", ["passed", "failed"], votes=1).method
    'votes'
    """

    votes: int
    min_confidence: float


class AllOptions(CallOptions, total=False):
    """`CallOptions` and `schema`; other signatures name `schema` themselves, for the type of `.parsed`."""

    schema: Schema


def _whole(value: Any, least: float = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any, most: float = math.inf) -> bool:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return right and math.isfinite(value) and 0 <= value <= most


def _texts(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _is_usd(value: Any) -> bool:
    amount = Decimal(str(value))
    return amount.is_finite() and amount >= 0


def _body_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    for place, reason in refused_in_extra(extra):
        raise InvalidRequestError(f"extra holds {'.'.join(place)!r}: {reason}")
    return dict(extra)


def takes(function: Any, arguments: int) -> bool:
    """True if this is no coroutine function and can be called with that many arguments, or has no signature."""
    if not callable(function) or any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
        return False
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return True
    try:
        signature.bind(*range(arguments))
    except TypeError:
        return False
    return True


_SECONDS = (lambda value: _number(value) and value > 0, "a finite number of seconds above 0")
_CHECKS: dict[str, tuple[Callable[[Any], object], str]] = {
    "model": (lambda value: isinstance(value, str) and value, "a name from `models`, or provider/model"),
    "cache": (lambda value: value in _MODES, f"one of {', '.join(_MODES)}"),
    "max_cost": (_is_usd, "USD as a number of at least 0, such as 0.05"),
    "timeout": _SECONDS,
    "deadline": _SECONDS,
    "extra": (lambda value: isinstance(value, Mapping), "a mapping of body fields"),
    "metadata": (lambda value: isinstance(value, Mapping), "a mapping"),
    "system": (lambda value: isinstance(value, str), "a text"),
    "max_tokens": (lambda value: _whole(value, 1), "a whole number of at least 1"),
    "temperature": (_number, "a number of at least 0"),
    "stop": (
        lambda value: all(isinstance(one, str) and one for one in _texts(value)),
        "a text, or a list of texts, none empty",
    ),
    "seed": (lambda value: _whole(value, -math.inf), "a whole number"),
    "sample": (_whole, "a whole number of at least 0"),
    "accept": (lambda value: takes(value, 1), "a function of one argument, the Answer"),
    "votes": (lambda value: _whole(value, 1), "a whole number of at least 1"),
    "min_confidence": (lambda value: _number(value, 1), "a number from 0 to 1"),
    "schema": (
        lambda value: not isinstance(value, str | bytes | int | float | list | tuple | set),
        "a pydantic class, another type, or a JSON Schema as a dict",
    ),
}
"""Check of each option (false, or raises, if it is invalid), and the expected value for the error message."""
_FORMS: dict[str, Callable[[Any], Any]] = {
    "max_cost": lambda value: Decimal(str(value)),
    "timeout": float,
    "deadline": float,
    "extra": _body_fields,
    "metadata": dict,
    "system": lambda value: encodable("system", value),
    "stop": lambda value: tuple([encodable("stop", one) for one in _texts(value)]),
}
"""Converters of valid options to the form that `Call` has."""


def lists_options(surface: type[F]) -> type[F]:
    """Class decorator: `help()` and `inspect.signature` list the options of `**options: Unpack[...]`."""
    for method in vars(surface).values():
        if not (inspect.isfunction(method) and method.__code__.co_flags & inspect.CO_VARKEYWORDS):
            continue
        *own, rest = inspect.signature(method).parameters.values()
        options = globals()[str(rest.annotation).removeprefix("Unpack[").removesuffix("]")]
        listed = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS.get(name), annotation=kind)
            for name, kind in get_type_hints(options).items()
            if name not in [one.name for one in own]
        ]
        method.__signature__ = inspect.signature(method).replace(parameters=[*own, *listed])  # type: ignore[attr-defined]
    return surface


def call_of(config: LLMConfig, task: str | None, prompt: Prompt, options: AllOptions, *, stream: bool = False) -> Call:
    """Returns the call that asks for text. Raises LLMError if a task or model is unknown, or an argument is wrong."""
    settings, given = _task(config, task), checked(options, AllOptions.__annotations__)
    given = {name: value for name in _OF_TASK if (value := getattr(settings, name)) is not None} | given
    messages = messages_of(prompt, given.pop("system", None))
    if (schema := given.pop("schema", None)) is not None:
        from testronaut_llm.schema.output_schema import OutputSchema

        given["output"] = OutputSchema.of(schema)
    return _call(config, settings, given, messages=messages, stream=stream)


def embed_call_of(config: LLMConfig, task: str | None, texts: str | Sequence[str], options: EmbedOptions) -> Call:
    """Returns the call that embeds texts. Raises LLMError as `call_of` does."""
    settings, given = _task(config, task), checked(options, EmbedOptions.__annotations__)
    of_task = {"max_tokens": settings.max_tokens, "timeout": settings.timeout, "deadline": settings.deadline}
    found = texts_of(texts)
    messages = tuple([Message(role="user", content=text) for text in found])
    return _call(config, settings, of_task | given, messages=messages, texts=found)


def _task(config: LLMConfig, name: Any) -> TaskConfig:
    if name is not None and not isinstance(name, str):
        raise InvalidRequestError(f"task is {name!r:.60}; expected a name from `tasks` of llm.yaml, or None")
    return config.task(name)


def checked(options: Any, known: Iterable[str]) -> dict[str, Any]:
    """Returns the given options in the form of `Call`."""
    given = {}
    for name, value in options.items():
        if name not in known:
            raise InvalidRequestError(f"unknown option {name!r:.60}{did_you_mean(name, known)}")
        if value is None and name not in DEFAULTS:
            continue
        check, words = _CHECKS[name]
        try:
            right = check(value)
        except (TypeError, ValueError, ArithmeticError):
            right = False
        if not right:
            raise InvalidRequestError(f"{name} is {value!r:.60}; expected {words}")
        given[name] = _FORMS[name](value) if name in _FORMS else value
    return given


def _call(config: LLMConfig, settings: TaskConfig, given: dict[str, Any], **asked: Any) -> Call:
    selected = select(config, given.get("model"), settings)
    if asked.get("texts"):
        selected = one_vector_space(selected)
    if "cache" not in given:
        given["cache"] = mode = os.environ.get(CACHE_VARIABLE) or settings.cache
        if mode not in _MODES:
            raise InvalidRequestError(f"{CACHE_VARIABLE} is {mode!r}; expected one of {', '.join(_MODES)}")
    candidates = tuple([one for one in selected if one.kept])
    modes = {one.secrets for one in candidates}
    if "refuse" in modes:
        turns = enumerate(asked["messages"], 1)
        to_embed = "texts" in asked
        places = [(f"text {n}" if to_embed else f"message {n} ({one.role})", one.content) for n, one in turns]
        refuse_secrets(settings.name, places)
    if "mask" in modes:
        asked |= _masked(asked)
    return Call(
        task=settings.name, settings=settings, config=config, selected=selected, candidates=candidates, **asked, **given
    )


def _masked(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Returns messages and texts with placeholders. Each text to embed is numbered alone, since it is stored alone."""
    messages, found = asked["messages"], [masked([text]) for text in asked.get("texts", ())]
    if found:
        texts, masking = tuple([text for (text,), _ in found]), Masking(count=sum(one.count for _, one in found))
    else:
        texts, masking = masked([one.content for one in messages])
    if not masking.count:
        return {}
    messages = tuple([replace(one, content=text) for one, text in zip(messages, texts, strict=True)])
    return {"messages": messages, "masking": masking, **({"texts": texts} if found else {})}
