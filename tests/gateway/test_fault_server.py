"""The fault server does what it says, since every test of a fault rests on it."""

from __future__ import annotations

import base64
import json
import re
import struct
import threading
import time
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
CASES = [(wire, case) for wire, cases in ERRORS.items() for case in cases]
_CLIENT = {"verify": False, "timeout": 5.0}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def _post(url: str, wire: str = "openai", **body: Any) -> httpx.Response:
    return httpx.post(url + PATHS[wire], json={"stream": False, **body}, **_CLIENT)


@pytest.mark.parametrize(("wire", "case"), CASES)
def test_an_error_has_the_shape_of_its_provider(server: FaultServer, wire: str, case: str) -> None:
    """Each error arrives with the status and body of the provider whose wire was used."""
    response = _post(server.plan("a", faults.error(case)).url, wire)
    status, body = ERRORS[wire][case]
    assert response.status_code == status
    assert response.text == body if isinstance(body, str) else response.json() == body


@pytest.mark.parametrize("form", faults.RETRY_AFTER)
def test_each_form_of_waiting_is_sent(server: FaultServer, form: str) -> None:
    """The waiting headers arrive as they are written in the table."""
    headers = faults.RETRY_AFTER[form]
    response = _post(server.plan("a", faults.error("rate_limit", headers=headers)).url)
    assert dict(headers).items() <= dict(response.headers).items()


def test_a_plan_is_played_in_order_and_its_end_repeats(server: FaultServer) -> None:
    """Replies come in the planned order; after the last one it stays with that; a new plan starts anew."""
    api = server.plan("a", faults.error("rate_limit", retry_after="2"), faults.error("server_error"), faults.good())
    assert [_post(api.url).status_code for _ in range(4)] == [429, 500, 200, 200]
    assert len(api.requests) == 4
    server.plan("a", faults.good("new"))
    assert (_post(api.url).json()["choices"][0]["message"]["content"], len(api.requests)) == ("new", 1)


def test_endpoints_do_not_see_each_other(server: FaultServer) -> None:
    """Two endpoints have two ports, plans and logs; one without a plan says so."""
    first, second = server.plan("first", faults.error("server_error")), server.plan("second", faults.good())
    assert (_post(first.url).status_code, _post(second.url).status_code) == (500, 200)
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert _post(server.plan("third").url).status_code == 599


def test_requests_are_kept_and_keys_are_masked(server: FaultServer) -> None:
    """Path, query, body and connection of each request are there; a key can be tested for, not read."""
    api = server.plan("a", faults.good())
    with httpx.Client(**_CLIENT, headers={"Authorization": "Bearer s3cret-key", "api-key": "s3cret-key"}) as client:
        client.post(api.url + PATHS["azure"], json={"a": 1})
        client.post(api.url + PATHS["openai"], content=iter([b'{"a"', b": 2}"]))
    one, two = api.requests
    assert (one.method, one.path, one.query) == (
        "POST",
        "/openai/deployments/dep/chat/completions",
        {"api-version": "2024-10-21"},
    )
    assert (one.body, two.body) == ({"a": 1}, {"a": 2})
    assert (one.connection, two.connection, api.connections) == (1, 1, 1)
    assert one.has_key("Authorization", "s3cret-key")
    assert one.has_key("api-key", "s3cret-key")
    assert not one.has_key("x-api-key", "s3cret-key")
    assert "s3cret" not in repr(api.requests)
    assert "s3cret" not in str(one.headers)


@pytest.mark.parametrize("wire", PATHS)
def test_good_answers_speak_the_wire_of_the_request(server: FaultServer, wire: str) -> None:
    """The text, the finish and the usage stand where that wire has them."""
    body = _post(server.plan("a", faults.good("Fine.", finish="length", usage=(7, 3))).url, wire).json()
    read = {
        "openai": lambda: (
            body["choices"][0]["message"]["content"],
            body["choices"][0]["finish_reason"],
            body["usage"]["prompt_tokens"],
        ),
        "anthropic": lambda: (body["content"][0]["text"], body["stop_reason"], body["usage"]["input_tokens"]),
        "ollama": lambda: (body["message"]["content"], body["done_reason"], body["prompt_eval_count"]),
        "gemini": lambda: (
            body["candidates"][0]["content"]["parts"][0]["text"],
            "length",
            body["usageMetadata"]["promptTokenCount"],
        ),
    }
    assert read.get(wire, read["openai"])() == ("Fine.", "max_tokens" if wire == "anthropic" else "length", 7)


