"""The locks on our HTTP clients: one request an attempt, bounded bodies, no redirect, no proxy for loopback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import Iterator

import faults
import httpx
import pytest
from fault_server import FaultServer

from testronaut_llm.gateway.exchange import (
    Exchange,
    SecondRequestError,
    async_client,
    current,
)
from testronaut_llm.support.http_body import MOST_BYTES, MOST_PARTS, BodyError, bounded


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """The attempt that the requests of this test belong to."""
    token = current.set(made := Exchange())
    yield made
    current.reset(token)


async def test_a_second_request_of_one_attempt_is_refused(server: FaultServer, exchange: Exchange) -> None:
    """Whatever asks again by itself below us is stopped before it sends."""
    api = server.plan("a", faults.good())
    async with async_client(api.url) as client:
        await client.post(f"{api.url}/v1/chat/completions", json={})
        with pytest.raises(SecondRequestError):
            await client.post(f"{api.url}/v1/chat/completions", json={})
    assert len(api.requests) == exchange.requests == 1


async def test_requests_of_nobody_are_left_alone(server: FaultServer) -> None:
    """Outside an attempt the hooks do nothing."""
    api = server.plan("a", faults.good())
    async with async_client(api.url) as client:
        assert [(await client.post(api.url)).status_code for _ in range(2)] == [200, 200]


async def test_what_was_sent_and_came_is_kept(server: FaultServer, exchange: Exchange) -> None:
    """Status, headers and the raw body, and the JSON that left; a body that is none is None."""
    api = server.plan("a", faults.raw(200, b'{"a": 1}', x_note="y"))
    async with async_client(api.url) as client:
        await client.post(api.url, content=b"no json")
    assert exchange.sent is None
    assert (exchange.status, exchange.headers["x-note"], exchange.text) == (200, "y", '{"a": 1}')


MIB = 2**20
EVENT = b"data: " + b"x" * 1000 + b"\n\n"


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("status", "sent", "body", "refusal"),
    [
        pytest.param(500, {}, b"x" * 65_536, None, id="error"),
        pytest.param(500, {}, b"x" * (65_536 + 1), "larger than 65,536 bytes", id="long error"),
        pytest.param(200, {"messages": []}, b"x" * 16 * MIB, None, id="answer"),
        pytest.param(200, {"messages": []}, b"x" * (16 * MIB + 1), "larger than 16,777,216 bytes", id="long answer"),
        pytest.param(200, {"input": []}, b"x" * (16 * MIB + 1), None, id="vectors"),
        pytest.param(200, {"input": []}, b"x" * (MOST_BYTES + 1), "larger than 67,108,864", id="too many vectors"),
        pytest.param(200, {}, b"[" * MOST_PARTS, None, id="parts"),
        pytest.param(200, {}, b"{" * (MOST_PARTS + 1), "more than 250,000 lists and objects", id="too many parts"),
        pytest.param(200, {"stream": True}, EVENT * 2000, None, id="stream"),
        pytest.param(200, {"stream": True}, b'{"a": [{}, {}]}\n' * 100_000, None, id="NDJSON with many parts"),
        pytest.param(200, {"stream": True}, (b": here\n" * 1000 + EVENT) * 300, None, id="stream with comments"),
        pytest.param(200, {"stream": True}, EVENT + b": here\n" * 160_000, "without an event", id="comments"),
        pytest.param(200, {"stream": True}, EVENT + b"\r\n" * 600_000, "without an event", id="empty lines"),
        pytest.param(200, {"stream": True}, EVENT + b"event: ping\n\n" * 90_000, "without an event", id="no data"),
        pytest.param(200, {"stream": True}, b"data: " + b"x" * MIB, "without an event", id="event without end"),
    ],
)
async def test_bodies_are_bounded(
    server: FaultServer,
    exchange: Exchange,
    status: int,
    sent: dict[str, object],
    body: bytes,
    refusal: str | None,
    packed: bool,
) -> None:
    """What a body becomes is bounded, however it is packed; no more than that is kept, and a long honest one passes."""
    answer = faults.raw(status, gzipped(body), content_encoding="gzip") if packed else faults.raw(status, body)
    api = server.plan("a", answer)
    if refusal is None:
        assert (await posted(api.url, sent)).content == body
        assert exchange.broke is None
        assert exchange.body == body
    else:
        with pytest.raises(BodyError, match=refusal):
            await posted(api.url, sent)
        assert isinstance(exchange.broke, BodyError)
    assert len(exchange.body) <= MOST_BYTES


async def posted(url: str, sent: object) -> httpx.Response:
    async with async_client(url) as client:
        return await client.post(url, json=sent)


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(body) + packing.flush()


@pytest.mark.parametrize(
    ("encoding", "body", "found"),
    [
        ("gzip", gzipped(b"words"), "words"),
        ("GZIP ", gzipped(b"words"), "words"),
        ("x-gzip", gzipped(b"words"), "words"),
        ("deflate", zlib.compress(b"words"), "words"),
        ("deflate", raw_deflate(b"words"), "words"),
        ("identity", b"words", "words"),
        ("gzip", b"", ""),
        ("gzip", gzipped(b"words") + b"what follows" * 9000, "words"),
        ("gzip", b"no gzip", BodyError),
        ("deflate", b"\xff no deflate", BodyError),
        ("gzip, gzip", gzipped(gzipped(b"words")), BodyError),
        ("deflate, gzip", gzipped(zlib.compress(b"words")), BodyError),
        ("br", b"words", BodyError),
        ("zstd", b"words", BodyError),
        ("compress", b"words", BodyError),
        ("identity, gzip", gzipped(b"words"), BodyError),
    ],
)
@pytest.mark.parametrize("client", ["an attempt", "nobody", "sync"])
async def test_packed_bodies_are_unpacked_once(
    server: FaultServer, exchange: Exchange, encoding: str, body: bytes, found: str | type[BodyError], client: str
) -> None:
    """One layer of gzip or deflate is undone; chains, other packings and what is broken are refused."""
    api = server.plan("a", faults.raw(200, body, content_encoding=encoding))
    token = current.set(exchange if client == "an attempt" else None)
    refused = contextlib.nullcontext() if isinstance(found, str) else pytest.raises(found)
    try:
        with refused:
            assert await posted_by(client, api.url) == found
            assert exchange.text == (found if client == "an attempt" else "")
    finally:
        current.reset(token)


async def posted_by(client: str, url: str) -> str:
    if client == "sync":
        with httpx.Client(event_hooks={"response": [bounded]}) as http:
            return http.post(url).text  # noqa: ASYNC212 - the sync clients have the same hook
    return (await posted(url, {})).text


async def test_a_packed_stream_does_not_hold_up_the_event_loop(server: FaultServer) -> None:
    """One packed chunk can hold minutes of work: others have their turn between its pieces."""
    api = server.plan("a", faults.raw(200, gzipped(b"data: 1\n\n" * 500_000), content_encoding="gzip"))
    turns: list[int] = []

    async def other() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async with async_client(api.url) as client, client.stream("POST", api.url) as response:
        pieces = response.aiter_raw()
        await anext(pieces)
        task = asyncio.create_task(other())
        assert sum([1 async for _ in pieces]) > 50
        task.cancel()
    assert len(turns) > 50


async def test_no_redirect_and_no_proxy_to_loopback(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment never sees what goes to this machine, and a redirect is an answer like any other."""
    monkeypatch.setenv("HTTP_PROXY", server.refused())
    other = server.plan("other", faults.good())
    api = server.plan("a", faults.redirect(other.url))
    async with async_client(api.url) as client:
        assert (await client.post(api.url, json={})).status_code == 307
    assert not other.requests
    async with async_client("http://models.example.com") as client:
        with pytest.raises(httpx.ConnectError):
            await client.post("http://models.example.com", json={})  # goes to the proxy, which refuses it
