"""From a caller's arguments and a task's settings to one validated Call; nothing is spent before this is right."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, get_args

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.model_config import TaskConfig
from testronaut_llm.records import Answer, CacheMode, Message, Role
from testronaut_llm.support.owned_fields import refused_in_extra

if TYPE_CHECKING:
    from testronaut_llm.output_schema import OutputSchema

ROLES: tuple[Role, ...] = get_args(Role)
MODES: tuple[CacheMode, ...] = get_args(CacheMode)
CACHE_VARIABLE = "TESTRONAUT_LLM_CACHE"
"""Names the mode of all tasks for one run."""

Prompt = str | Sequence[Mapping[str, Any]]


def checked(
    task: TaskConfig,
    *,
    schema: Any = None,
    accept: Callable[[Answer[Any]], bool] | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    cache: CacheMode | None = None,
    sample: int = 0,
    max_cost: Decimal | float | str | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    extra: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    stream: bool = False,
) -> dict[str, Any]:
    """The fields of a Call, but for its messages; the task's settings where the caller gave none.

    Raises:
        InvalidRequestError: an argument is wrong; the message names it, what was given and what is expected.
    """
    return {
        "task": task.name,
        "output": None if schema is None else output_of(schema),
        "accept": accept_of(accept),
        "model": _given("model", model, str, "a name from `models`, or provider/model"),
        "max_tokens": _whole("max_tokens", task.max_tokens if max_tokens is None else max_tokens, least=1),
        "temperature": _number("temperature", task.temperature if temperature is None else temperature, least=0),
        "stop": _stop(task.stop if stop is None else stop),
        "seed": None if seed is None and task.seed is None else _whole("seed", task.seed if seed is None else seed),
        "cache": _cache(task, cache),
        "sample": _whole("sample", sample, least=0),
        "max_cost": _money(max_cost),
        "timeout": _seconds("timeout", task.timeout if timeout is None else timeout),
        "deadline": _seconds("deadline", task.deadline if deadline is None else deadline) or task.deadline,
        "retries": task.retries,
        "stream": stream,
        "prompt_cache": task.prompt_cache,
        "extra": _extra(_given("extra", extra, Mapping, "a mapping of body fields") or {}),
        "metadata": metadata_of(metadata),
    }


def output_of(schema: Any) -> OutputSchema:
    """The caller's schema, unless it has been taken already.

    Raises:
        InvalidRequestError: it is none.
    """
    from testronaut_llm.output_schema import OutputSchema

    return schema if isinstance(schema, OutputSchema) else OutputSchema.of(schema)


def accept_of(accept: Any) -> Callable[[Answer[Any]], bool] | None:
    """What judges an answer.

    Raises:
        InvalidRequestError: it cannot be called.
    """
    function: Callable[[Answer[Any]], bool] | None = _given("accept", accept, Callable, "a function of the Answer")
    return function


def metadata_of(metadata: Any) -> dict[str, Any]:
    """A copy of what goes to telemetry.

    Raises:
        InvalidRequestError: it is no mapping.
    """
    return dict(_given("metadata", metadata, Mapping, "a mapping") or {})


def system_of(task: TaskConfig, system: Any) -> str | None:
    """The system text of a call, else the task's.

    Raises:
        InvalidRequestError: it is no text.
    """
    text: str | None = _given("system", task.system if system is None else system, str, "a text")
    _encodable(text or "", "system")
    return text


def texts_to_embed(texts: Any) -> tuple[str, ...]:
    """The texts of an embedding call.

    Raises:
        InvalidRequestError: none, or one that is empty or no text.
    """
    given = (texts,) if isinstance(texts, str) else tuple(texts) if isinstance(texts, Iterable) else ()
    if not given:
        raise InvalidRequestError(f"no text was given to embed, but {texts!r:.40}; expected a str or a list of them")
    for number, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequestError(f"text {number} to embed is {text!r:.40}; expected a str that is not empty")
        _encodable(text, f"text {number}")
    return given


def messages_of(prompt: Any, system: str | None) -> tuple[Message, ...]:
    """The prompt's messages, after the system text if there is one.

    Raises:
        InvalidRequestError: the prompt is empty, or no text and no messages.
    """
    if isinstance(prompt, str):
        _encodable(prompt, "the prompt")
        messages = [Message(role="user", content=prompt)]
    elif not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray) or not prompt:
        raise InvalidRequestError(f"the prompt is {prompt!r:.40}; expected a str, or messages with role and content")
    else:
        messages = [_message(number, turn) for number, turn in enumerate(prompt)]
    if not any(message.content.strip() for message in messages):
        raise InvalidRequestError("the prompt is empty; expected some text")
    if system:
        messages.insert(0, Message(role="system", content=system))
    return tuple(messages)


def _message(number: int, turn: Any) -> Message:
    where = f"message {number}"
    if not isinstance(turn, Mapping):
        raise InvalidRequestError(f"{where} is {turn!r:.40}; expected a mapping with `role` and `content`")
    role = turn.get("role")
    if role not in ROLES:
        raise InvalidRequestError(f"{where} has role {role!r}; expected one of {', '.join(ROLES)}")
    _only(where, turn, "role", "content")
    content = turn.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = "".join(_part(f"{where}, part {n}", part) for n, part in enumerate(content))
    if not isinstance(content, str):
        raise InvalidRequestError(f"{where} has content {content!r:.40}; expected text")
    _encodable(content, where)
    return Message(role=next(one for one in ROLES if one == role), content=content)


def _part(where: str, part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        _only(where, part, "type", "text")
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequestError(f"{where} is {kind!r}; only text parts are sent: {{'type': 'text', 'text': ...}}")


def _only(where: str, given: Mapping[str, Any], *known: str) -> None:
    if (name := next((one for one in given if one not in known), None)) is not None:
        raise InvalidRequestError(f"{where} holds {name!r:.60}, which is not sent; expected {' and '.join(known)} only")


def _encodable(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        mend = "read the input with errors='replace'"
        raise InvalidRequestError(
            f"{where} holds a lone surrogate at character {error.start}, which is no text; {mend}"
        ) from None


def _given(name: str, value: Any, kind: Any, expected: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise InvalidRequestError(f"{name} is {value!r:.60}; expected {expected}")
    return value


def _whole(name: str, value: Any, *, least: float = -math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        bound = f" of at least {least}" if math.isfinite(least) else ""
        raise InvalidRequestError(f"{name} is {value!r:.60}; expected a whole number{bound}")
    return value


def _number(name: str, value: Any, *, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise InvalidRequestError(f"{name} is {value!r}; expected a number of at least {least}")
    return value


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = _number(name, value, least=0)
    if seconds == 0:
        raise InvalidRequestError(f"{name} is 0; expected more than 0 seconds")
    return float(seconds)


def _stop(value: Any) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(one, str) and one for one in stops):
        raise InvalidRequestError(f"stop is {value!r:.60}; expected a text, or a list of texts, none empty")
    for stop in stops:
        _encodable(stop, "stop")
    return stops


def _cache(task: TaskConfig, given: Any) -> CacheMode:
    """What the call says, else the environment, else the task."""
    value: Any = os.environ.get(CACHE_VARIABLE) or task.cache if given is None else given
    if value not in MODES:
        name = CACHE_VARIABLE if given is None else "cache"
        raise InvalidRequestError(f"{name} is {value!r}; expected one of {', '.join(MODES)}")
    mode: CacheMode = value
    return mode


def _money(value: Decimal | float | str | None) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise InvalidRequestError(f"max_cost is {value!r}; expected USD as a number of at least 0, such as 0.05")
    return amount


def _extra(extra: Mapping[str, Any]) -> Mapping[str, Any]:
    for place, reason in refused_in_extra(extra):
        raise InvalidRequestError(f"extra holds {'.'.join(place)!r}: {reason}")
    return dict(extra)
