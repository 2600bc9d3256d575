"""The fault server does what it says, since every test of a fault relies on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import faults
import httpx
import pytest
from error_bodies import ERRORS
from fault_server import FaultServer

PATHS = {
    "openai": "/v1/chat/completions",
    "azure": "/openai/deployments/dep/chat/completions?api-version=2024-10-21",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
    "gemini": "/v1beta/models/a-model:generateContent",
}
ENDS = {"openai": "[DONE]", "anthropic": "message_stop", "ollama": '"done": true'}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def _post(url: str, wire: str = "openai", **body: Any) -> httpx.Response:
    return httpx.post(url + PATHS[wire], json={"stream": False, **body}, verify=False, timeout=5.0)


@pytest.mark.parametrize("wire", ERRORS)
def test_an_error_has_the_shape_of_its_provider(server: FaultServer, wire: str) -> None:
    """Each error arrives with the status and body of the provider whose wire was used."""
    for case, (status, body) in ERRORS[wire].items():
        response = _post(server.plan("a", faults.error(case)).url, wire)
        assert response.status_code == status
        assert response.text == body if isinstance(body, str) else response.json() == body


def test_a_plan_is_played_in_order_and_its_end_repeats(server: FaultServer) -> None:
    """Replies come in the planned order; after the last one it stays with that; each endpoint has its own plan."""
    api = server.plan("a", faults.error("rate_limit", retry_after="2"), faults.error("server_error"), faults.good())
    assert [_post(api.url).status_code for _ in range(4)] == [429, 500, 200, 200]
    assert len(api.requests) == 4
    server.plan("a", faults.good("new"))
    assert (_post(api.url).json()["choices"][0]["message"]["content"], len(api.requests)) == ("new", 1)
    assert _post(server.plan("without a plan").url).status_code == 599


def test_requests_are_kept_and_keys_are_masked(server: FaultServer) -> None:
    """Path, query, body and connection of each request are there; a key can be tested for, not read."""
    api = server.plan("a", faults.good())
    with httpx.Client(verify=False, headers={"Authorization": "Bearer s3cret-key"}) as client:
        client.post(api.url + PATHS["azure"], json={"a": 1})
        client.post(api.url + PATHS["openai"], content=iter([b'{"a"', b": 2}"]))
    one, two = api.requests
    assert (one.method, one.path, one.query) == ("POST", PATHS["azure"].split("?")[0], {"api-version": "2024-10-21"})
    assert (one.body, two.body) == ({"a": 1}, {"a": 2})
    assert (one.connection, two.connection, api.connections) == (1, 1, 1)
    assert one.has_key("Authorization", "s3cret-key")
    assert not one.has_key("x-api-key", "s3cret-key")
    assert "s3cret" not in repr(api.requests) + str(one.headers)


@pytest.mark.parametrize("wire", ENDS)
def test_good_answers_speak_the_wire_of_the_request(server: FaultServer, wire: str) -> None:
    """Whole or streamed, the text, the reasoning and an end are there; usage and finish may be left out."""
    api = server.plan("a", faults.good("one two three", reasoning="hmm"))
    assert "one two three" in _post(api.url, wire).text
    text = _post(api.url, wire, stream=True, stream_options={"include_usage": True}).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line or "[DONE]" in line]
    assert len(events) > 5
    assert ENDS[wire] in events[-1]
    assert "hmm" in text
    api = server.plan("a", faults.good(usage=None, finish=None))
    for stream in (False, True):
        text = json.dumps(_post(api.url, wire, stream=stream).text)
        assert not any(word in text for word in ("usage", "eval_count", "[DONE]"))


@pytest.mark.parametrize("wire", ENDS)
@pytest.mark.parametrize("fault", faults.BROKEN)
def test_broken_connections_break(server: FaultServer, fault: str, wire: str) -> None:
    """No broken connection delivers a whole answer: the client errs, or reads a body without an end."""
    try:
        text = _post(server.plan("a", faults.BROKEN[fault]).url, wire, stream=True).text
    except httpx.TransportError:
        return
    assert fault == "cut stream, clean"
    assert text
    assert ENDS[wire] not in text


def test_slow_answers_are_slow(server: FaultServer) -> None:
    """A silent endpoint says nothing, a stalled one stops half-way, a dripping one comes in single bytes."""
    for fault, front in ((faults.silent, b""), (faults.stalled_stream, b"data:")):
        arrived: list[bytes] = []
        url = server.plan("a", fault).url + PATHS["openai"]
        with (
            pytest.raises(httpx.ReadTimeout),
            httpx.stream("POST", url, json={"stream": True}, timeout=0.2, verify=False) as response,
        ):
            arrived.extend(response.iter_raw())
        assert b"".join(arrived).startswith(front)
    url = server.plan("a", faults.dripping(0.002, "short")).url + PATHS["openai"]
    with httpx.stream("POST", url, json={}, timeout=5, verify=False) as response:
        pieces = list(response.iter_raw())
    assert len(pieces) > 20
    assert json.loads(b"".join(pieces))["choices"][0]["message"]["content"] == "short"
