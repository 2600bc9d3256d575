"""Cassettes replay the right answer to the right request, or fail at once."""

from __future__ import annotations

import asyncio
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import faults
import httpx
import pytest
from fault_server import Endpoint, FaultServer
from gateway_kit import DEAD
from hypothesis import given, settings
from hypothesis import strategies as st
from vcr.request import Request

from testronaut_llm.errors import CassetteMissError, ConfigError
from testronaut_llm.testing.cassette_format import body_to_field, clean_uri, field_to_body, from_yaml, to_yaml
from testronaut_llm.testing.cassettes import use_cassette

_post = partial(httpx.post, verify=False)  # reading the certificates takes longer than the test
CANARY = "canary-0123456789"


def _ask(text: str, base: str = DEAD, **more: object) -> str:
    response = _post(f"{base}/v1/chat", json={"prompt": text, "n": 1, **more})
    return str(response.json()["prompt"])


@pytest.fixture
def echo(server: FaultServer) -> Endpoint:
    return server.plan("echo", faults.echo)


@pytest.fixture
def recorded(tmp_path: Path, echo: Endpoint) -> Path:
    """A cassette of three different prompts to one URL."""
    path = tmp_path / "three.yaml"
    with use_cassette(path, mode="once", recorded_from="the echo server of the tests"):
        assert [_ask(text, echo.url) for text in ("one", "two", "three")] == ["one", "two", "three"]
    return path


async def test_replays_by_body_in_any_order_from_threads_and_tasks(recorded: Path, echo: Endpoint) -> None:
    echo.requests.clear()
    with use_cassette(recorded), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(_ask, ("two", "three", "one"))) == ["two", "three", "one"]
    with use_cassette(recorded):
        async with httpx.AsyncClient(verify=False) as client:
            posts = (client.post(f"{DEAD}/v1/chat", json={"n": 1, "prompt": text}) for text in ("two", "one", "three"))
            answers = [response.json()["prompt"] for response in await asyncio.gather(*posts)]
    assert answers == ["two", "one", "three"]
    assert echo.requests == []


def test_another_request_misses_at_once_with_the_difference(recorded: Path) -> None:
    with use_cassette(recorded, play_all=False), pytest.raises(CassetteMissError) as miss:
        _ask("twos")
    assert '- "prompt": "two"\n+ "prompt": "twos"' in str(miss.value)
    assert "--llm-record=refresh" in str(miss.value)
    with use_cassette(recorded, play_all=False, ignored=("a.b",)):
        with pytest.raises(CassetteMissError, match=r"(?m)^\+a plain text$"):
            _post(f"{DEAD}/v1/chat", content=b"a plain text")
        with pytest.raises(CassetteMissError, match="more lines"):
            _ask("one", a=[f"line {n}" for n in range(200)])
    for address in (f"{DEAD}/v1/messages", f"{DEAD}/v1/chat?api-version=1", "http://127.0.0.2:9/v1/chat"):
        with use_cassette(recorded, play_all=False), pytest.raises(CassetteMissError) as miss:
            _post(address, json={"prompt": "one", "n": 1})
        assert "is not recorded" in str(miss.value)
        assert "nearest recording is POST http://127.0.0.1/v1/chat:\n(its body is the same)" in str(miss.value)


def test_a_recording_answers_once(recorded: Path) -> None:
    request = Request("POST", f"{DEAD}/v1/chat", b'{"n": 1, "prompt": "two"}', {})
    with use_cassette(recorded, play_all=False) as cassette:
        assert cassette.can_play_response_for(request)
        _ask("two")
        with pytest.raises(CassetteMissError, match="already played"):
            _ask("two")
        with pytest.raises(CassetteMissError, match="already played"):
            cassette.play_response(request)  # by another thread that saw it free


def test_ignored_fields_may_differ_and_no_others(recorded: Path, tmp_path: Path, echo: Endpoint) -> None:
    with use_cassette(recorded, ignored=("options.num_ctx", "truncate"), play_all=False):
        assert _ask("one", truncate=False) == "one"
        with pytest.raises(CassetteMissError, match="keep_alive"):
            _ask("two", keep_alive="5m")
    path, listed = tmp_path / "list.yaml", {"messages": [{"text": "a", "images": []}, {"text": "b"}], "n": 1}
    with use_cassette(path, mode="once"):
        _post(echo.url, json=listed)
    other = {"messages": [{"text": "a"}, {"text": "b", "images": ["x"]}], "n": 1}
    with use_cassette(path, ignored=("messages.*.images", "n.*.images")):
        assert _post(DEAD, json=other).json() == listed
    with use_cassette(path, ignored=("messages.*.text",), play_all=False), pytest.raises(CassetteMissError):
        _post(DEAD, json=other)


