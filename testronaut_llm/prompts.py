"""Checks the prompt of a call: a text, or messages in OpenAI's form."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.records import Message, Role

ROLES: tuple[Role, ...] = get_args(Role)

Prompt = str | Sequence[Mapping[str, Any] | Message]
"""A text, or messages: in OpenAI's form, or as `Message`."""
Prompts = str | Sequence[Prompt | Mapping[str, Any] | Message]
"""One prompt, or several; mypy infers a list's type only from a single `Sequence`."""


def messages_of(prompt: Any, system: str | None) -> tuple[Message, ...]:
    """Returns the prompt's messages, after the system text if there is one.

    Raises:
        InvalidRequestError: the prompt is empty, or neither a text nor messages.
    """
    if isinstance(prompt, str):
        messages = [Message(role="user", content=encodable("the prompt", prompt))]
    elif isinstance(prompt, Message | Mapping):
        raise InvalidRequestError(f"the prompt is a single message, {prompt!r:.40}; pass a list of messages")
    elif not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray) or not prompt:
        raise InvalidRequestError(f"the prompt is {prompt!r:.40}; expected a str, or messages with role and content")
    else:
        messages = [_message(f"message {number}", turn) for number, turn in enumerate(prompt)]
    if not any(message.content.strip() for message in messages):
        raise InvalidRequestError("the prompt is empty; expected some text")
    if system:
        messages.insert(0, Message(role="system", content=system))
    return tuple(messages)


def texts_of(texts: Any) -> tuple[str, ...]:
    """Returns the texts of an embedding call.

    Raises:
        InvalidRequestError: there is no text, or one is empty or not a str.
    """
    listed = isinstance(texts, Iterable) and not isinstance(texts, Mapping | bytes)
    given = (texts,) if isinstance(texts, str) else tuple(texts) if listed else ()
    if not given:
        raise InvalidRequestError(f"texts is {texts!r:.40}; expected a str or a list of them")
    for number, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequestError(f"text {number} to embed is {text!r:.40}; expected a str that is not empty")
        encodable(f"text {number}", text)
    return given


def encodable(name: str, text: str) -> str:
    """Returns the text. Raises InvalidRequestError if it holds a lone surrogate, which cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} is not valid Unicode (lone surrogate at character {error.start}); "
            "read the input with errors='replace'"
        ) from None
    return text


def _message(where: str, turn: Any) -> Message:
    if isinstance(turn, Message):
        turn = {"role": turn.role, "content": turn.content}
    if not isinstance(turn, Mapping):
        raise InvalidRequestError(f"{where} is {turn!r:.40}; expected a Message or a mapping with role and content")
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise InvalidRequestError(f"{where} has role {role!r}; expected one of {', '.join(ROLES)}")
    _only(where, turn, "role", "content")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        content = "".join([_part(f"{where}, part {n}", part) for n, part in enumerate(content)])
    if not isinstance(content, str):
        raise InvalidRequestError(f"{where} has content {content!r:.40}; expected text")
    return Message(role=role, content=encodable(where, content))


def _part(where: str, part: Any) -> str:
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (type(part).__name__, None)
    if kind != "text" or not isinstance(text, str):
        raise InvalidRequestError(f"{where} is {kind!r}; only text parts are sent: {{'type': 'text', 'text': ...}}")
    _only(where, part, "type", "text")
    return text


def _only(where: str, given: Mapping[str, Any], *known: str) -> None:
    if (name := next((one for one in given if one not in known), None)) is not None:
        raise InvalidRequestError(f"{where} holds {name!r:.60}, which is not sent; expected {' and '.join(known)} only")
