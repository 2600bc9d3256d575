"""Rewrites what LiteLLM cannot read of a response body: it refuses or drops `content` that is a list of parts."""

from __future__ import annotations

import json
import re
from typing import Any

_PARTS = re.compile(rb'"content"\s*:\s*\[')
_TEXTS = (None, "text", "output_text")


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
