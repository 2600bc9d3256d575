"""Cassettes: the right answer to the right request, or a failure at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from http_echo import EchoServer
from hypothesis import given
from hypothesis import strategies as st
from vcr.request import Request

from testronaut_llm.errors import CassetteMissError, ConfigError
from testronaut_llm.testing.cassette_format import body_to_field, field_to_body, from_yaml, parse_json, to_yaml
from testronaut_llm.testing.cassettes import UnplayedRecordingError, cassette_miss_in, use_cassette

_post = partial(httpx.post, verify=False)  # reading the certificates takes longer than the test
DEAD = "http://127.0.0.1:9"  # nothing listens there: an answer can only come from the cassette


def _ask(text: str, base: str = DEAD, **more: object) -> str:
    response = _post(f"{base}/v1/chat", json={"prompt": text, "n": 1, **more})
    return str(response.json()["prompt"])


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def recorded(tmp_path: Path, server: EchoServer) -> Path:
    """A cassette of three different prompts to one URL."""
    path = tmp_path / "three.yaml"
    with use_cassette(path, mode="once", recorded_from="the echo server of the tests"):
        assert [_ask(text, server.url) for text in ("one", "two", "three")] == ["one", "two", "three"]
    return path


def test_replays_by_body_in_any_order_without_the_server(recorded: Path, server: EchoServer) -> None:
    """Each prompt gets its own answer, whatever the order, and no request reaches the server."""
    before = server.requests
    with use_cassette(recorded):
        assert [_ask(text) for text in ("three", "one", "two")] == ["three", "one", "two"]
    assert server.requests == before


def test_replays_concurrently_in_threads(recorded: Path) -> None:
    """Threads that ask at once do not get each other's answers."""
    with use_cassette(recorded), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(_ask, ("two", "three", "one"))) == ["two", "three", "one"]


async def test_a_sync_recording_replays_async_and_concurrently(recorded: Path) -> None:
    """What a sync client recorded, an async one can replay, all at once."""
    with use_cassette(recorded):
        async with httpx.AsyncClient(verify=False) as client:
            posts = (client.post(f"{DEAD}/v1/chat", json={"n": 1, "prompt": text}) for text in ("two", "one", "three"))
            answers = [response.json()["prompt"] for response in await asyncio.gather(*posts)]
    assert answers == ["two", "one", "three"]


def test_a_changed_word_misses_at_once_with_a_diff(recorded: Path) -> None:
    """A request that differs in one word is a miss, shown beside the nearest recording."""
    with use_cassette(recorded, play_all=False), pytest.raises(CassetteMissError) as miss:
        _ask("twos")
    message = str(miss.value)
    assert "recording 2 of 3" in message
    assert "-  prompt: two\n+  prompt: twos" in message
    assert "--llm-record=refresh" in message


def test_another_path_or_query_misses(recorded: Path) -> None:
    """The same body at another address is another request."""
    for address in (f"{DEAD}/v1/messages", f"{DEAD}/v1/chat?api-version=1", "http://127.0.0.2:9/v1/chat"):
        with use_cassette(recorded, play_all=False), pytest.raises(CassetteMissError, match="is not recorded"):
            _post(address, json={"prompt": "one", "n": 1})


def test_a_recording_answers_once(recorded: Path) -> None:
    """The same request a second time is a miss that says so, in one thread or in many."""
    with use_cassette(recorded, play_all=False):
        _ask("one")
        with pytest.raises(CassetteMissError, match="already played"):
            _ask("one")
    with use_cassette(recorded, play_all=False), ThreadPoolExecutor(8) as pool:
        results = [pool.submit(_ask, "two") for _ in range(8)]
    assert sum(result.exception() is None for result in results) == 1
    assert {type(result.exception()) for result in results} == {type(None), CassetteMissError}


def test_two_threads_that_both_saw_it_free_do_not_share_it(recorded: Path) -> None:
    """The second of two threads that raced for one recording gets a miss, not a strange error."""
    request = Request("POST", f"{DEAD}/v1/chat", b'{"n": 1, "prompt": "one"}', {})
    with use_cassette(recorded, play_all=False) as cassette:
        assert cassette.can_play_response_for(request)
        cassette.play_response(request)
        with pytest.raises(CassetteMissError, match="already played"):
            cassette.play_response(request)


