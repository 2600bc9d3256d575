"""The locks on our HTTP clients: one request an attempt, bounded bodies, no redirect, no proxy for loopback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import faults
import httpx
import pytest
from fault_server import FaultServer

from testronaut_llm.transport.exchange import (
    BodyTooLargeError,
    Exchange,
    SecondRequestError,
    async_client,
    current,
)


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


@pytest.mark.parametrize(
    ("status", "stream", "body", "fits"),
    [
        (500, False, b"x" * 65_536, True),
        (500, False, b"x" * (65_536 + 1), False),
        (200, True, b"x" * (1_048_576 + 1), False),
        (200, True, (b"x" * 1000 + b"\n") * 2000, True),
        (200, False, b"x" * (1_048_576 + 1), True),
    ],
)
async def test_bodies_are_bounded(
    server: FaultServer, exchange: Exchange, status: int, stream: bool, body: bytes, fits: bool
) -> None:
    """An error's body and one line of a stream are not read for ever; a long answer in many lines is."""
    api = server.plan("a", faults.raw(status, body))
    async with async_client(api.url) as client:
        if fits:
            assert (await client.post(api.url, json={"stream": stream})).content == body
            assert exchange.broke is None
        else:
            with pytest.raises(BodyTooLargeError):
                await client.post(api.url, json={"stream": stream})
            assert isinstance(exchange.broke, BodyTooLargeError)


@pytest.mark.parametrize(("body", "text"), [(gzip.compress(b"words", mtime=0), "words"), (b"no gzip", ""), (b"", "")])
def test_packed_bodies_are_unpacked(body: bytes, text: str) -> None:
    """What calls itself gzip is unpacked; what is broken is nothing."""
    assert Exchange(headers={"content-encoding": "gzip"}, body=bytearray(body)).text == text


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
