"""Management of an Ollama server: recorded answers, invalid answers, and readiness."""

from __future__ import annotations

import gzip
import math
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
from testronaut_llm.local.ollama_provider import OllamaServer, full_name
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
    """A server that replays the recorded answers."""
    return OllamaServer("http://127.0.0.1:9")


@pytest.fixture
def url(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a loopback server that the environment names."""
    address = httpserver.url_for("").rstrip("/")
    monkeypatch.setenv("OLLAMA_HOST", address)
    return address


def tags(httpserver: HTTPServer, *rows: dict[str, Any]) -> None:
    httpserver.expect_request("/api/tags").respond_with_json({"models": list(rows)})


# As recorded


@pytest.mark.llm_cassette("ollama/version")
def test_version(recorded: OllamaServer) -> None:
    """The version is the one that the server reports."""
    assert recorded.version() == "0.0.0"


@pytest.mark.llm_cassette("ollama/tags")
def test_models(recorded: OllamaServer) -> None:
    """Each model has its digest, size, context and capabilities."""
    models = {model.name: model for model in recorded.models()}
    assert set(models) == {"smollm2:135m", "smollm2-think:135m", "smollm2-embed:135m"}
    small = models["smollm2:135m"]
    assert (small.size, small.context_length, small.quantization) == (98363020, 8192, "Q4_1")
    assert small.digest.startswith("de9c34d24a18")
    assert models["smollm2-think:135m"].capabilities == ("completion", "thinking")
    assert not any(model.remote_host for model in models.values())


@pytest.mark.llm_cassette("ollama/tags-pulled")
def test_a_pulled_model_is_found_under_its_full_name(recorded: OllamaServer) -> None:
    """A model from another registry keeps the registry in its name."""
    found = recorded.find("127.0.0.1:5001/library/smollm2:135m")
    assert found.size == 98363020


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        recording("show", "smollm2:135m", "completion"),
        recording("show-thinking-model", "smollm2-think:135m", "thinking"),
        recording("show-embedding-model", "smollm2-embed:135m", "embedding"),
    ],
)
def test_show(recorded: OllamaServer, name: str, capability: str) -> None:
    """`show` has the context, the abilities and the template of a model."""
    details = recorded.show(name)
    assert details.context_length == 8192
    assert capability in details.capabilities
    assert "Prompt" in details.template or "Messages" in details.template


@pytest.mark.llm_cassette("ollama/show-missing-model-404")
def test_show_of_a_missing_model_names_the_command(recorded: OllamaServer) -> None:
    """A missing model is an error with the command that pulls it."""
    with pytest.raises(LocalModelError, match="models pull ollama/qwen3:8b"):
        recorded.show("qwen3:8b")


@pytest.mark.parametrize(
    ("context", "names"),
    [
        recording("ps-one-loaded", 4096, ["smollm2:135m"]),
        recording("ps-num-ctx-2048", 2048, ["smollm2:135m"]),
        recording("ps-after-unload", None, []),
    ],
)
def test_loaded_models(recorded: OllamaServer, context: int | None, names: list[str]) -> None:
    """The loaded models have their context; after an unload the list is empty."""
    loaded = recorded.loaded()
    assert [model.name for model in loaded] == names
    assert all(model.context_length == context and model.size > 100_000_000 for model in loaded)


@pytest.mark.parametrize(
    "fields",
    [
        recording("load-keep-alive", {"keep_alive": "10m", "options": {"num_ctx": 2048}}, ignored=("stream",)),
        recording("unload-generate", {"keep_alive": 0}, ignored=("stream",)),
    ],
)
def test_a_model_is_loaded_and_unloaded(recorded: OllamaServer, fields: dict[str, Any]) -> None:
    """A load sends context and keep-alive; an unload sends a keep-alive of 0."""
    recorded.load("smollm2:135m", **fields)


@pytest.mark.llm_cassette("ollama/delete")
def test_a_model_is_removed(recorded: OllamaServer) -> None:
    """A removal is one request."""
    recorded.remove("smollm2-copy:135m")


@pytest.mark.llm_cassette("ollama/delete-missing-404")
def test_a_model_that_is_not_there_is_not_removed(recorded: OllamaServer) -> None:
    """The error has the command that pulls it."""
    with pytest.raises(LocalModelError, match="no model 'smollm2-copy:135m'"):
        recorded.remove("smollm2-copy:135m")


def test_every_recording_has_a_place() -> None:
    """Each recorded exchange is a cassette, data for the fault server, or excluded with a reason."""
    plan = from_yaml((DATA / "left_out.yaml").read_text())
    as_data, left_out = plan["data for the fault server"], plan["left out"]
    cassettes = {path.stem for path in (CASSETTES / "ollama").glob("*.yaml")}
    assert all(len(reason) > 10 or reason == "the same" for reason in [*as_data.values(), *left_out.values()])
    assert set(from_yaml((DATA / "exchanges.yaml").read_text())["exchanges"]) == set(as_data)
    assert not cassettes & {*as_data, *left_out}
    assert len(cassettes) + len(as_data) + len(left_out) == 114


# Other servers


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("qwen3", "qwen3:latest"),
        ("Qwen3:8B", "qwen3:8b"),
        ("library/qwen3", "qwen3:latest"),
        ("Library/qwen3:8b", "qwen3:8b"),
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("https://registry.ollama.ai/library/qwen3", "qwen3:latest"),
        ("registry.ollama.ai/me/qwen3", "me/qwen3:latest"),
        ("me/library", "me/library:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("localhost:5000/library/b", "localhost:5000/library/b:latest"),
        ("hf.co/library/b:Q4_K_M", "hf.co/library/b:q4_k_m"),
    ],
)
def test_a_name_is_read_as_ollama_reads_it(name: str, full: str) -> None:
    """The default registry, its library and `latest` are implied; a port is not a tag."""
    assert full_name(name) == full


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("<html>proxy</html>", 200, "like Ollama (status 200); check api_base"),
        ('["a", "list"]', 200, "like Ollama (status 200)"),
        ('{"error": "not here"}', 500, "(status 500: not here)"),
        ("gone", 404, "(status 404)"),
    ],
)
def test_another_kind_of_server_is_distinguished(
    httpserver: HTTPServer, url: str, body: str, status: int, said: str
) -> None:
    """A server that is not Ollama is an error with its status."""
    httpserver.expect_request("/api/version").respond_with_data(body, status)
    with OllamaServer(url) as server, pytest.raises(LocalModelError) as caught:
        server.version()
    assert said in str(caught.value)
    assert caught.value.status == status


def test_a_proxy_never_sees_loopback(httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every proxy variable set to a proxy, the proxy gets no request."""
    tags(httpserver, ROW)
    with HTTPServer() as trap:
        trap.expect_request("").respond_with_data("caught", 200)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url_for("/"))
            monkeypatch.setenv(name.lower(), trap.url_for("/"))
        with OllamaServer(url) as server:
            assert server.find("qwen3")
        assert trap.log == []