@pytest.mark.parametrize(
    ("wire", "end"), [("openai", "[DONE]"), ("anthropic", "message_stop"), ("ollama", '"done": true')]
)
def test_streams_come_in_pieces_and_end_properly(server: FaultServer, wire: str, end: str) -> None:
    """A stream is several events that hold the text, the reasoning and an end."""
    api = server.plan("a", faults.good("one two three", reasoning="hmm"))
    text = _post(api.url, wire, stream=True, stream_options={"include_usage": True}).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line or "[DONE]" in line]
    assert len(events) > 5
    assert end in events[-1]
    assert "hmm" in text
    assert '"one' in text
    assert "12" in text


def test_schema_answers_through_a_forced_tool(server: FaultServer) -> None:
    """Where a forced tool carries the schema, the answer is that tool's input."""
    api = server.plan("a", faults.good('{"a": 1}'))
    body = _post(api.url, "anthropic", tool_choice={"type": "tool", "name": "json_tool_call"}).json()
    assert (body["content"][0]["input"], body["stop_reason"]) == ({"a": 1}, "tool_use")


def test_embeddings_in_each_form(server: FaultServer) -> None:
    """One vector a text, as floats, as base64 and in Ollama's form."""
    api = server.plan("a", faults.good(vectors=((0.5, -1.0), (2.0, 0.25))))
    url, texts = api.url, {"input": ["a", "b"]}
    data = httpx.post(f"{url}/v1/embeddings", json=texts, **_CLIENT).json()["data"]
    assert [row["embedding"] for row in data] == [[0.5, -1.0], [2.0, 0.25]]
    data = httpx.post(f"{url}/v1/embeddings", json={**texts, "encoding_format": "base64"}, **_CLIENT).json()["data"]
    assert struct.unpack("<2f", base64.b64decode(data[1]["embedding"])) == (2.0, 0.25)
    assert httpx.post(f"{url}/api/embed", json=texts, **_CLIENT).json()["embeddings"] == [[0.5, -1.0], [2.0, 0.25]]


@pytest.mark.parametrize("fault", faults.BROKEN)
@pytest.mark.parametrize("wire", ["openai", "anthropic", "ollama"])
def test_broken_connections_break(server: FaultServer, fault: str, wire: str) -> None:
    """No broken connection delivers a whole answer: the client errs, or reads a body without an end."""
    try:
        text = _post(server.plan("a", faults.BROKEN[fault]).url, wire, stream=True).text
    except httpx.TransportError:
        return
    assert fault == "cut stream, clean"
    assert not any(end in text for end in ("[DONE]", "message_stop", '"done": true'))
    assert text


@pytest.mark.parametrize("fault", faults.BAD_BODIES)
def test_bad_bodies_come_with_status_200(server: FaultServer, fault: str) -> None:
    """Each bad body is delivered as a success that holds no answer."""
    api = server.plan("a", faults.BAD_BODIES[fault])
    if fault == "broken gzip":
        with pytest.raises(httpx.DecodingError):
            _post(api.url)
        return
    response = _post(api.url)
    assert response.status_code == 200
    assert b"Hello from" not in response.content or fault == "no finish"


@pytest.mark.parametrize("wire", ["openai", "anthropic", "ollama"])
def test_no_choices_in_a_stream(server: FaultServer, wire: str) -> None:
    """The streamed form of an answer without an answer is well-formed and holds no text."""
    text = _post(server.plan("a", faults.no_choices).url, wire, stream=True).text
    assert text
    assert "Hello" not in text


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("wire", ["openai", "anthropic", "ollama"])
def test_an_error_in_a_stream_follows_the_text_before_it(server: FaultServer, wire: str, after: int) -> None:
    """The error event comes first, or after exactly so many pieces of text, and nothing follows it."""
    response = _post(server.plan("a", faults.error_in_stream(after=after)).url, wire, stream=True)
    lines = [line for line in response.text.splitlines() if "{" in line]
    assert response.status_code == 200
    assert ["error" in line for line in lines] == [False] * (len(lines) - 1) + [True]
    assert sum(bool(re.search(r'"(content|text)": "[^"]', line)) for line in lines[:-1]) == after


