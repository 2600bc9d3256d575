"""The clients that LiteLLM is handed: HTTP clients of ours, kept open between attempts, in the form that it takes.

The HTTP clients follow no redirect (the prompt and the key would go along) and never use a proxy for loopback. They
hold no key: what holds one is made for one attempt. What is needed beyond LiteLLM's documentation has a test in
`tests/gateway/test_litellm_internals.py`.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import httpx

from testronaut_llm.gateway.exchange import Exchange, SecondRequestError
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.providers.network import client_settings

_MOST_IDLE, _IDLE_SECONDS = 64, 60.0
"""How many clients of one event loop are kept open for later attempts, and for how long."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
_V1 = ("v1", "preview", "latest")
"""API versions of Azure that are asked like OpenAI."""

_inside: ContextVar[object] = ContextVar("testronaut_llm_inside", default=None)
"""The connection of the attempt that LiteLLM works on in this thread or task."""


class Connection:
    """One HTTP client for one endpoint, which serves one attempt at a time.

    What httpcore does to share out the connections of one client grows with the square of their number.
    """

    def __init__(self, url: str | None) -> None:
        self.url = url
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self._handler: Any = None
        self.http = httpx.AsyncClient(
            event_hooks={"request": [self._on_request], "response": [self._on_response]},
            headers={"accept-encoding": "gzip"},
            **client_settings(url, asynchronous=True, limits=_LIMITS),
        )

    async def _on_request(self, request: httpx.Request) -> None:
        if self.exchange is None:
            raise SecondRequestError("no attempt is under way")
        self.exchange.on_request(request)

    async def _on_response(self, response: httpx.Response) -> None:
        if self.exchange is not None:
            self.exchange.on_response(response)

    def handler(self, litellm: Any) -> Any:
        """Returns LiteLLM's own kind of client, which sends with this one."""
        if self._handler is None:
            unused = httpx.MockTransport(lambda _: httpx.Response(500))
            self._handler = litellm.llms.custom_httpx.http_handler.AsyncHTTPHandler(transport=unused)
            self._handler.client = self.http
        return self._handler

    def client(self, litellm: Any, target: Target, *, embedding: bool = False) -> Any:
        """Returns what LiteLLM takes as `client` for this provider; with another it would open its own connection."""
        provider = target.provider
        kind = (provider.embedding_client if embedding else None) or provider.client
        if kind not in ("openai", "azure"):
            return self.handler(litellm)
        import openai

        key: Any = target.key.get_secret_value() if target.key else "none"
        if not target.key and target.token_provider is not None:
            key = partial(asyncio.to_thread, target.token_provider)
        settings: dict[str, Any] = {"http_client": self.http, "max_retries": 0}
        base = target.api_base
        if kind == "azure" and target.api_version not in _V1:
            settings["azure_ad_token_provider" if callable(key) else "api_key"] = key
            return openai.AsyncAzureOpenAI(azure_endpoint=base or "", api_version=target.api_version, **settings)
        if kind == "azure":
            base = f"{base}/openai/v1/"
            settings["default_query"] = {"api-version": "preview"} if target.api_version == "preview" else None
        return openai.AsyncOpenAI(api_key=key, base_url=base, **settings)


class Clients:
    """The idle clients of one manager, by event loop: connections belong to one, and close with it."""

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    @asynccontextmanager
    async def lend(self, url: str | None, exchange: Exchange) -> AsyncIterator[Connection]:
        """Lends a client of this event loop for one attempt, whose requests belong to `exchange`."""
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            closer = _idle_until_the_loop_ends()
            self._pools[loop] = _Pool(closer, await anext(closer))
        pool = self._pools[loop]
        connection = next((one for one in reversed(pool.idle) if one.url == url), None)
        if connection is None:
            connection = Connection(url)
        else:
            pool.idle.remove(connection)
        connection.exchange = exchange
        try:
            yield connection
        finally:
            connection.exchange = None
            connection.http.cookies.clear()  # they may be of one account
            connection.idle_since = time.monotonic()
            pool.idle.append(connection)
            await _retire(pool.idle, _MOST_IDLE if self._pools.get(loop) is pool else 0)

    async def close(self) -> None:
        """Closes the clients of the running loop; those in use close when they come back."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.closer.aclose()


class _Pool(NamedTuple):
    closer: AsyncGenerator[deque[Connection], None]
    idle: deque[Connection]


async def _idle_until_the_loop_ends() -> AsyncGenerator[deque[Connection], None]:
    """Yields a place for idle clients, and closes them at the end: a loop closes its generators before itself."""
    idle: deque[Connection] = deque()
    try:
        yield idle
    finally:
        await _retire(idle, 0)


async def _retire(idle: deque[Connection], most: int) -> None:
    """Closes the clients that are too many or have been idle for too long, the oldest first."""
    while idle and (len(idle) > most or idle[0].idle_since < time.monotonic() - _IDLE_SECONDS):
        await idle.popleft().http.aclose()


def forget(litellm: Any, client: object) -> None:
    """Has LiteLLM drop a client of an attempt that is over: it keeps those for Azure, and would lend them to others."""
    kept = litellm.in_memory_llm_clients_cache
    for key in [key for key, one in list(kept.cache_dict.items()) if one is client]:
        kept.delete_cache(key)


def lend_module_client(litellm: Any) -> None:
    """Has LiteLLM use the attempt's client inside our calls where it takes no other: for Ollama's embeddings."""
    litellm.module_level_aclient = _ModuleClient(litellm)


class _ModuleClient:
    """Stands in for a handler of LiteLLM's: inside our calls it is the attempt's, else one of its own."""

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
    """Stands for every category of warning, in a context that is inside `inside()`."""


@contextmanager
def inside(connection: object) -> Iterator[None]:
    """LiteLLM works in here with the connection of an attempt, and warns nobody.

    A host that runs with `-W error` would lose a good answer to a warning. Other threads, tasks and the caller's own
    code see their warnings as before, which `warnings.catch_warnings` would change for all.
    """
    if not warnings.filters or warnings.filters[0][2] is not _AnyInside:  # another filter came before it since
        warnings.simplefilter("ignore", _AnyInside)
    token = _inside.set(connection)
    try:
        yield
    finally:
        _inside.reset(token)
