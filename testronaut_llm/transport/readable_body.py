"""Rewrites the few forms of a response body that LiteLLM cannot read, before it reads them.

LiteLLM refuses or drops the text of an answer whose `content` is a list of parts, and some of its readers end a
stream's line at U+0085, U+2028 and U+2029, which JSON allows inside a text.
"""

from __future__ import annotations

import json
import re
from typing import Any

_PARTS = re.compile(rb'"content"\s*:\s*\[')
_TEXTS = (None, "text", "output_text")
_BREAKS = {"\x85".encode(): rb"\u0085", "\u2028".encode(): rb"\u2028", "\u2029".encode(): rb"\u2029"}


class ReadableBody:
    """One body on its way to LiteLLM, as its bytes come.

    Args:
        lines: is it a stream, and not one document?
    """

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines
        self._held = bytearray()

    def take(self, chunk: bytes) -> bytes:
        """Returns what can be given on by now: whole lines."""
        self._held += chunk
        end = max(self._held.rfind(b"\n"), self._held.rfind(b"\r")) + 1 if self._lines else 0
        lines = bytes(self._held[:end])
        del self._held[:end]
        return b"".join(map(_readable, lines.splitlines(keepends=True)))

    def end(self) -> bytes:
        """Returns the rest."""
        return _readable(bytes(self._held))


def _readable(text: bytes) -> bytes:
    for character, escape in _BREAKS.items():
        text = text.replace(character, escape)
    if not _PARTS.search(text):
        return text
    start, end = text.find(b"{"), len(text.rstrip())
    try:
        document = json.loads(text[start:end])
    except (ValueError, RecursionError):
        return text
    return text[:start] + json.dumps(document).encode() + text[end:] if _join(document) else text


def _join(document: Any) -> bool:
    """Makes one text of the parts of each choice, where there are any; what is no text is left out."""
    joined = False
    choices = document.get("choices") if isinstance(document, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        for message in map(choice.get, ("message", "delta")) if isinstance(choice, dict) else ():
            if isinstance(message, dict) and isinstance(message.get("content"), list):
                message["content"], joined = "".join(map(_text, message["content"])), True
    return joined


def _text(part: Any) -> str:
    if isinstance(part, dict):
        part = part.get("text") if part.get("type") in _TEXTS else None
    return part if isinstance(part, str) else ""
