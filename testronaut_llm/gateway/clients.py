"""HTTP clients for LiteLLM, kept open between attempts, in the form that LiteLLM takes.

The HTTP clients follow no redirect (prompt and key would go along) and use no proxy for loopback. They hold a key only
during an attempt. What LiteLLM does not document has a test in `tests/gateway/test_litellm_internals.py`.
"""

import asyncio
import time
import warnings
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import httpx
from pydantic import SecretStr

from testronaut_llm.gateway.exchange import Exchange, SecondRequestError
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.providers.network import client_settings

_MOST_IDLE, _IDLE_SECONDS = 64, 60.0
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
_NO_KEY = "none"
_V1 = ("v1", "preview", "latest")
"""API versions of Azure with the URLs of OpenAI."""

_inside: ContextVar[object] = ContextVar("testronaut_llm_inside", default=None)
"""The connection of the attempt that runs in this thread or task."""


class Connection:
    """One HTTP client for one endpoint; it serves one attempt at a time.

    With a client shared by N attempts, httpcore's time grows with N squared.
    """

    def __init__(self, url: str | None, kind: str = "handler", api_version: str | None = None) -> None:
        self.serves = url, kind, api_version
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self._handler: Any = None
        self._sdk: Any = None
        self.http = httpx.AsyncClient(
            event_hooks={"request": [_refuse]},
            headers={"accept-encoding": "gzip"},
            **client_settings(url, asynchronous=True, limits=_LIMITS),
        )

    def begin(self, exchange: Exchange) -> None:
        """Notes what is sent and received from now on in `exchange`."""
        self.exchange = exchange
        self.http.event_hooks = {"request": [exchange.on_request], "response": [exchange.on_response]}

    def end(self) -> None:
        """Refuses further requests, and forgets the key and the cookies of the attempt."""
        self.exchange, self.http.event_hooks = None, {"request": [_refuse]}
        if self._sdk is not None:
            self._sdk.api_key = _NO_KEY
        self.http.cookies.clear()  # they may belong to one account
        self.idle_since = time.monotonic()

    def handler(self, litellm: Any) -> Any:
        """Returns LiteLLM's own client class, which sends through this one."""
        if self._handler is None:
            unused = httpx.MockTransport(lambda _: httpx.Response(500))
            self._handler = litellm.llms.custom_httpx.http_handler.AsyncHTTPHandler(transport=unused)
            self._handler.client = self.http
        return self._handler

    def client(self, litellm: Any, target: Target) -> Any:
        """Returns LiteLLM's `client` argument; of another type, it would be ignored for one that LiteLLM opens."""
        if self.serves[1] not in ("openai", "azure"):
            return self.handler(litellm)
        if target.key is not None and not isinstance(target.key, SecretStr):
            return self._made(partial(asyncio.to_thread, target.key))
        key = target.key.get_secret_value() if target.key is not None else _NO_KEY
        if self._sdk is None:
            self._sdk = self._made(key)  # it asks a thread about the platform at its first request
        self._sdk.api_key = key
        return self._sdk

    def _made(self, key: Any) -> Any:
        """Returns a client of OpenAI's SDK; `key` is a key, or a function that returns a token."""
        import openai

        base, kind, api_version = self.serves
        settings: dict[str, Any] = {"http_client": self.http, "max_retries": 0}
        if kind == "azure" and api_version not in _V1:
            settings["azure_ad_token_provider" if callable(key) else "api_key"] = key
            return openai.AsyncAzureOpenAI(azure_endpoint=base or "", api_version=api_version, **settings)
        if kind == "azure":
            base = f"{base}/openai/v1/"
            settings["default_query"] = {"api-version": "preview"} if api_version == "preview" else None
        return openai.AsyncOpenAI(api_key=key, base_url=base, **settings)


async def _refuse(_: httpx.Request) -> None:
    raise SecondRequestError("no attempt is running")


class Clients:
    """The idle clients of one manager. They belong to its event loop; another loop starts with none."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: deque[Connection] | None = None

    @asynccontextmanager
    async def connection(self, target: Target, exchange: Exchange, *, embedding: bool) -> AsyncIterator[Connection]:
        """Yields a connection for one attempt, whose requests are noted in `exchange`."""
        if self._idle is None or self._loop is not asyncio.get_running_loop():
            self._loop, self._idle = asyncio.get_running_loop(), deque()
        idle = self._idle
        kind = (target.provider.embedding_client if embedding else None) or target.provider.client
        serves = target.api_base, kind, target.api_version
        for connection in reversed(idle):
            if connection.serves == serves:
                idle.remove(connection)
                break
        else:
            connection = Connection(*serves)
        connection.begin(exchange)
        try:
            yield connection
        finally:
            connection.end()
            idle.append(connection)
            await _retire(idle, _MOST_IDLE if idle is self._idle else 0)

    async def close(self) -> None:
        """Closes the clients; those in use close after their attempt."""
        idle, self._idle = self._idle, None
        if idle is not None and self._loop is asyncio.get_running_loop():
            await _retire(idle, 0)


async def _retire(idle: deque[Connection], most: int) -> None:
    """Closes clients beyond the maximum number or idle time, the oldest first."""
    while idle and (len(idle) > most or idle[0].idle_since < time.monotonic() - _IDLE_SECONDS):
        await idle.popleft().http.aclose()


def forget(litellm: Any, client: object) -> None:
    """Removes a client from LiteLLM's cache, which shares those for Azure, with their key."""
    kept = litellm.in_memory_llm_clients_cache
    for key in [key for key, one in list(kept.cache_dict.items()) if one is client]:
        kept.delete_cache(key)


class ModuleClient:
    """Stands in for LiteLLM's module-level client, which its Ollama embeddings use whatever `client` they are given.

    Inside our calls it is the handler of the attempt, else one of its own.
    """

    def __init__(self, litellm: Any) -> None:
        self._litellm = litellm
        self._theirs: Any = None

    def __getattr__(self, name: str) -> Any:
        connection = _inside.get()
        if isinstance(connection, Connection) and connection.exchange is not None:
            return getattr(connection.handler(self._litellm), name)
        if self._theirs is None:
            self._theirs = self._litellm.llms.custom_httpx.http_handler.AsyncHTTPHandler()
        return getattr(self._theirs, name)


class _InsideMeta(type):
    def __subclasscheck__(cls, category: type) -> bool:
        return _inside.get() is not None


class _AnyInside(Warning, metaclass=_InsideMeta):
    """Matches every category of warning in a context inside `inside()`."""


@contextmanager
def inside(connection: object) -> Iterator[None]:
    """Lets LiteLLM work with the connection of an attempt, and silences its warnings.

    A program that runs with `-W error` would lose a good answer to a warning. Warnings of other threads and tasks do
    not change, as they would with `warnings.catch_warnings`.
    """
    if not warnings.filters or warnings.filters[0][2] is not _AnyInside:  # another filter came before it since
        warnings.simplefilter("ignore", _AnyInside)
    token = _inside.set(connection)
    try:
        yield
    finally:
        _inside.reset(token)
