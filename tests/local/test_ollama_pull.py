"""A pull is a success only when the server says so, and goes on where it was."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from ollama_cassettes import recording
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import ollama_models
from testronaut_llm.local.download import Progress
from testronaut_llm.local.ollama_models import pull
from testronaut_llm.local.ollama_provider import OllamaServer

MODEL = "127.0.0.1:5001/library/smollm2:135m"
LAYER = {"status": "pulling 941f309b54ca", "digest": "sha256:941f", "total": 100}
REPLAYED = ("stream", "insecure")  # recorded with a registry on loopback, which needs `insecure`


def lines(*steps: dict[str, Any]) -> str:
    return "".join(json.dumps(step) + "\n" for step in steps)


DONE = lines({"status": "pulling manifest"}, {**LAYER, "completed": 100}, {"status": "success"})


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, none of which pass."""
    waited: list[float] = []
    monkeypatch.setattr(ollama_models, "sleep", waited.append)
    return waited


@pytest.fixture
def server(httpserver: HTTPServer) -> Iterator[OllamaServer]:
    with OllamaServer(httpserver.url_for("").rstrip("/")) as server:
        yield server


def answers(httpserver: HTTPServer, *bodies: str) -> None:
    """The bodies in turn, the last one for ever."""
    left = list(bodies)

    def answer(request: Request) -> Response:
        request.get_data()  # a connection that is closed with a body unread may be reset
        return Response(left.pop(0) if len(left) > 1 else left[0], content_type="application/x-ndjson")

    httpserver.expect_request("/api/pull").respond_with_handler(answer)


@pytest.mark.parametrize(
    "first",
    [
        recording("pull-resumed", 40894464, ignored=REPLAYED),
        recording("pull-already-there", 98362432, ignored=REPLAYED),
    ],
)
def test_a_pull_reports_how_far_it_is(cassette: object, first: int) -> None:
    """Bytes done and in all, from where the last pull ended to the last word."""
    seen: list[Progress] = []
    pull(OllamaServer("http://127.0.0.1:9"), MODEL, report=seen.append)
    assert next(step.done for step in seen if step.total == 98362432) == first
    assert seen[-1].note == "success"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        recording(
            "pull-missing-model",
            "127.0.0.1:5001/library/nothing:latest",
            "file does not exist; check its name",
            ignored=REPLAYED,
        ),
        recording("pull-bad-name", "a b//c", "invalid model name; check its name", ignored=REPLAYED),
    ],
)
def test_a_wrong_name_is_not_tried_again(cassette: Any, name: str, said: str) -> None:
    """One request; the server's words and where to look."""
    with pytest.raises(LocalModelError, match=said):
        pull(OllamaServer("http://127.0.0.1:9"), name)


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        ("write /blobs: no space left on device", "make room on the disk of the Ollama server"),
        ("pull model manifest: 412: requires a newer version of Ollama", "update Ollama"),
    ],
)
def test_what_another_try_cannot_mend_says_what_can(
    httpserver: HTTPServer, server: OllamaServer, error: str, mend: str
) -> None:
    """A full disk and an old server are one request each."""
    answers(httpserver, lines({"status": "pulling manifest"}, {"error": error}))
    with pytest.raises(LocalModelError, match=mend):
        pull(server, "qwen3")
    assert len(httpserver.log) == 1


@pytest.mark.parametrize(
    "broken",
    [
        lines({**LAYER, "completed": 40}),
        "",
        lines({**LAYER, "completed": 100}, {"error": "digest mismatch, file must be downloaded again"}),
        lines({"status": "pulling manifest"}) + "<html>",
    ],
    ids=["cut", "empty", "digest mismatch", "no JSON"],
)
def test_a_pull_that_broke_off_goes_on(httpserver: HTTPServer, server: OllamaServer, broken: str) -> None:
    """Another request, and the reader is told why; three in all, then it is an error."""
    answers(httpserver, broken, DONE)
    seen: list[str] = []
    pull(server, "qwen3", report=lambda step: seen.append(step.note))
    assert len(httpserver.log) == 2
    assert sum("continuing in" in note for note in seen) == 1
    httpserver.clear()
    answers(httpserver, broken)
    with pytest.raises(LocalModelError, match=r"in 3 tries: .*; what it has is kept"):
        pull(server, "qwen3")
    assert len(httpserver.log) == 3