def test_a_long_diff_is_cut_and_a_body_that_is_no_json_is_compared_as_text(tmp_path: Path, server: EchoServer) -> None:
    """The message stays readable, whatever the bodies are."""
    path = tmp_path / "text.yaml"
    with use_cassette(path, mode="once"):
        _post(server.url, content=b"a plain text")
        _post(server.url, content=b"\xff\x00 no text at all")
    with use_cassette(path, play_all=False, ignored=("a.b",)):
        assert _post(DEAD, content=b"\xff\x00 no text at all").content == b"\xff\x00 no text at all"
        with pytest.raises(CassetteMissError, match="-text: a plain text"):
            _post(DEAD, content=b"a plain tale")
        with pytest.raises(CassetteMissError, match="more lines"):
            _post(DEAD, json={"a": [f"line {n}" for n in range(200)]})


def test_an_unplayed_recording_fails(recorded: Path) -> None:
    """A recording that nobody asked for is an error that names it."""
    with (
        pytest.raises(UnplayedRecordingError, match=r"never asked for: POST /v1/chat, POST /v1/chat"),
        use_cassette(recorded),
    ):
        _ask("one")


def test_no_cassette_is_a_miss(tmp_path: Path, server: EchoServer) -> None:
    """Without a file there is nothing to replay, and the live server is not asked either."""
    with use_cassette(tmp_path / "none.yaml"), pytest.raises(CassetteMissError, match="does not exist"):
        _ask("one", server.url)
    assert server.requests == 0


def test_ignored_fields_may_differ_and_no_others(recorded: Path) -> None:
    """A field that the test names is left out of the match; one that it does not name is not."""
    with use_cassette(recorded, ignored=("options.num_ctx", "truncate"), play_all=False):
        assert _ask("one", truncate=False) == "one"
        with pytest.raises(CassetteMissError, match="keep_alive"):
            _ask("two", keep_alive="5m")
    with use_cassette(recorded, ignored=("n.deeper", "prompt"), play_all=False):
        assert _ask("anything") == "one"


def test_a_field_of_each_item_of_a_list_can_be_ignored(tmp_path: Path, server: EchoServer) -> None:
    """`messages.*.images` leaves the field out of every message, and out of nothing else."""
    path, recorded = tmp_path / "list.yaml", {"messages": [{"text": "a", "images": []}, {"text": "b"}], "n": 1}
    with use_cassette(path, mode="once"):
        _post(server.url, json=recorded)
    with use_cassette(path, ignored=("messages.*.images", "n.*.images")):
        assert (
            _post(DEAD, json={"messages": [{"text": "a"}, {"text": "b", "images": ["x"]}], "n": 1}).json() == recorded
        )
    with use_cassette(path, ignored=("messages.*.images",), play_all=False), pytest.raises(CassetteMissError):
        _post(DEAD, json={"messages": [{"text": "a"}, {"text": "c"}], "n": 1})


def test_once_keeps_the_recording_and_refresh_replaces_it(recorded: Path, server: EchoServer) -> None:
    """`once` never adds to a file that is there; `refresh` forgets what was in it."""
    with use_cassette(recorded, mode="once", play_all=False), pytest.raises(CassetteMissError):
        _ask("four", server.url)
    with use_cassette(recorded, mode="refresh", recorded_from="a later echo server"):
        _ask("four", server.url)
    with use_cassette(recorded):
        assert _ask("four") == "four"
    assert "recorded_from: a later echo server" in recorded.read_text()


def test_a_failed_recording_is_not_kept(tmp_path: Path, server: EchoServer) -> None:
    """A block that fails leaves no half cassette behind."""

    def record() -> None:
        with use_cassette(tmp_path / "half.yaml", mode="once"):
            _ask("one", server.url)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        record()
    assert list(tmp_path.iterdir()) == []


def test_says_where_it_came_from(tmp_path: Path, server: EchoServer) -> None:
    """A recording without a note names the host that answered; a file without a note is refused."""
    path = tmp_path / "noted.yaml"
    with use_cassette(path, mode="once"):
        _ask("one", server.url)
    assert from_yaml(path.read_text())["recorded_from"] == "127.0.0.1"
    path.write_text(path.read_text().replace("recorded_from", "made_by"))
    with pytest.raises(ConfigError, match="recorded_from"), use_cassette(path):
        pass


