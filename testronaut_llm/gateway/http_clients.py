"""The HTTP clients that LiteLLM is handed, kept open between attempts.

A client belongs to one event loop and closes with it: it hangs on an async generator, which `asyncio.run`
closes at its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from testronaut_llm.gateway.exchange import Exchange, async_client, current
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.gateway.sdk_clients import Key, key_of, lent, sdk_client

_MOST_IDLE = 64  # async clients of one endpoint that are kept open


@dataclass(slots=True)
class _Loop:
    """The clients of one event loop; `life` closes them when the loop ends."""

    life: AsyncGenerator[None, None]
    idle: dict[Key, list[tuple[Any, Any]]] = field(default_factory=dict)


class Clients:
    """Clients of one manager, by event loop, endpoint and key.

    Each serves one attempt at a time: what httpcore does to share out the connections of one client grows
    with the square of their number.
    """

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    @asynccontextmanager
    async def lend(
        self, litellm: Any, target: Target, exchange: Exchange, *, embedding: bool = False
    ) -> AsyncIterator[Any]:
        """A client of this loop for one attempt; requests of this task belong to `exchange` from now on."""
        idle = (await self._here()).idle
        key = key_of(target, embedding=embedding)
        clients = idle.setdefault(key, [])
        http, client = clients.pop() if clients else self._new(litellm, target, key)
        current.set(exchange)
        lent.set(client)
        try:
            yield client
        finally:
            if key in idle and len(clients) < _MOST_IDLE:
                clients.append((http, client))
            else:  # all were closed meanwhile, or a crowd has gone
                await http.aclose()

    async def close(self) -> None:
        """Closes the clients of the running loop; those in use close when they come back."""
        here = self._loops.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.life.aclose()

    async def _here(self) -> _Loop:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            idle: dict[Key, list[tuple[Any, Any]]] = {}
            here = self._loops[loop] = _Loop(life=_life(idle), idle=idle)
            await anext(here.life)
        return here

    def _new(self, litellm: Any, target: Target, key: Key) -> tuple[Any, Any]:
        http = async_client(target.api_base)
        return http, sdk_client(litellm, target, key, http)


async def _life(idle: dict[Key, list[tuple[Any, Any]]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        while idle:
            for http, _ in idle.popitem()[1]:
                await http.aclose()
