"""Rewrites the few forms of a response body that LiteLLM cannot read, before it reads them.

LiteLLM refuses or drops the text of an answer whose `content` is a list of parts, and some of its readers end a
stream's line at U+0085, U+2028 and U+2029, which JSON allows inside a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

_PARTS = re.compile(rb'"content"\s*:\s*\[')
_BREAKS = {"\x85".encode(): rb"\u0085", "\u2028".encode(): rb"\u2028", "\u2029".encode(): rb"\u2029"}


class ReadableBody:
    """One body on its way to LiteLLM, as its bytes come.

    Args:
        form: `lines` of a stream, a `whole` document, or `packed`, which is given on as it is.
    """

    def __init__(self, form: Literal["lines", "whole", "packed"]) -> None:
        self._form = form
        self._held = bytearray()

    def take(self, chunk: bytes) -> bytes:
        """Returns what can be given on by now."""
        if self._form == "packed":
            return chunk
        self._held += chunk
        end = max(self._held.rfind(b"\n"), self._held.rfind(b"\r")) + 1 if self._form == "lines" else 0
        lines = bytes(self._held[:end])
        del self._held[:end]
        return b"".join(map(_readable_line, lines.splitlines(keepends=True)))

    def end(self) -> bytes:
        """Returns the rest."""
        return _readable_line(bytes(self._held)) if self._form == "lines" else _readable(bytes(self._held))


def _readable(body: bytes) -> bytes:
    return _joined(body) if _PARTS.search(body) else body


def _readable_line(line: bytes) -> bytes:
    line = _readable(line)
    for character, escape in _BREAKS.items():
        line = line.replace(character, escape)
    return line


def _joined(body: bytes) -> bytes:
    start, end = body.find(b"{"), len(body.rstrip())
    try:
        document = json.loads(body[start:end])
    except (ValueError, RecursionError):
        return body
    messages = list(_messages(document))
    for message in messages:
        message.update(_texts(message))
    return body[:start] + json.dumps(document).encode() + body[end:] if messages else body


def _messages(document: Any) -> Iterator[dict[str, Any]]:
    choices = document.get("choices") if isinstance(document, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for name in ("message", "delta"):
            message = choice.get(name) if isinstance(choice, dict) else None
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                yield message


def _texts(message: dict[str, Any]) -> dict[str, str]:
    """The parts of a message's content by where LiteLLM looks for them; what is no text is left out."""
    found = {"content": ""}
    for part in message["content"]:
        kind = part.get("type") if isinstance(part, dict) else "text"
        name = {"thinking": "reasoning_content", "reasoning": "reasoning_content", "refusal": "refusal"}.get(str(kind))
        if name:
            found[name] = found.get(name) or str(message.get(name) or "")
        found[name or "content"] += _text(part)
    return found


def _text(part: Any) -> str:
    if isinstance(part, list):
        return "".join(map(_text, part))
    if isinstance(part, dict):
        return next((_text(part[name]) for name in ("text", "thinking", "reasoning", "refusal") if name in part), "")
    return part if isinstance(part, str) else ""
