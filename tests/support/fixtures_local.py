"""Fixtures for local models: the tiny random-weight model, a home that holds it, and a server of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny_model, offer

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.local.local_provider import EmbeddedRunner, Endpoint
from testronaut_llm.local.model_store import ModelStore, StoredModel

TINY = "tiny-random"


class LocalModel(ModelConfig):
    """The row of an embedded model."""

    def __init__(self, name: str = TINY, **fields: Any) -> None:
        super().__init__(alias="m", model=f"embedded/{name}", **fields)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-random.gguf")


@pytest.fixture
def tiny_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, monkeypatch.setattr)


@pytest.fixture
def home(tiny_gguf: Path) -> ModelStore:
    return stored(ModelStore(), tiny_gguf)


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Endpoint]:
    """A real llama.cpp server of the tiny model: OpenAI wire at `/v1/chat/completions`, Anthropic at `/v1/messages`."""
    store = stored(ModelStore(tmp_path_factory.mktemp("models")), tiny_gguf)
    with closing(EmbeddedRunner(store, idle_seconds=24 * 3600)) as runner:
        yield runner.endpoint(LocalModel())


def stored(store: ModelStore, file: Path, name: str = TINY) -> ModelStore:
    store.folder.parent.mkdir(parents=True, exist_ok=True)
    copy = shutil.copy(file, store.folder.parent / f"{name}.part")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    store.add(Path(copy), StoredModel(name=name, source="test", sha256=digest, size=file.stat().st_size, context=8192))
    return store


def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{endpoint.api_base}{path}",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {endpoint.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return dict(json.load(response))


def chat(endpoint: Endpoint, text: str, **body: Any) -> dict[str, Any]:
    """Returns one chat completion at temperature 0."""
    messages = [{"role": "user", "content": text}]
    return post(endpoint, "/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 400} | body)


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yields a list that holds, after the block, the most bytes that Python took in it."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
