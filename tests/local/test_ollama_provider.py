"""Management of an Ollama server: recorded answers, invalid answers, and readiness."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from ollama_kit import recording
from pydantic import SecretStr
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local import ollama_models
from testronaut_llm.local.ollama_provider import OllamaModel, OllamaServer, full_name
from testronaut_llm.providers.readiness import readiness
from testronaut_llm.testing.cassette_format import from_yaml

DATA, CASSETTES = Path(__file__).parents[1] / "support" / "data" / "ollama", Path(__file__).parents[2] / "cassettes"
DIGEST = "de9c34d24a1849c05739cd860fbd0ceef5469a8a8766131fbdb668be0751efb8"
ROW: dict[str, Any] = {"name": "qwen3:latest", "model": "qwen3:latest", "size": 5, "digest": DIGEST}
ROW["details"] = {"context_length": 8192}


def a_model(name: str = "qwen3", **fields: Any) -> ModelConfig:
    return ModelConfig(alias="mine", model=f"ollama/{name}", **fields)


@pytest.fixture
def recorded(cassette: object) -> OllamaServer:
    return OllamaServer("http://127.0.0.1:9")


@pytest.fixture
def url(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    address = httpserver.url_for("").rstrip("/")
    monkeypatch.setenv("OLLAMA_HOST", address)
    return address


def tags(httpserver: HTTPServer, *rows: Any) -> None:
    httpserver.expect_request("/api/tags").respond_with_json({"models": list(rows)})


# As recorded


@pytest.mark.llm_cassette("ollama/tags")
def test_models(recorded: OllamaServer) -> None:
    models = {model.name: model for model in recorded.models()}
    assert set(models) == {"smollm2:135m", "smollm2-think:135m", "smollm2-embed:135m"}
    small = models["smollm2:135m"]
    assert (small.size, small.context_length, small.quantization) == (98363020, 8192, "Q4_1")
    assert small.digest.startswith("de9c34d24a18")
    assert models["smollm2-think:135m"].capabilities == ("completion", "thinking")
    assert not any(model.remote_host for model in models.values())


@pytest.mark.llm_cassette("ollama/tags-pulled")
def test_a_pulled_model_is_found_under_its_full_name(recorded: OllamaServer) -> None:
    assert recorded.pulled("127.0.0.1:5001/library/smollm2:135m").size == 98363020


@pytest.mark.parametrize(
    ("name", "capability", "template"),
    [
        recording("show", "smollm2:135m", "completion", "Messages"),
        recording("show-thinking-model", "smollm2-think:135m", "thinking", "Messages"),
        recording("show-embedding-model", "smollm2-embed:135m", "embedding", "Prompt"),
    ],
)
def test_show(recorded: OllamaServer, name: str, capability: str, template: str) -> None:
    details = recorded.show(name)
    assert details.context_length == 8192
    assert capability in details.capabilities
    assert template in details.template


@pytest.mark.parametrize(
    ("context", "names"),
    [
        recording("ps-one-loaded", 4096, ["smollm2:135m"]),
        recording("ps-num-ctx-2048", 2048, ["smollm2:135m"]),
        recording("ps-after-unload", None, []),
    ],
)
def test_loaded_models(recorded: OllamaServer, context: int | None, names: list[str]) -> None:
    loaded = recorded.loaded()
    assert [model.name for model in loaded] == names
    assert all(model.context_length == context and model.size > 100_000_000 for model in loaded)


KEEP = {"keep_alive": "10m", "options": {"num_ctx": 2048}}


@pytest.mark.parametrize(
    ("method", "arguments", "result"),
    [
        recording("version", "version", {}, "0.0.0"),
        recording("delete", "remove", {"name": "smollm2-copy:135m"}, None),
        recording("load-keep-alive", "load", {"name": "smollm2:135m", **KEEP}, None, ignored=("stream",)),
        recording("unload-generate", "load", {"name": "smollm2:135m", "keep_alive": 0}, None, ignored=("stream",)),
    ],
)
def test_a_load_an_unload_and_a_removal_are_one_request(
    recorded: OllamaServer, method: str, arguments: dict[str, Any], result: str | None
) -> None:
    assert getattr(recorded, method)(**arguments) == result


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
    plan = from_yaml((DATA / "left_out.yaml").read_text())
    as_data, left_out = plan["data for the fault server"], plan["left out"]
    cassettes = {path.stem for path in (CASSETTES / "ollama").glob("*.yaml")}
    assert all(len(reason) > 10 or reason == "the same" for reason in [*as_data.values(), *left_out.values()])
    assert set(from_yaml((DATA / "exchanges.yaml").read_text())["exchanges"]) == set(as_data)
    assert not cassettes & {*as_data, *left_out}
    assert len(cassettes) + len(as_data) + len(left_out) == 114


# Other servers


NAMES = {
    "qwen3": "qwen3:latest",
    "Library/Qwen3:8B": "qwen3:8b",
    "https://registry.ollama.ai/library/qwen3": "qwen3:latest",
    "registry.ollama.ai/me/qwen3": "me/qwen3:latest",
    "me/library": "me/library:latest",
    "localhost:5000/library/b": "localhost:5000/library/b:latest",
    "hf.co/library/b:Q4_K_M": "hf.co/library/b:q4_k_m",
}


def test_a_name_is_read_as_ollama_reads_it() -> None:
    assert {name: full_name(name) for name in NAMES} == NAMES


@pytest.mark.parametrize(
    ("body", "status", "said"), [("<html>proxy</html>", 200, ""), ("[]", 200, ""), ('{"error": "no"}', 500, ": no")]
)
def test_another_kind_of_server_is_an_error(
    httpserver: HTTPServer, url: str, body: str, status: int, said: str
) -> None:
    httpserver.expect_request("/api/version").respond_with_data(body, status)
    with OllamaServer(url) as server, pytest.raises(LocalModelError) as caught:
        server.version()
    assert f"does not answer /api/version like Ollama (status {status}{said}); check api_base" in str(caught.value)
    assert caught.value.status == status


def test_a_proxy_never_sees_loopback(httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tags(httpserver, ROW)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with OllamaServer(url) as server:
        assert server.pulled("qwen3")


@pytest.mark.parametrize("key", [None, "our-key"])
def test_only_our_key_is_sent(
    httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "from-the-environment")

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


def test_fields_of_another_type_are_left_out(httpserver: HTTPServer, url: str) -> None:
    odd: Any = {"name": 5, "digest": ["a"], "size": True, "details": [], "capabilities": "completion"}
    tags(httpserver, "no row", odd, {"size": "large", "details": {"context_length": "8192"}, "capabilities": {"a": 1}})
    with OllamaServer(url) as server:
        assert server.models() == (OllamaModel(), OllamaModel())


# Readiness


def test_a_pulled_model_is_ready(httpserver: HTTPServer, url: str) -> None:
    tags(httpserver, ROW)
    assert readiness(a_model("Qwen3", digest=f"sha256:{DIGEST[:12]}")).ready
    assert [request.path for request, _ in httpserver.log] == ["/api/tags", "/api/ps"]


def test_a_model_that_is_not_pulled_names_the_closest_one_and_the_command(httpserver: HTTPServer, url: str) -> None:
    """Another tag of the model is the closest, then a similar name. It is ready only if the row allows `auto_pull`."""
    tags(httpserver, ROW, {"model": "qwen2:8b"})
    found = readiness(a_model("qwen3:8b"))
    assert found.missing == "Ollama has no model 'qwen3:8b' (did you mean 'qwen3:latest'?)"
    assert found.fix == "testronaut-llm models pull ollama/qwen3:8b"
    assert readiness(a_model("qwem2:8b")).missing == "Ollama has no model 'qwem2:8b' (did you mean 'qwen2:8b'?)"
    assert readiness(a_model("llama")).missing == "Ollama has no model 'llama'"
    assert readiness(a_model("qwen3:8b", api_base=url)).fix == "testronaut-llm models pull mine"
    assert readiness(a_model("qwen3:8b", auto_pull=True)).ready
    assert not readiness(a_model("qwen3:8b", auto_pull="ask")).ready


GIB = 2**30


@pytest.mark.parametrize(
    ("listed", "digest", "missing", "fix"),
    [
        ({}, "abcdef", f"'qwen3' has digest {DIGEST[:12]}, and llm.yaml pins abcdef", "or correct `digest:`"),
        ({"size": 40 * GIB}, None, "40,960 MiB of memory, and this machine has 8,192 MiB", "name a smaller model"),
        (
            {"remote_host": "https://ollama.com:443"},
            None,
            "sends its prompts to https://ollama.com:443",
            "local: false",
        ),
    ],
    ids=["its tag has moved", "too large", "of the cloud"],
)
def test_a_pulled_model_that_may_not_be_used_is_not_ready(
    httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch, listed: dict[str, Any], digest: str | None,
    missing: str, fix: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(ollama_models, "memory_of_servers", lambda: 8.0 * GIB)
    tags(httpserver, ROW | listed)
    found = readiness(a_model(digest=digest))
    assert missing in found.missing
    assert fix in found.fix
    assert readiness(a_model(local=False)).ready
