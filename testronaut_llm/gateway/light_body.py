"""Gives LiteLLM a light form of each large body: marks in place of long texts and vectors, which the reader puts back.

LiteLLM searches whatever it cannot read, a whole body or one event, for secrets and causes: ten seconds a megabyte, in
which no other call goes on. It also refuses or drops a `content` that is a list of parts, which becomes one text here.
"""

import json
import re
import secrets
from typing import Any

from testronaut_llm.gateway.provider_errors import dicts, parsed
from testronaut_llm.support.http_body import BodyError

_LARGE, _LONG, _START = 16 * 1024, 64, 1024
"""Bytes of a large body or event; characters of a long text, and numbers of a vector; bytes of what is not JSON."""
MOST_BYTES_BESIDE_TEXTS = 256 * 1024
_PARTS = re.compile(rb'"content"\s*:\s*\[')
_TEXTS = (None, "text", "output_text")
_AS_JSON = ("input", "args")
"""Arguments of a tool call as an object, which LiteLLM makes a JSON text (Anthropic, Gemini)."""


class LightBody:
    """The long texts and vectors of one response.

    A mark of a text is 28 digits: LiteLLM decodes some texts as base64 (Gemini's signatures), or as JSON (arguments).
    """

    def __init__(self) -> None:
        self._mark, self._vector_mark = str(10**19 + secrets.randbelow(10**19)), secrets.randbits(50)
        self._texts: list[str] = []
        self._vectors: list[list[Any]] = []

    def of(self, body: bytes) -> bytes:
        """Returns a body, or a line of a stream, for LiteLLM. Raises BodyError if it is large without its texts."""
        large = len(body) > _LARGE
        if not large and not _PARTS.search(body):
            return body
        head = b"data: " if body.startswith(b"data:") else b""
        text = body.removeprefix(b"data:").strip()
        document = parsed(text.decode("utf-8", "replace"))
        try:
            changed = _join_parts(document) if isinstance(document, dict) else False
            if large and document is not None:
                document = self._without_texts(document, as_json=False)
            new = json.dumps(document).encode() if large or changed else text
        except RecursionError:
            document = None
        if document is None:
            new = text[:_START] if large else text
        elif large and len(new) > MOST_BYTES_BESIDE_TEXTS:
            raise BodyError(f"the body holds more than {MOST_BYTES_BESIDE_TEXTS:,} bytes beside its texts")
        return head + new + (b"\n" if body.endswith((b"\n", b"\r")) else b"")

    def restored(self, text: Any) -> str:
        """Returns a text of LiteLLM's response as the server sent it; empty if it is not a text."""
        if not isinstance(text, str) or self._mark not in text:
            return text if isinstance(text, str) else ""
        return re.sub(self._mark + r"(\d{8})", lambda found: self._texts[int(found[1])], text)

    def vector(self, row: Any) -> list[Any]:
        """Returns a vector of LiteLLM's response as the server sent it. Raises TypeError if it is not a list."""
        if not isinstance(row, list):
            raise TypeError(f"a vector is a {type(row).__name__}")
        return self._vectors[int(row[1])] if len(row) == 2 and row[0] == self._vector_mark else row

    def _without_texts(self, value: Any, *, as_json: bool) -> Any:
        if isinstance(value, dict):
            return {
                name[:_LONG]: self._without_texts(one, as_json=as_json or name in _AS_JSON)
                for name, one in value.items()
                if name != "logprobs"  # read from the body itself
            }
        if isinstance(value, list):
            if len(value) > _LONG and type(value[0]) in (int, float):
                self._vectors.append(value)
                return [self._vector_mark, len(self._vectors) - 1]
            return [self._without_texts(one, as_json=as_json) for one in value]
        if not isinstance(value, str) or len(value) <= _LONG:
            return value
        self._texts.append(json.dumps(value)[1:-1] if as_json else value)
        return f"{self._mark}{len(self._texts) - 1:08}"


def _join_parts(document: dict[str, Any]) -> bool:
    """Makes one text of each `content` that is a list of parts; True if there was one."""
    found = False
    for choice in dicts(document.get("choices")):
        for message in dicts([choice.get("message"), choice.get("delta")]):
            if isinstance(content := message.get("content"), list):
                parts = [one for one in content if not isinstance(one, dict) or one.get("type") in _TEXTS]
                texts = [one.get("text") if isinstance(one, dict) else one for one in parts]
                message["content"], found = "".join([one for one in texts if isinstance(one, str)]), True
    return found
