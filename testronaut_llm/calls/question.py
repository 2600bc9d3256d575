"""One call on its way to its answer: checked, with the models that may answer and what the cache knows it by."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from testronaut_llm.cache import key as cache_key
from testronaut_llm.calls.options import AllOptions, EmbedOptions, checked, encodable, refuse_unknown
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.records import Call, Message, Role
from testronaut_llm.routing.task_router import Selected, one_vector_space, select

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, TaskConfig

ROLES: tuple[Role, ...] = get_args(Role)

Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A Call, with what the file says of it at its start.

    Attributes:
        candidates: the models that may answer, in the listed order.
        texts: what to embed; none for a chat.
        parts: what is asked, as the keys of the cache say it; of each text where texts are to be embedded. Empty
            where nothing is to be looked up or stored.
        started: seconds, on the clock that never goes back.
    """

    call: Call
    config: LLMConfig
    task: TaskConfig
    candidates: tuple[Selected, ...]
    texts: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until its deadline."""
        return self.started + self.call.deadline - time.monotonic()


def question_of(
    config: LLMConfig, task: str | None, prompt: Any, options: AllOptions, *, stream: bool = False
) -> Question:
    """Returns the question of a call that asks for text.

    Raises:
        LLMError: the task or a model is unknown, or an argument is wrong.
    """
    refuse_unknown(options, AllOptions)
    return _question(config, _task(config, task), prompt, options, stream=stream)


def embedding_of(config: LLMConfig, task: str | None, texts: Any, options: EmbedOptions) -> Question:
    """Returns the question of a call that embeds texts.

    Raises:
        LLMError: the task or a model is unknown, or an argument is wrong.
    """
    refuse_unknown(options, EmbedOptions)
    settings, texts = _task(config, task), texts_to_embed(texts)
    return _question(config, settings, "\n".join(texts), options, texts=texts)


def _question(
    config: LLMConfig,
    task: TaskConfig,
    prompt: Any,
    options: Mapping[str, Any],
    *,
    texts: tuple[str, ...] = (),
    stream: bool = False,
) -> Question:
    call = call_of(task, prompt, options, stream=stream)
    selected = select(config, call.model, task)
    selected = one_vector_space(selected) if texts else selected
    return Question(
        call=call,
        config=config,
        task=task,
        candidates=tuple([one for one in selected if one.excluded is None]),
        texts=texts,
        parts=() if call.cache == "off" else cache_key.parts_of(call, texts),
    )


def call_of(task: TaskConfig, prompt: Any, options: Mapping[str, Any], *, stream: bool = False) -> Call:
    """Returns the Call of a task, whose settings stand where the options say nothing.

    Raises:
        InvalidRequestError: the prompt or an option is wrong; the message names it.
    """
    fields = checked(task, options)
    messages, output = messages_of(prompt, fields.pop("system", None)), fields.pop("schema", None)
    return Call(task=task.name, messages=messages, output=output, stream=stream, **fields)


def _task(config: LLMConfig, name: Any) -> TaskConfig:
    if name is not None and not isinstance(name, str):
        raise InvalidRequestError(f"task is {name!r:.60}; expected a name from `tasks` of llm.yaml, or None")
    return config.task(name)


def texts_to_embed(texts: Any) -> tuple[str, ...]:
    """Returns the texts of an embedding call.

    Raises:
        InvalidRequestError: none, or one that is empty or no text.
    """
    given = (texts,) if isinstance(texts, str) else tuple(texts) if isinstance(texts, Iterable) else ()
    if not given:
        raise InvalidRequestError(f"no text was given to embed, but {texts!r:.40}; expected a str or a list of them")
    for number, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequestError(f"text {number} to embed is {text!r:.40}; expected a str that is not empty")
        encodable(f"text {number}", text)
    return given


def messages_of(prompt: Any, system: str | None) -> tuple[Message, ...]:
    """Returns the prompt's messages, after the system text if there is one.

    Raises:
        InvalidRequestError: the prompt is empty, or no text and no messages.
    """
    if isinstance(prompt, str):
        messages = [Message(role="user", content=encodable("the prompt", prompt))]
    elif not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray) or not prompt:
        raise InvalidRequestError(f"the prompt is {prompt!r:.40}; expected a str, or messages with role and content")
    else:
        messages = [_message(f"message {number}", turn) for number, turn in enumerate(prompt)]
    if not any(message.content.strip() for message in messages):
        raise InvalidRequestError("the prompt is empty; expected some text")
    if system:
        messages.insert(0, Message(role="system", content=system))
    return tuple(messages)


def _message(where: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise InvalidRequestError(f"{where} is {turn!r:.40}; expected a mapping with `role` and `content`")
    role = turn.get("role")
    if role not in ROLES:
        raise InvalidRequestError(f"{where} has role {role!r}; expected one of {', '.join(ROLES)}")
    _only(where, turn, "role", "content")
    content = turn.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = "".join([_part(f"{where}, part {n}", part) for n, part in enumerate(content)])
    if not isinstance(content, str):
        raise InvalidRequestError(f"{where} has content {content!r:.40}; expected text")
    return Message(role=next(one for one in ROLES if one == role), content=encodable(where, content))


def _part(where: str, part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        _only(where, part, "type", "text")
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise InvalidRequestError(f"{where} is {kind!r}; only text parts are sent: {{'type': 'text', 'text': ...}}")


def _only(where: str, given: Mapping[str, Any], *known: str) -> None:
    if (name := next((one for one in given if one not in known), None)) is not None:
        raise InvalidRequestError(f"{where} holds {name!r:.60}, which is not sent; expected {' and '.join(known)} only")
