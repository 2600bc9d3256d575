"""Ollama's management side against what a real server answered, request for request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ollama_cassettes import recording

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.ollama_provider import OllamaServer, Step
from testronaut_llm.testing.cassette_format import from_yaml

ROOT = Path(__file__).parents[2]
LEFT_OUT = ROOT / "tests" / "support" / "data" / "ollama" / "left_out.yaml"
EXCHANGES = ROOT / "tests" / "support" / "data" / "ollama" / "exchanges.yaml"
RECORDED = 114
MODEL = "127.0.0.1:5001/library/smollm2:135m"


@pytest.fixture
def server(cassette: object) -> Iterator[OllamaServer]:
    with OllamaServer("http://127.0.0.1:9") as server:
        yield server


@pytest.mark.cassette("ollama/version")
def test_version(server: OllamaServer) -> None:
    """The version is what the server calls itself."""
    assert server.version() == "0.0.0"


@pytest.mark.cassette("ollama/tags")
def test_models(server: OllamaServer) -> None:
    """Each model comes with its digest, size, window and capabilities."""
    models = {model.name: model for model in server.models()}
    assert set(models) == {"smollm2:135m", "smollm2-think:135m", "smollm2-embed:135m"}
    small = models["smollm2:135m"]
    assert (small.size, small.context_length, small.quantization) == (98363020, 8192, "Q4_1")
    assert small.digest.startswith("de9c34d24a18")
    assert models["smollm2-think:135m"].capabilities == ("completion", "thinking")
    assert not any(model.remote_host for model in models.values())


@pytest.mark.cassette("ollama/tags-pulled")
def test_a_pulled_model_is_found_under_its_full_name(server: OllamaServer) -> None:
    """A model from another registry keeps the registry in its name."""
    found = server.find(MODEL)
    assert found is not None
    assert found.size == 98363020


@pytest.mark.parametrize(
    ("name", "window", "capability"),
    [
        recording("show", "smollm2:135m", 8192, "completion"),
        recording("show-thinking-model", "smollm2-think:135m", 8192, "thinking"),
        recording("show-embedding-model", "smollm2-embed:135m", 8192, "embedding"),
    ],
)
def test_show(server: OllamaServer, name: str, window: int, capability: str) -> None:
    """What a model is: its window, what it can do, and the template that it speaks with."""
    details = server.show(name)
    assert details.context_length == window
    assert capability in details.capabilities
    assert "Prompt" in details.template or "Messages" in details.template


@pytest.mark.cassette("ollama/show-missing-model-404")
def test_show_of_a_missing_model_names_the_command(server: OllamaServer) -> None:
    """A model that is not there is an error with the command that brings it."""
    with pytest.raises(LocalModelError, match="models pull ollama/qwen3:8b"):
        server.show("qwen3:8b")


@pytest.mark.parametrize(
    ("window", "names"),
    [
        recording("ps-one-loaded", 4096, ["smollm2:135m"]),
        recording("ps-num-ctx-2048", 2048, ["smollm2:135m"]),
        recording("ps-after-unload", None, []),
    ],
)
def test_loaded_models(server: OllamaServer, window: int | None, names: list[str]) -> None:
    """What is in memory, with the window it was loaded with; nothing after an unload."""
    loaded = server.loaded()
    assert [model.name for model in loaded] == names
    assert all(model.context_length == window for model in loaded)
    assert all(model.size > 100_000_000 for model in loaded)


OURS = ("stream", "insecure")  # recorded with a registry on loopback, which needs `insecure`


def _pull(server: OllamaServer, name: str) -> list[Step]:
    return list(server.pulling(name, silence=10.0))


@pytest.mark.parametrize(
    "first",
    [
        recording("pull-already-there", 98362432, ignored=OURS),
        recording("pull-resumed", 40894464, ignored=OURS),
    ],
)
def test_a_pull_reports_progress_and_ends_in_success(server: OllamaServer, first: int) -> None:
    """Progress counts up from what was there, and only the last line says success."""
    steps = _pull(server, MODEL)
    done = [step.completed for step in steps if step.total == 98362432 and step.completed]
    assert done[0] == first
    assert done == sorted(done)
    assert [step.status for step in steps].index("success") == len(steps) - 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        recording("pull-digest-mismatch", MODEL, "digest mismatch", ignored=OURS),
        recording("pull-missing-model", "127.0.0.1:5001/library/nothing:latest", "does not exist", ignored=OURS),
        recording(
            "pull-registry-down",
            "127.0.0.1:5999/library/nothing:latest",
            "connection refused",
            ignored=OURS,
        ),
        recording("pull-http-without-insecure", MODEL, "TLS handshake", ignored=OURS),
        recording("pull-bad-name", "a b//c", "invalid model name", ignored=OURS),
    ],
)
def test_a_failed_pull_ends_with_the_servers_words(server: OllamaServer, name: str, words: str) -> None:
    """An error is the last step of a pull, whether it comes as a line under status 200 or as the body of another."""
    assert words in _pull(server, name)[-1].error


@pytest.mark.cassette("ollama/pull-left-at-half", ignored=OURS)
def test_a_pull_that_breaks_off_never_says_success(server: OllamaServer) -> None:
    """A stream that ends half-way ends without the line that makes a pull a success."""
    steps = _pull(server, MODEL)
    assert steps[-1].completed is not None
    assert steps[-1].completed < 98362432
    assert "success" not in [step.status for step in steps]


@pytest.mark.parametrize(
    ("name", "success"),
    [
        recording("pull-not-streamed", MODEL, True, ignored=OURS),
        recording("pull-missing-model-not-streamed", "127.0.0.1:5001/library/nothing:latest", False, ignored=OURS),
    ],
)
def test_a_pull_without_progress(server: OllamaServer, name: str, success: bool) -> None:
    """What answers in one piece is read as well: one status, or one error with status 500."""
    (step,) = _pull(server, name)
    assert (step.status, step.error) == (("success", "") if success else ("", step.error))
    assert success or "does not exist" in step.error


def test_every_recording_has_a_place() -> None:
    """Each recorded exchange is a cassette, data for the fault server, or left out with a reason; none is lost."""
    plan = from_yaml(LEFT_OUT.read_text())
    as_data, left_out = plan["data for the fault server"], plan["left out"]
    cassettes = {path.stem for path in (ROOT / "cassettes" / "ollama").glob("*.yaml")}
    assert all(len(reason) > 10 or reason == "the same" for reason in [*as_data.values(), *left_out.values()])
    assert set(from_yaml(EXCHANGES.read_text())["exchanges"]) == set(as_data)
    assert not cassettes & {*as_data, *left_out}
    assert len(cassettes) + len(as_data) + len(left_out) == RECORDED
