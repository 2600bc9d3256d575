"""Our HTTP clients: one request an attempt, limited bodies, closed old connections, no key kept."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import faults
import httpx
import pytest
from fault_server import Exchange as Served
from fault_server import FaultServer
from gateway_kit import request, target

from testronaut_llm.gateway import clients as clients_module
from testronaut_llm.gateway.clients import Clients, Connection
from testronaut_llm.gateway.exchange import Exchange, SecondRequestError
from testronaut_llm.gateway.gateway import Gateway, load_litellm
from testronaut_llm.support.http_body import MOST_BYTES, MOST_PARTS, BodyError, bounded


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Exchange]]:
    connection, exchange = Connection(url), Exchange()
    connection.begin(exchange)
    async with connection.http as http:
        yield http, exchange
        await exchange.aclose()


async def test_an_attempt_sends_one_request(server: FaultServer) -> None:
    """A retry below the gateway is stopped before it sends, and so are tasks that outlive their attempt."""
    api, connection, exchange = server.plan("a", faults.good()), Connection("http://a"), Exchange()
    connection.begin(exchange)
    async with connection.http as http:
        await http.post(api.url)
        for end in (lambda: None, connection.end):
            end()
            with pytest.raises(SecondRequestError):
                await http.post(api.url)
    assert len(api.requests) == exchange.requests == 1


EVENT = b"data: " + b"x" * 1000 + b"\n\n"
SHORT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'

BODIES: dict[str, tuple[int, dict[str, Any], bytes, str]] = {
    "long error": (500, {}, b"x" * 65_537, "larger than 65,536 bytes"),
    "answer": (200, {"messages": []}, b" " * (2**24 - 2) + b"{}", ""),
    "long answer": (200, {"messages": []}, b"x" * (2**24 + 1), "larger than 16,777,216 bytes"),
    "too many vectors": (200, {"input": ["a"]}, b"x" * (MOST_BYTES + 1), "larger than 67,108,864"),
    "long vectors": (200, {"input": ["a"] * 3}, b"[" + b"1," * 40_000 + b"1]", ""),
    "too long vectors": (200, {"input": ["a"] * 2}, b"1," * 40_000, "16,384 numbers a text"),
    "too many parts": (200, {}, b"{" * (MOST_PARTS + 1), "more than 250,000 lists and objects"),
    "many short events": (200, {"stream": True}, SHORT * 300_000, ""),
    "dense lines": (200, {"stream": True}, b'{"a": [{}, {}]}\n' * 200_000, "lists and objects"),
    "stream with comments": (200, {"stream": True}, (b": here\n" * 1000 + EVENT) * 300, ""),
    "no data": (200, {"stream": True}, EVENT + b"event: ping\n\n" * 90_000, "without an event"),
    "event without end": (200, {"stream": True}, b"data: " + b"x" * 2**20, "without an event"),
}


@pytest.mark.parametrize("case", BODIES)
async def test_bodies_are_bounded(server: FaultServer, case: str) -> None:
    status, sent, body, refusal = BODIES[case]
    packed = case in ("too many vectors", "no data")
    headers = {"content_encoding": "gzip"} if packed else {}
    api = server.plan("a", faults.raw(status, gzip.compress(body) if packed else body, **headers))
    async with connected(api.url) as (http, exchange):
        exchange.texts = len(sent.get("input", ()))
        if not refusal:
            passed_on = (await http.post(api.url, json=sent)).content
            assert exchange.body == body
            assert passed_on == body or len(body) > 16 * 1024
        else:
            with pytest.raises(BodyError, match=refusal):
                await http.post(api.url, json=sent)
    assert isinstance(exchange.broke, BodyError) == bool(refusal)
    assert len(exchange.body) <= MOST_BYTES


async def test_one_layer_of_gzip_or_deflate_is_unpacked(server: FaultServer) -> None:
    once = gzip.compress(b"words")
    for encoding, body, found in (
        ("GZIP ", once + b"what follows" * 9000, "words"),
        ("deflate", zlib.compress(b"words"), "words"),
        ("identity", b"words", "words"),
        ("gzip", b"", ""),
        ("gzip", b"no gzip", None),
        ("gzip, gzip", gzip.compress(once), None),
        ("br", b"words", None),
    ):
        api = server.plan("a", faults.raw(200, body, content_encoding=encoding))
        with contextlib.nullcontext() if found is not None else pytest.raises(BodyError):
            async with connected(api.url) as (client, exchange):
                assert (await client.post(api.url)).text == exchange.text == found


async def test_a_packed_body_does_not_hold_up_the_event_loop() -> None:
    """Other tasks run between the pieces of one large chunk."""
    headers, turns = {"content-encoding": "gzip"}, 0
    body = bounded(httpx.Response(200, headers=headers, content=gzip.compress(EVENT * 5000)))

    async def read() -> list[bytes]:
        return [piece async for piece in body]

    reading = asyncio.create_task(read())
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(await reading) > 50
    assert turns > 50


async def test_a_stream_is_known_by_its_type(server: FaultServer) -> None:
    """Gemini streams by its URL, not by a field of the request."""

    def begin(served: Served) -> None:
        served.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        served.chunk(SHORT)
        served.wait()

    api = server.plan("a", begin)
    async with connected(api.url) as (http, _), http.stream("POST", api.url, json={}) as response:
        assert await anext(response.aiter_raw()) == SHORT


def taken(clients: Clients, url: str) -> contextlib.AbstractAsyncContextManager[Connection]:
    return clients.connection(target("anthropic", url), Exchange(), embedding=False)


async def used(clients: Clients, url: str = "http://c") -> Connection:
    async with taken(clients, url) as connection:
        connection.http.cookies.set("session", "of one account")
    return connection


async def test_clients_are_used_again_and_retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client serves the next attempt at its endpoint, without cookies; surplus and idle ones are closed."""
    monkeypatch.setattr(clients_module, "_MOST_IDLE", 2)
    clients = Clients()
    a, b, c, again = [await used(clients, f"http://{host}") for host in "abcc"]
    assert c is again
    assert not c.http.cookies
    assert [one.http.is_closed for one in (a, b, c)] == [True, False, False]
    b.idle_since -= 61
    await used(clients)
    assert [one.http.is_closed for one in (b, c)] == [True, False]
    async with taken(clients, "http://c"):
        await clients.close()
        assert not c.http.is_closed
    assert c.http.is_closed


