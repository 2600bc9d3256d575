"""Management of an Ollama server: recorded answers, invalid answers, and readiness."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ollama_kit import recording
from pydantic import SecretStr
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.ollama_provider import OllamaModel, OllamaServer, full_name
from testronaut_llm.local.readiness import readiness
from testronaut_llm.testing.cassette_format import from_yaml

ROOT = Path(__file__).parents[2]
DIGEST = "de9c34d24a1849c05739cd860fbd0ceef5469a8a8766131fbdb668be0751efb8"
ROW: dict[str, Any] = {"name": "qwen3:latest", "model": "qwen3:latest", "size": 5, "digest": DIGEST}
ROW["details"] = {"context_length": 8192}


def a_model(name: str = "qwen3", **fields: Any) -> ModelConfig:
    return ModelConfig(alias="mine", model=f"ollama/{name}", **fields)


@pytest.fixture
def recorded(llm_cassette: object) -> OllamaServer:
    return OllamaServer("http://127.0.0.1:9")


@pytest.fixture
def url(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    address = httpserver.url_for("").rstrip("/")
    monkeypatch.setenv("OLLAMA_HOST", address)
    return address


Listing = Callable[..., None]


@pytest.fixture
def listing(httpserver: HTTPServer, url: str) -> Listing:
    return lambda *rows: httpserver.expect_request("/api/tags").respond_with_json({"models": rows})


SMALL, THINK, EMBED = "smollm2:135m", "smollm2-think:135m", "smollm2-embed:135m"
PULLED = f"127.0.0.1:5001/library/{SMALL}"
TEXT, THOUGHTS, VECTORS = ("completion",), ("completion", "thinking"), ("embedding",)
LISTED = [
    (EMBED, "9b476c5b", 98362232, 8192, TEXT, ""),
    (THINK, "68930396", 98363384, 8192, THOUGHTS, ""),
    (SMALL, "de9c34d2", 98363020, 8192, TEXT, ""),
]
KEEP = {"keep_alive": "10m", "options": {"num_ctx": 2048}}


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        recording("tags", "models", {}, LISTED),
        recording("tags-pulled", "pulled", {"name": PULLED}, [(PULLED, "e5319e79", 98363020, 8192, TEXT, "")]),
        recording("show", "show", {"name": SMALL}, [("", "", 0, 8192, TEXT, "{{- if .Mess")]),
        recording("show-thinking-model", "show", {"name": THINK}, [("", "", 0, 8192, THOUGHTS, "{{- range $i")]),
        recording("show-embedding-model", "show", {"name": EMBED}, [("", "", 0, 8192, VECTORS, "{{ .Prompt }")]),
        recording("ps-one-loaded", "loaded", {}, [(SMALL, "de9c34d2", 209505483, 4096, (), "")]),
        recording("ps-num-ctx-2048", "loaded", {}, [(SMALL, "de9c34d2", 160222411, 2048, (), "")]),
        recording("ps-after-unload", "loaded", {}, []),
        recording("delete", "remove", {"name": "smollm2-copy:135m"}, None),
        recording("load-keep-alive", "load", {"name": SMALL, **KEEP}, None, ignored=("stream",)),
        recording("unload-generate", "load", {"name": SMALL, "keep_alive": 0}, None, ignored=("stream",)),
    ],
)
def test_a_recorded_answer_is_read(recorded: OllamaServer, method: str, arguments: Any, expected: Any) -> None:
    found = getattr(recorded, method)(**arguments)
    models = [found] if isinstance(found, OllamaModel) else found
    if isinstance(expected, list):
        models = [
            (one.name, one.digest[:8], one.size, one.context_length, one.capabilities, one.template[:12])
            for one in models
        ]
    assert models == expected


@pytest.mark.parametrize(
    ("method", "name"),
    [
        recording("show-missing-model-404", "show", "qwen3:8b"),
        recording("delete-missing-404", "remove", "smollm2-copy:135m"),
    ],
)
def test_a_missing_model_names_the_command(recorded: OllamaServer, method: str, name: str) -> None:
    with pytest.raises(LocalModelError, match=f"no model '{name}'.*models pull ollama/{name}"):
        getattr(recorded, method)(name)


def test_every_recording_has_a_place() -> None:
    data = ROOT / "tests/support/data/ollama"
    plan = from_yaml((data / "left_out.yaml").read_text())
    as_data, left_out = plan["data for the fault server"], plan["left out"]
    cassettes = {path.stem for path in (ROOT / "cassettes/ollama").glob("*.yaml")}
    assert all(len(reason) > 10 or reason == "the same" for reason in [*as_data.values(), *left_out.values()])
    assert set(from_yaml((data / "exchanges.yaml").read_text())["exchanges"]) == set(as_data)
    assert not cassettes & {*as_data, *left_out}
    assert len(cassettes) + len(as_data) + len(left_out) == 114


def test_a_name_is_read_as_ollama_reads_it() -> None:
    names = {
        "qwen3": "qwen3:latest",
        "Library/Qwen3:8B": "qwen3:8b",
        "https://registry.ollama.ai/library/qwen3": "qwen3:latest",
        "registry.ollama.ai/me/qwen3": "me/qwen3:latest",
        "me/library": "me/library:latest",
        "localhost:5000/library/b": "localhost:5000/library/b:latest",
        "hf.co/library/b:Q4_K_M": "hf.co/library/b:q4_k_m",
    }
    assert {name: full_name(name) for name in names} == names


@pytest.mark.parametrize(
    ("body", "status", "said"), [("<html>proxy</html>", 200, ""), ("[]", 200, ""), ('{"error": "no"}', 500, ": no")]
)
def test_another_kind_of_server_is_an_error(
    httpserver: HTTPServer, url: str, body: str, status: int, said: str
) -> None:
    httpserver.expect_request("/api/tags").respond_with_data(body, status)
    with OllamaServer(url) as server, pytest.raises(LocalModelError) as caught:
        server.models()
    assert f"does not answer /api/tags like Ollama (status {status}{said}); check api_base" in str(caught.value)
    assert caught.value.status == status


@pytest.mark.parametrize("key", [None, "our-key"])
def test_only_our_key_is_sent_and_no_proxy_sees_loopback(
    httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "from-the-environment")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def refuse(request: Request) -> Response:
        return Response(f'{{"error": "not {request.headers.get("authorization")}"}}', 403)

    httpserver.expect_request("/api/delete").respond_with_handler(refuse)
    server = OllamaServer(url, key=SecretStr(key) if key else None)
    with server, pytest.raises(LocalModelError, match="refused 'qwen3': not") as caught:
        server.remove("qwen3")
    assert "our-key" not in str(caught.value)
    ((request, _),) = httpserver.log
    assert request.headers.get("authorization") == (f"Bearer {key}" if key else None)


def test_what_a_server_says_is_bounded(httpserver: HTTPServer, url: str) -> None:
    packed = [gzip.compress(b'{"models": []}'), gzip.compress(b" " * (2**26 + 1), 1)]
    headers = {"content-encoding": "gzip"}
    httpserver.expect_request("/api/tags").respond_with_handler(lambda _: Response(packed.pop(0), headers=headers))
    with OllamaServer(url) as server:
        assert server.models() == ()
        with pytest.raises(LocalModelError, match=f"^the server at {url} does not answer.*larger than 67,108,864 by"):
            server.models()


def test_fields_of_another_type_are_left_out(listing: Listing, url: str) -> None:
    odd: Any = {"name": 5, "digest": ["a"], "size": True, "details": [], "capabilities": "completion"}
    listing("no row", odd, {"size": "large", "details": {"context_length": "8192"}, "capabilities": {"a": 1}})
    with OllamaServer(url) as server:
        assert server.models() == (OllamaModel(), OllamaModel())


def test_a_pulled_model_is_ready(httpserver: HTTPServer, listing: Listing) -> None:
    listing(ROW)
    assert readiness(a_model("Qwen3", digest=f"sha256:{DIGEST[:12]}")).ready
    assert [request.path for request, _ in httpserver.log] == ["/api/tags", "/api/ps"]


def test_a_model_that_is_not_pulled_names_the_closest_one_and_the_command(listing: Listing, url: str) -> None:
    """Another tag of the model is the closest, then a similar name. It is ready only if the row allows `auto_pull`."""
    listing(ROW, {"model": "qwen2:8b"})
    found = readiness(a_model("qwen3:8b"))
    assert found.missing == "Ollama has no model 'qwen3:8b' (did you mean 'qwen3:latest'?)"
    assert found.fix == "testronaut-llm models pull ollama/qwen3:8b"
    assert readiness(a_model("qwem2:8b")).missing == "Ollama has no model 'qwem2:8b' (did you mean 'qwen2:8b'?)"
    assert readiness(a_model("llama")).missing == "Ollama has no model 'llama'"
    assert readiness(a_model("qwen3:8b", api_base=url)).fix == "testronaut-llm models pull mine"
    assert readiness(a_model("qwen3:8b", auto_pull=True)).ready
    assert not readiness(a_model("qwen3:8b", auto_pull="ask")).ready


@pytest.mark.parametrize(
    ("listed", "digest", "missing", "fix"),
    [
        ({}, "abcdef", f"'qwen3' has digest {DIGEST[:12]}, and llm.yaml pins abcdef", "or correct `digest:`"),
        ({"size": 40 << 30}, None, "40,960 MiB of memory, and this machine has 8,192 MiB", "name a smaller model"),
        ({"remote_host": "https://ollama.com"}, None, "sends its prompts to https://ollama.com", "`local: false`"),
    ],
    ids=["its tag has moved", "too large", "of the cloud"],
)
def test_a_pulled_model_that_may_not_be_used_is_not_ready(
    listing: Listing, monkeypatch: pytest.MonkeyPatch, listed: Any, digest: str | None, missing: str, fix: str
) -> None:
    monkeypatch.setattr("testronaut_llm.local.readiness.memory_of_servers", lambda: 8.0 * 2**30)
    listing(ROW | listed)
    found = readiness(a_model(digest=digest))
    assert missing in found.missing
    assert fix in found.fix
    assert readiness(a_model(local=False)).ready