def test_a_redirect_is_not_followed(httpserver: HTTPServer, url: str) -> None:
    """A redirect by the server is an error."""
    for path in ("tags", "delete"):
        elsewhere = Response("", 307, {"location": "/elsewhere"})
        httpserver.expect_request(f"/api/{path}").respond_with_response(elsewhere)
    httpserver.expect_request("/elsewhere").respond_with_json({"models": [ROW]})
    with OllamaServer(url) as server:
        with pytest.raises(LocalModelError, match="status 307"):
            server.models()
        with pytest.raises(LocalModelError, match="refused 'qwen3'"):
            server.remove("qwen3")
    assert [request.path for request, _ in httpserver.log] == ["/api/tags", "/api/delete"]


@pytest.mark.parametrize("key", [None, "our-key"])
def test_only_our_key_is_sent(
    httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """The given key is sent, or none, and never one of the environment; errors do not show it."""
    monkeypatch.setenv("OLLAMA_API_KEY", "from-the-environment")
    tags(httpserver)

    def refuse(request: Request) -> Response:
        return Response(f'{{"error": "not {request.headers.get("authorization")}"}}', 403)

    httpserver.expect_request("/api/delete").respond_with_handler(refuse)
    with OllamaServer(url, key=SecretStr(key) if key else None) as server:
        server.models()
        with pytest.raises(LocalModelError, match="refused 'qwen3': not") as caught:
            server.remove("qwen3")
    assert "our-key" not in str(caught.value)
    sent = [request.headers.get("authorization") for request, _ in httpserver.log]
    assert sent == [f"Bearer {key}" if key else None] * 2


@pytest.mark.parametrize(
    ("body", "encoding", "said"),
    [
        (gzip.compress(gzip.compress(b" " * 2**20)), "gzip, gzip", "its content-encoding is 'gzip, gzip'"),
        (gzip.compress(b" " * (2**26 + 1)), "gzip", "the body is larger than 67,108,864 bytes"),
        (b'{"models": [' + b"{}," * 250_000 + b"{}]}", "identity", "more than 250,000 lists and objects"),
        (b'{"models": ' + b"[" * 200_000, "identity", "/api/tags like Ollama"),
        (gzip.compress(b'{"models": []}'), "gzip", ""),
    ],
    ids=["twice", "large", "many parts", "deep", "fine"],
)
def test_what_a_server_says_is_bounded(httpserver: HTTPServer, url: str, body: bytes, encoding: str, said: str) -> None:
    """A body that unpacks without end, or into too many parts, is an error with the server's address."""
    httpserver.expect_request("/api/tags").respond_with_data(body, headers={"content-encoding": encoding})
    if not said:
        assert OllamaServer(url).models() == ()
        return
    with pytest.raises(LocalModelError, match=f"^the server at {url} does not answer.*{said}"):
        OllamaServer(url).models()


@pytest.mark.parametrize(
    "row",
    [
        "no row",
        {"name": 5, "digest": ["a"], "size": "large", "details": [], "capabilities": "completion"},
        {"name": "a", "size": True, "details": {"context_length": "8192"}, "capabilities": {"a": 1}},
    ],
)
def test_fields_of_another_type_are_left_out(httpserver: HTTPServer, url: str, row: Any) -> None:
    """They are empty, and never an error."""
    tags(httpserver, row)
    found = [(one.size, one.context_length, one.capabilities, one.digest) for one in OllamaServer(url).models()]
    assert found == ([] if isinstance(row, str) else [(0, None, (), "")])


# Readiness


def test_a_pulled_model_is_ready(httpserver: HTTPServer, url: str) -> None:
    """A GET finds it with `:latest` implied and in any case; another GET finds how it is loaded."""
    tags(httpserver, ROW)
    assert readiness(a_model("Qwen3")).ready
    assert [request.path for request, _ in httpserver.log] == ["/api/tags", "/api/ps"]


def test_a_model_that_is_not_pulled_names_the_command(httpserver: HTTPServer, url: str) -> None:
    """It is ready only if the row allows `auto_pull`."""
    tags(httpserver, ROW)
    found = readiness(a_model("qwen3:8b"))
    assert found.missing == "Ollama has no model 'qwen3:8b' (did you mean 'qwen3:latest'?)"
    assert found.fix == "testronaut-llm models pull ollama/qwen3:8b"
    assert readiness(a_model("qwen3:8b", api_base=url)).fix == "testronaut-llm models pull mine"
    assert readiness(a_model("qwen3:8b", auto_pull=True)).ready
    assert not readiness(a_model("qwen3:8b", auto_pull="ask")).ready


@pytest.mark.parametrize(
    ("wanted", "there", "near"),
    [
        ("x", ["abc:1b", "x:70b-instruct-q4_K_M"], "x:70b-instruct-q4_K_M"),
        ("library/qwen3", ["qwen2:8b", "qwen3:8b"], "qwen3:8b"),
        ("lama3.2:3b", ["llama3.2:3b", "qwen3:8b"], "llama3.2:3b"),
        ("lama3.2", ["qwen3:8b"], None),
    ],
)
def test_the_closest_model_that_is_there_is_named(
    httpserver: HTTPServer, url: str, wanted: str, there: list[str], near: str | None
) -> None:
    """Readiness and errors name another tag of the model first, then a similar name."""
    tags(httpserver, *({"model": name} for name in there))
    httpserver.expect_request("/api/delete").respond_with_json({"error": "not found"}, status=404)
    said = f"Ollama has no model {wanted!r}" + (f" (did you mean {near!r}?)" if near else "")
    assert readiness(a_model(wanted)).missing == said
    with OllamaServer.of() as server, pytest.raises(LocalModelError) as error:
        server.remove(wanted)
    assert str(error.value) == f"{said}; run: testronaut-llm models pull ollama/{wanted}"


def test_a_model_that_cannot_fit_into_memory_is_not_ready(
    httpserver: HTTPServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is compared with this machine, if its server is local."""
    monkeypatch.setattr(ollama_models, "memory_of_servers", lambda: 8.0 * 2**30)
    tags(httpserver, ROW | {"size": 40 * 2**30})
    found = readiness(a_model())
    assert found.missing == "'qwen3' needs at least 40,960 MiB of memory, and this machine has 8,192 MiB"
    assert found.fix.startswith("name a smaller model")
    assert readiness(a_model(local=False)).ready
    monkeypatch.setattr(ollama_models, "memory_of_servers", lambda: math.inf)
    assert readiness(a_model()).ready


@pytest.mark.parametrize(
    ("pinned", "ready"), [(DIGEST, True), (f"sha256:{DIGEST[:12]}", True), ("abcdef", False), (None, True)]
)
def test_a_pinned_digest_is_kept(httpserver: HTTPServer, url: str, pinned: str | None, ready: bool) -> None:
    """If a tag has moved to another digest, the model is not ready."""
    tags(httpserver, ROW)
    found = readiness(a_model(digest=pinned))
    assert found.ready is ready
    assert ready or found.missing == f"'qwen3' has digest {DIGEST[:12]}, and llm.yaml pins abcdef"


def test_a_model_that_another_host_answers_for_is_not_local(httpserver: HTTPServer, url: str) -> None:
    """The server's own data shows a cloud model under any name, before a prompt is sent."""
    tags(httpserver, {**ROW, "remote_host": "https://ollama.com:443", "remote_model": "gpt-oss:120b"})
    found = readiness(a_model())
    assert "sends its prompts to https://ollama.com:443" in found.missing
    assert "`local: false`" in found.fix
    assert readiness(a_model(local=False)).ready