def test_a_file_is_replaced_by_a_refresh_only_and_says_its_source(recorded: Path, echo: Endpoint) -> None:
    with use_cassette(recorded, mode="once", play_all=False), pytest.raises(CassetteMissError):
        _ask("four", echo.url)
    with use_cassette(recorded, mode="refresh", recorded_from="a later echo server"):
        _ask("four", echo.url)
    assert "recorded_from: a later echo server" in recorded.read_text()
    with use_cassette(recorded):
        assert _ask("four") == "four"
    recorded.write_text(recorded.read_text().replace("recorded_from", "made_by"))
    with pytest.raises(ConfigError, match="recorded_from"), use_cassette(recorded):
        pass


def test_what_fails_or_holds_a_secret_is_not_kept(tmp_path: Path, server: FaultServer, echo: Endpoint) -> None:
    def record(prompt: str, error: Exception | None = None) -> None:
        with use_cassette(tmp_path / "half.yaml", mode="once"):
            _ask(prompt, echo.url)
            if error:
                raise error

    untouched = httpx.HTTPTransport.handle_request
    with pytest.raises(RuntimeError):
        record("one", RuntimeError())
    with pytest.raises(ValueError, match="not saved") as refused:
        record("my key is sk-proj-abcdefghijklmnop1234")
    assert "abcdefghijklmnop" not in str(refused.value)
    packed = server.plan("packed", faults.raw(200, b"{}", content_encoding="br"))
    with pytest.raises(ValueError, match="content-encoding"), use_cassette(tmp_path / "br.yaml", mode="once"):
        _post(packed.url, json={})
    assert httpx.HTTPTransport.handle_request is untouched
    assert list(tmp_path.iterdir()) == []


def test_keeps_allowed_headers_only(tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, cookies and account ids in headers, query, zipped body and Azure host are not in the file."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    allowed = {"x-request-id": "req-1", "x-ratelimit-remaining-requests": "9"}
    private = {"openai-organization": "acme-corp", "set-cookie": f"id={CANARY}", "authorization": CANARY}
    headers = {"content-encoding": "gzip", **allowed, **private}
    body = json.dumps({"prompt": f"bad key {CANARY} of org-AbCdEf0123456789"}).encode()
    path, sent = tmp_path / "clean.yaml", {"Authorization": f"Bearer {CANARY}", "api-key": CANARY}
    keys = server.plan("keys", lambda e: e.respond(200, "application/json", gzip.compress(body), headers))
    with use_cassette(path, mode="once"):
        _post(f"{keys.url}/v1/chat?api-version=2024-10-21&api-key={CANARY}", json={"prompt": "hi"}, headers=sent)
    text = path.read_text()
    assert [word for word in ("canary", "acme", "AbCdEf") if word in text] == []
    assert from_yaml(text)["recorded_from"] == "127.0.0.1"
    data = from_yaml(text)["interactions"][0]
    assert data["request"]["uri"] == "http://127.0.0.1/v1/chat?api-version=2024-10-21&api-key=REDACTED"
    assert set(data["request"]["headers"]) == {"accept", "content-type"}
    assert set(data["response"]["headers"]) == {"content-type", *allowed}
    assert data["response"]["json"] == {"prompt": "bad key REDACTED of org-REDACTED"}
    azure = "openai.azure.com/openai/v1/models"
    assert clean_uri(f"https://acme-prod.{azure}") == f"https://resource.{azure}"
    assert clean_uri("https://api.openai.com:8443/v1") == "https://api.openai.com:8443/v1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
@settings(max_examples=30, deadline=None)
def test_every_body_survives_the_file(body: bytes) -> None:
    back = field_to_body(from_yaml(to_yaml(body_to_field(body))))
    assert back == body or json.dumps(json.loads(back)) == json.dumps(json.loads(body))


def test_what_json_cannot_say_twice_stays_text() -> None:
    """A body that parsing would change is stored as text; events are on separate lines, vectors on one."""
    for body in (b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b'{"a": "\\ud800"}', b"[" * 5000, b"7"):
        assert body_to_field(body) == {"text": body.decode()}
    text = to_yaml({"text": "data: {}\n\ndata: [DONE]\n\n", "vector": [0.5, 1.0, -2], "end": 1})
    assert text == "text: |+\n  data: {}\n\n  data: [DONE]\n\nvector: [0.5, 1.0, -2]\nend: 1\n"
