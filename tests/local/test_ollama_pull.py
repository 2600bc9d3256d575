"""A pull succeeds only when the server reports success, and continues after a failure."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from ollama_kit import recording
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import local_models
from testronaut_llm.local.download import Progress
from testronaut_llm.local.local_models import pull
from testronaut_llm.local.ollama_provider import OllamaServer, PullBrokenError

MODEL = "127.0.0.1:5001/library/smollm2:135m"
NOTHING = "127.0.0.1:5001/library/nothing:latest"
LAYER = {"status": "pulling 941f309b54ca", "digest": "sha256:941f", "total": 100}
REPLAYED = ("stream", "insecure")  # recorded with a registry on loopback, which needs `insecure`


def lines(*steps: dict[str, Any]) -> str:
    return "".join(json.dumps(step) + "\n" for step in steps)


DONE = lines({"status": "pulling manifest"}, {**LAYER, "completed": 100}, {"status": "success"})


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(local_models, "sleep", waited.append)
    return waited


class Pulls(OllamaServer):
    """A server that answers pulls with `bodies` in turn, then repeats the last."""

    def __init__(self, server: HTTPServer) -> None:
        super().__init__(server.url_for("").rstrip("/"))
        self.bodies, self.asked = [DONE], 0
        server.expect_request("/api/pull").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        request.get_data()  # a connection that is closed with a body unread may be reset
        self.asked += 1
        return Response(self.bodies[min(self.asked, len(self.bodies)) - 1], content_type="application/x-ndjson")


@pytest.fixture
def pulls(httpserver: HTTPServer) -> Iterator[Pulls]:
    with Pulls(httpserver) as made:
        yield made


@pytest.mark.parametrize(
    ("name", "first", "error"),
    [
        recording("pull-resumed", MODEL, 40894464, "", ignored=REPLAYED),
        recording("pull-already-there", MODEL, 98362432, "", ignored=REPLAYED),
        recording("pull-not-streamed", MODEL, None, "", ignored=REPLAYED),
        recording("pull-digest-mismatch", MODEL, None, "digest mismatch", ignored=REPLAYED),
        recording("pull-missing-model", NOTHING, None, "does not exist", ignored=REPLAYED),
        recording("pull-missing-model-not-streamed", NOTHING, None, "does not exist", ignored=REPLAYED),
        recording("pull-registry-down", NOTHING.replace("5001", "5999"), None, "refused", ignored=REPLAYED),
        recording("pull-http-without-insecure", MODEL, None, "TLS handshake", ignored=REPLAYED),
        recording("pull-bad-name", "a b//c", None, "invalid model name", ignored=REPLAYED),
        recording("pull-left-at-half", MODEL, None, None, ignored=REPLAYED),
    ],
)
def test_a_recorded_pull_ends_in_success_or_the_servers_words(
    llm_cassette: object, name: str, first: int | None, error: str | None
) -> None:
    steps: list[Progress] = []
    with pytest.raises(PullBrokenError, match=error) if error else nullcontext():
        steps.extend(OllamaServer("http://127.0.0.1:9").pulling(name, silence=10.0))
    done = [step.done for step in steps if step.total == 98362432 and step.done]
    assert done == sorted(done)
    assert first in (None, *done[:1])
    assert [step.note for step in steps].count("success") == (error == "")
    assert error != "" or steps[-1].note == "success"


LATER = r"in 3 tries: .*; what it has is kept, so try again later: testronaut-llm models pull ollama/qwen3"


@pytest.mark.parametrize(
    ("error", "tries", "fix"),
    [
        ("write /blobs: no space left on device", 1, "make room on the disk of the Ollama server"),
        ("pull model manifest: 412: requires a newer version of Ollama", 1, "update Ollama"),
        ("pull model manifest: file does not exist", 1, "file does not exist; check its name"),
        ("dial tcp: lookup registry.ollama.ai: i/o timeout", 3, LATER),
    ],
)
def test_what_a_retry_cannot_fix_says_what_can(
    pulls: Pulls, waits: list[float], error: str, tries: int, fix: str
) -> None:
    pulls.bodies = [lines({"status": "pulling manifest"}, {"error": error})]
    with pytest.raises(LocalModelError, match=fix):
        pull(pulls, "qwen3")
    assert (pulls.asked, waits) == (tries, [2.0, 8.0][: tries - 1])


@pytest.mark.parametrize("body", ["<html>", '{"error": "Access denied"}'])
@pytest.mark.parametrize(
    ("status", "tries", "fix"), [(302, 1, "not Ollama's own"), (401, 1, "the key that the"), (503, 3, "again later")]
)
def test_a_server_that_refuses_a_pull_is_told_by_its_status(
    httpserver: HTTPServer, body: str, status: int, tries: int, fix: str
) -> None:
    httpserver.expect_request("/api/pull").respond_with_data(body, status)
    with (
        OllamaServer(httpserver.url_for("")) as server,
        pytest.raises(LocalModelError, match=f"status {status}.*{fix}"),
    ):
        pull(server, "qwen3")
    assert len(httpserver.log) == tries


BROKEN = {
    "cut": lines({**LAYER, "completed": 40}),
    "empty": "",
    "digest mismatch": lines({**LAYER, "completed": 100}, {"error": "digest mismatch, file must be downloaded again"}),
    "no JSON": lines({"status": "pulling manifest"}) + "<html>",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_pull_that_broke_off_continues(pulls: Pulls, broken: str) -> None:
    pulls.bodies = [broken, DONE]
    seen: list[Progress] = []
    pull(pulls, "qwen3", report=seen.append)
    assert pulls.asked == 2
    assert sum("continuing in 2 seconds" in step.note for step in seen) == 1
    assert seen[-1].note == "success"


def test_a_server_that_is_gone_for_a_while_ends_no_pull(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.bodies = [lines({**LAYER, "completed": 40}), DONE]
    addresses = iter(["http://127.0.0.1:9", pulls.url])
    monkeypatch.setattr(local_models, "sleep", lambda _: setattr(pulls._http, "base_url", next(addresses)))
    pull(pulls, "qwen3")
    assert pulls.asked == 2
    with pytest.raises(LocalModelError, match="is `ollama serve` running"):
        pull(OllamaServer("http://127.0.0.1:9"), "qwen3")


def test_a_silent_server_is_given_up(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never answers
        server = OllamaServer(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with server, pytest.raises(LocalModelError, match=r"in 3 tries: the server sent nothing for 0\.05 seconds"):
            pull(server, "qwen3", patience=0.05)
    assert waits == [0.05, 0.05]  # no longer than the patience


def test_a_download_that_stalls_is_started_again(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls.bodies = [lines(*[{**LAYER, "completed": 99}] * 5)]
    monkeypatch.setattr(local_models, "time", SimpleNamespace(monotonic=count(0, 50).__next__))
    with pytest.raises(LocalModelError, match="no progress for 120 seconds"):
        pull(pulls, "qwen3")
    assert pulls.asked == 3


def test_a_model_that_cannot_fit_into_memory_is_not_fetched(pulls: Pulls, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local server has this machine's memory; the memory of a remote one is unknown."""
    pulls.bodies = [DONE.replace('"total": 100', '"total": 9000000000')]
    monkeypatch.setattr(local_models, "memory_of_servers", lambda: 4.0 * 2**30)
    said = r"^'qwen3' \(to pull it anyway: ollama pull qwen3\) needs at least 8,583 MiB .* has 4,096 MiB"
    with pytest.raises(LocalModelError, match=said):
        pull(pulls, "qwen3")
    assert pulls.asked == 1
    monkeypatch.setattr(local_models, "is_loopback", lambda _: False)
    pull(pulls, "qwen3")


def test_two_pulls_of_a_model_take_turns(pulls: Pulls) -> None:
    pull(pulls, "qwen3")
    (lock_file,) = (local_models.data_dir() / "locks").glob("pull-*.lock")
    with ThreadPoolExecutor(1) as pool:
        with FileLock(lock_file):
            second = pool.submit(pull, pulls, "qwen3")
            assert not wait([second], timeout=0.2).done
            assert pulls.asked == 1
        second.result(20)
    assert pulls.asked == 2
