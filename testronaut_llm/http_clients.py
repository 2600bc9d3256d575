"""The HTTP clients that LiteLLM is handed: kept open between attempts, closed when one is abandoned.

A sync client serves one attempt at a time, so that closing it ends that attempt's thread and nobody
else's. An async client serves one event loop and closes with it: it hangs on an async generator,
which `asyncio.run` closes at its end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from testronaut_llm.exchange import Exchange, SyncClient, async_client, current
from testronaut_llm.model_request import Target
from testronaut_llm.sdk_clients import Key, key_of, lent, sdk_client


class SyncClients:
    """Idle clients of one manager, by endpoint and key; safe for threads and after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Key, list[tuple[Any, Any]]] = {}
        self._pid = os.getpid()
        self._closed = False

    @contextmanager
    def lend(self, litellm: Any, target: Target, exchange: Exchange, *, embedding: bool = False) -> Iterator[Any]:
        """A client for one attempt; requests made inside belong to `exchange`."""
        key = key_of(target, embedding=embedding)
        http, client = self._take(key) or self._new(litellm, target, key)
        exchange.on_abandon(http.abort)
        tokens = current.set(exchange), lent.set(client)
        try:
            yield client
        finally:
            with suppress(ValueError):  # a generator closed by another thread: that context is gone
                current.reset(tokens[0])
                lent.reset(tokens[1])
            self._put_back(key, http, client, usable=not exchange.abandoned and exchange.broke is None)

    def close(self) -> None:
        """Closes the idle clients; those in use close when they come back."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, {}, True
        for clients in idle.values():
            for http, _ in clients:
                http.close()

    def _new(self, litellm: Any, target: Target, key: Key) -> tuple[Any, Any]:
        http = SyncClient(target.api_base)
        return http, sdk_client(litellm, target, key, http)

    def _take(self, key: Key) -> tuple[Any, Any] | None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._idle = os.getpid(), {}
            clients = self._idle.get(key)
            return clients.pop() if clients else None

    def _put_back(self, key: Key, http: Any, client: Any, *, usable: bool) -> None:
        with self._lock:
            if usable and not self._closed:
                self._idle.setdefault(key, []).append((http, client))
                return
        http.close()


class AsyncClients:
    """Clients of one manager, by event loop, endpoint and key."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Key, tuple[Any, Any]]] = WeakKeyDictionary()
        self._lives: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = WeakKeyDictionary()

    async def lend(self, litellm: Any, target: Target, exchange: Exchange, *, embedding: bool = False) -> Any:
        """The client of this loop; requests of this task belong to `exchange` from now on."""
        loop = asyncio.get_running_loop()
        clients = self._loops.get(loop)
        if clients is None:
            clients = self._loops[loop] = {}
            self._lives[loop] = _life(clients)
            await anext(self._lives[loop])
        key = key_of(target, embedding=embedding)
        if key not in clients:
            http = async_client(target.api_base)
            clients[key] = http, sdk_client(litellm, target, key, http)
        current.set(exchange)
        lent.set(clients[key][1])
        return clients[key][1]

    async def close(self) -> None:
        """Closes the clients of the running loop."""
        life = self._lives.pop(asyncio.get_running_loop(), None)
        self._loops.pop(asyncio.get_running_loop(), None)
        if life is not None:
            await life.aclose()


async def _life(clients: dict[Key, tuple[Any, Any]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        for http, _ in clients.values():
            await http.aclose()
        clients.clear()