def test_another_event_loop_has_clients_of_its_own() -> None:
    clients = Clients()
    assert asyncio.run(used(clients)) is not asyncio.run(used(clients))


def _parts(thing: object, depth: int = 3) -> object:
    inner = thing if isinstance(thing, dict) else getattr(thing, "__dict__", None)
    if inner is None or not depth:
        return thing
    return {name: _parts(value, depth - 1) for name, value in inner.items()}


@pytest.mark.parametrize("wire", ["openai", "azure", "azure v1"])
async def test_a_rotated_key_leaves_none_behind(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, wire: str
) -> None:
    api, gateway, made = server.plan("a", faults.good()), Gateway(str), []
    client = Connection.client
    monkeypatch.setattr(Connection, "client", lambda *a, **k: made.append(new := client(*a, **k)) or new)
    header = "api-key" if wire == "azure" else "authorization"
    for key in ("sk-rotated-1", "sk-rotated-2"):
        to = target(wire, api.url, key=key)
        *_, reply = [part async for part in gateway.send(request(to), Exchange())]
        assert reply.error is None
        assert api.requests[-1].has_key(header, key)
        assert "sk-rotated" not in repr(_parts(made[-1]))
        assert made[-1] not in load_litellm().in_memory_llm_clients_cache.cache_dict.values()
    assert made[0] is made[1]
    assert api.connections == 1
    await gateway.aclose()