def test_silence_ends_with_the_client_or_the_server() -> None:
    """A silent endpoint holds the request until somebody hangs up, and closing the server frees a waiting client."""
    with FaultServer() as server:
        api = server.plan("a", faults.silent)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(api.url + PATHS["openai"], json={}, timeout=0.2, verify=False)
        errors: list[Exception] = []

        def wait() -> None:
            with pytest.raises(httpx.TransportError) as caught:
                httpx.post(api.url + PATHS["openai"], json={}, timeout=60, verify=False)
            errors.append(caught.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        while len(api.requests) < 2:
            time.sleep(0.01)
    waiting.join(30)
    assert isinstance(errors[0], httpx.RemoteProtocolError | httpx.ReadError)


def test_dripping_comes_in_single_bytes(server: FaultServer) -> None:
    """The body trickles in, so that no single read takes long; together it is a whole answer."""
    api = server.plan("a", faults.dripping(0.002, "short"))
    with httpx.stream("POST", api.url + PATHS["openai"], json={}, timeout=5, verify=False) as response:
        pieces = list(response.iter_raw())
    assert len(pieces) > 20
    assert json.loads(b"".join(pieces))["choices"][0]["message"]["content"] == "short"


def test_a_late_answer_arrives(server: FaultServer) -> None:
    """A reply can be put off."""
    api = server.plan("a", faults.late(0.2, faults.good("at last")))
    assert "at last" in _post(api.url).text


def test_a_stalled_stream_delivers_its_front(server: FaultServer) -> None:
    """The front half arrives, then nothing does."""
    api = server.plan("a", faults.stalled_stream)
    arrived: list[bytes] = []
    request = {"json": {"stream": True}, "timeout": 0.3, "verify": False}
    with httpx.stream("POST", api.url + PATHS["openai"], **request) as response:
        pieces = response.iter_raw()
        with pytest.raises(httpx.ReadTimeout):
            arrived.extend(pieces)  # keeps what came before the time-out
    assert b"data:" in b"".join(arrived)
    assert b"[DONE]" not in b"".join(arrived)


def test_a_redirect_names_the_other_place(server: FaultServer) -> None:
    """The redirect keeps the path; a client that follows it arrives at the other endpoint."""
    trap = server.plan("trap", faults.good("caught"))
    api = server.plan("a", faults.redirect(trap.url))
    response = _post(api.url)
    assert (response.status_code, response.headers["location"]) == (307, trap.url + PATHS["openai"])
    assert httpx.post(api.url + PATHS["openai"], json={}, follow_redirects=True, **_CLIENT).status_code == 200
    assert len(trap.requests) == 1


def test_refused_means_nobody_listens(server: FaultServer) -> None:
    """A refused URL and a stopped endpoint refuse the connection."""
    api = server.plan("a", faults.good())
    assert _post(api.url).status_code == 200
    api.stop()
    for url in (server.refused(), api.url):
        with pytest.raises(httpx.ConnectError):
            _post(url)


def test_a_raw_reply_is_sent_as_it_is(server: FaultServer) -> None:
    """Any status, body and header can be planned."""
    response = _post(server.plan("a", faults.raw(418, b"short and stout", "text/plain", x_tea="yes")).url)
    assert (response.status_code, response.text, response.headers["x-tea"]) == (418, "short and stout", "yes")


def test_a_good_answer_may_leave_out_its_usage_and_finish(server: FaultServer) -> None:
    """What a wire carries only sometimes can be left out in every wire and mode."""
    api = server.plan("a", faults.good(usage=None, finish=None))
    for wire in ("openai", "anthropic", "ollama"):
        for stream in (False, True):
            text = json.dumps(_post(api.url, wire, stream=stream).text)
            assert "usage" not in text
            assert "eval_count" not in text
            assert "[DONE]" not in text


def test_a_recorded_answer_of_a_real_server_can_be_played(server: FaultServer) -> None:
    """What a real Ollama server answered to other clients' mistakes is there by name."""
    response = _post(server.plan("a", faults.recorded("bad-format")).url, "ollama")
    assert response.status_code == 500
    assert "format" in response.json()["error"]