@pytest.mark.parametrize(("patience", "expected"), [(120.0, [2.0, 8.0]), (3.0, [2.0, 3.0])])
def test_a_pull_waits_between_tries(
    httpserver: HTTPServer, server: OllamaServer, waits: list[float], patience: float, expected: list[float]
) -> None:
    """Longer before the third than before the second, never beyond the patience; the reader is told how long."""
    answers(httpserver, lines({"error": "dial tcp: lookup registry.ollama.ai: i/o timeout"}))
    seen: list[str] = []
    with pytest.raises(LocalModelError, match="so try again later: testronaut-llm models pull ollama/qwen3"):
        pull(server, "qwen3", report=lambda step: seen.append(step.note), patience=patience)
    assert waits == expected
    assert [note.rpartition(" in ")[2] for note in seen] == [f"{one:g} seconds" for one in expected]


def test_a_server_that_is_gone_for_a_while_ends_no_pull(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a pull has begun, a connection that is refused is waited for; the last try is made where it answers."""
    answers(httpserver, lines({**LAYER, "completed": 40}), DONE)
    alive = httpserver.url_for("").rstrip("/")
    with OllamaServer(alive) as server:
        addresses = iter(["http://127.0.0.1:9", alive])

        def moved(_: float) -> None:
            server.__exit__()
            server.url = next(addresses)

        monkeypatch.setattr(ollama_models, "sleep", moved)
        pull(server, "qwen3")
    assert len(httpserver.log) == 2


def test_a_silent_server_is_given_up() -> None:
    """Nothing for the whole patience: the next try begins."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts connections, and never answers
        server = OllamaServer(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with server, pytest.raises(LocalModelError, match=r"nothing came for 0\.05 seconds"):
            pull(server, "qwen3", patience=0.05)


def test_a_download_that_stands_still_is_begun_anew(
    httpserver: HTTPServer, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on talking, but the number does not move."""
    answers(httpserver, lines(*[{**LAYER, "completed": 99}] * 5))
    ticks = iter(range(0, 10_000, 50))
    monkeypatch.setattr(ollama_models, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with pytest.raises(LocalModelError, match="no progress for 120 seconds"):
        pull(server, "qwen3")
    assert len(httpserver.log) == 3


def test_no_server_is_one_error() -> None:
    """A server that is not there is not asked three times."""
    with pytest.raises(LocalModelError, match="is `ollama serve` running"):
        pull(OllamaServer("http://127.0.0.1:9"), "qwen3")


def test_a_model_that_cannot_fit_into_memory_is_not_fetched(
    httpserver: HTTPServer, server: OllamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on this machine has this machine's memory; one elsewhere may have any."""
    answers(httpserver, DONE.replace('"total": 100', '"total": 9000000000'))
    monkeypatch.setattr(ollama_models, "memory_of_servers", lambda: 4.0 * 2**30)
    said = r"^'qwen3' \(to pull it anyway: ollama pull qwen3\) needs at least 8,583 MiB .* has 4,096 MiB"
    with pytest.raises(LocalModelError, match=said):
        pull(server, "qwen3")
    assert len(httpserver.log) == 1
    monkeypatch.setattr(ollama_models, "is_loopback", lambda _: False)
    pull(server, "qwen3")


def test_a_line_without_end_does_not_fill_the_memory(httpserver: HTTPServer, server: OllamaServer) -> None:
    """What a server says while it pulls is bounded, packed or not."""
    body = gzip.compress(b'{"status": "' + b"x" * 70_000_000, 1)
    httpserver.expect_request("/api/pull").respond_with_data(body, headers={"content-encoding": "gzip"})
    with pytest.raises(LocalModelError, match=r"in 3 tries: the connection to Ollama broke \(BodyError\)"):
        pull(server, "qwen3")


def test_two_pulls_of_a_model_take_turns(httpserver: HTTPServer, server: OllamaServer) -> None:
    """The second waits and says so; it then finds nothing left to do."""
    answers(httpserver, DONE)
    pull(server, "qwen3")
    before = len(httpserver.log)
    (lock_file,) = (ollama_models.data_dir() / "locks").glob("pull-*.lock")
    seen: list[str] = []
    waits = threading.Event()

    def report(step: Progress) -> None:
        seen.append(step.note)
        waits.set()

    with FileLock(lock_file):
        thread = threading.Thread(target=pull, args=(server, "qwen3"), kwargs={"report": report})
        thread.start()
        assert waits.wait(20)
        assert len(httpserver.log) == before
    thread.join(20)
    assert seen == ["waiting for another pull", "pulling manifest", LAYER["status"], "success"]