def test_keeps_allowed_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, cookies and account ids in headers, query, zipped body and Azure host do not reach the file."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary-0123456789")
    headers = {
        "openai-organization": "acme-corp",
        "set-cookie": "id=canary-0123456789",
        "authorization": "canary-0123456789",
        "x-request-id": "req-1",
        "x-ratelimit-remaining-requests": "9",
    }
    body = json.dumps({"prompt": "bad key canary-0123456789 of org-AbCdEf0123456789"}).encode()
    path = tmp_path / "clean.yaml"
    with EchoServer(headers=headers, body=body, zipped=True) as server, use_cassette(path, mode="once"):
        _post(
            f"{server.url}/v1/chat?api-version=2024-10-21&api-key=canary-0123456789",
            json={"prompt": "hello"},
            headers={"Authorization": "Bearer canary-0123456789", "api-key": "canary-0123456789"},
        )
    text = path.read_text()
    assert "canary" not in text
    assert "acme" not in text
    assert "AbCdEf" not in text
    data = from_yaml(text)["interactions"][0]
    assert data["request"]["uri"] == "http://127.0.0.1/v1/chat?api-version=2024-10-21&api-key=REDACTED"
    assert set(data["request"]["headers"]) == {"accept", "content-type"}
    assert set(data["response"]["headers"]) == {"content-type", "x-request-id", "x-ratelimit-remaining-requests"}
    assert data["response"]["json"] == {"prompt": "bad key REDACTED of org-REDACTED"}


def test_refuses_to_write_a_secret(tmp_path: Path, server: EchoServer) -> None:
    """A prompt that holds a key is not saved: it fails, names the kind, not the key, and lets the clients go."""
    untouched = httpx.HTTPTransport.handle_request
    with pytest.raises(ValueError, match="not saved") as refused, use_cassette(tmp_path / "leak.yaml", mode="once"):
        _ask("my key is sk-proj-abcdefghijklmnop1234", server.url)
    assert httpx.HTTPTransport.handle_request is untouched
    assert "abcdefghijklmnop" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_body_it_cannot_read(tmp_path: Path) -> None:
    """A body in an encoding that nobody here can decode could hide anything, so it is not recorded."""
    with (
        EchoServer(headers={"content-encoding": "br"}) as server,
        use_cassette(tmp_path / "br.yaml", mode="once"),
        pytest.raises(ValueError, match="content-encoding"),
    ):
        _post(server.url, json={})


def test_an_azure_resource_name_is_replaced() -> None:
    """The name of somebody's Azure resource is in the host, and goes."""
    from testronaut_llm.testing.scrub import clean_uri

    assert clean_uri("https://acme-prod.openai.azure.com/openai/v1/models") == (
        "https://resource.openai.azure.com/openai/v1/models"
    )
    assert clean_uri("https://api.openai.com:8443/v1") == "https://api.openai.com:8443/v1"


def test_a_miss_is_found_in_a_chain_of_causes() -> None:
    """A client's connection error that a miss caused leads back to the miss, ours or plain vcrpy's."""
    miss = CassetteMissError("not recorded")
    try:
        try:
            raise miss
        except CassetteMissError as inner:
            raise ConnectionError("Connection error.") from inner
    except ConnectionError as outer:
        wrapped = RuntimeError("wrapped")
        wrapped.__context__ = outer
        outer.__context__ = wrapped  # a loop, as real chains may have
    assert cassette_miss_in(wrapped) is miss
    assert cassette_miss_in(ConnectionError("a real outage")) is None
    foreign = type("CannotOverwriteExistingCassetteException", (Exception,), {})()
    assert cassette_miss_in(foreign) is foreign


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_every_json_body_survives_the_file(value: object) -> None:
    """Any JSON comes back from the YAML equal, with its keys in order."""
    body = json.dumps(value).encode()
    back = field_to_body(from_yaml(to_yaml(body_to_field(body))))
    assert json.loads(back) == value
    assert json.dumps(json.loads(back)) == json.dumps(value)


@given(st.binary())
def test_every_other_body_survives_the_file(body: bytes) -> None:
    """Whatever is no JSON comes back byte for byte."""
    if parse_json(body) is None:
        assert field_to_body(from_yaml(to_yaml(body_to_field(body)))) == body


@pytest.mark.parametrize(
    "body", [b'{"a": NaN}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b'{"a": "\\ud800"}', b"[" * 5000, b"7"]
)
def test_what_json_cannot_say_twice_stays_text(body: bytes) -> None:
    """A body that parsing would change is kept as it came."""
    assert body_to_field(body) == {"text": body.decode()}


def test_a_stream_reads_as_lines() -> None:
    """Events stand on lines of their own, and vectors do not take a line per number."""
    text = to_yaml({"text": "data: {}\n\ndata: [DONE]\n\n", "vector": [0.5, 1.0, -2], "end": 1})
    assert text == "text: |+\n  data: {}\n\n  data: [DONE]\n\nvector: [0.5, 1.0, -2]\nend: 1\n"
