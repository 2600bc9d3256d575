"""OpenAI's chat endpoint without the SDK's types: LiteLLM's body goes out as it is, and the answer comes as a mapping.

The SDK walks each request along its `TypedDict`s, and makes an object of each part of the response, which LiteLLM turns
back into a mapping at once: together a fifth of the time of a request (`benchmarks/speed.py` shows the whole).
`client.post` is the SDK's own door for what it has no types for; key, URL, headers and errors stay the SDK's.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import httpx

_PATH = "/chat/completions"
_OPTIONS = {"extra_headers": "headers", "extra_query": "params", "extra_body": "extra_json", "timeout": "timeout"}


@dataclass(frozen=True, slots=True)
class _Received:
    """Of a response, what LiteLLM asks for: its headers, its body parsed, and that as a mapping."""

    headers: httpx.Headers
    body: Any

    def parse(self) -> Any:
        """What is no object is given on as it is, and LiteLLM says that it is none."""
        return self if isinstance(self.body, dict) else self.body

    def model_dump(self) -> Any:
        return self.body


class _Completions:
    """Stands in for `client.chat.completions`, in both of its forms."""

    def __init__(self, client: Any, typed: Any) -> None:
        self._client, self._typed = client, typed
        self.with_raw_response = SimpleNamespace(create=self._create)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._typed, name)

    def _create(self, **arguments: Any) -> Any:
        """A response, or something to await where the client is async; a stream is the SDK's own."""
        if arguments.get("stream"):
            return self._typed.with_raw_response.create(**arguments)
        given = {option: arguments.pop(name, None) for name, option in _OPTIONS.items()}
        options = {option: value for option, value in given.items() if value is not None}
        sent = self._client.post(_PATH, cast_to=httpx.Response, body=arguments, options=options)
        return _received(sent) if isinstance(sent, httpx.Response) else _later(sent)


def plain_chat(client: Any, typed: Any) -> Any:
    """What `client.chat` shall be; `typed` is the SDK's own."""
    return SimpleNamespace(completions=_Completions(client, typed.completions))


async def _later(sent: Any) -> _Received:
    return _received(await sent)


def _received(response: httpx.Response) -> _Received:
    return _Received(response.headers, response.json())
