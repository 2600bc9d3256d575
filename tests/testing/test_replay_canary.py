"""A replay cannot reach a server: not over any provider's client, not in any mode, not afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Endpoint, FaultServer
from gateway_kit import attempt, chat, target

from testronaut_llm import LLMManager
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.errors import CassetteMissError
from testronaut_llm.testing.cassettes import use_cassette
from testronaut_llm.testing.network import NetworkGuard

CASSETTES = Path(__file__).parents[2] / "cassettes"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
PROVIDERS: dict[str, dict[str, Any]] = {
    "openai": {"model": "openai/gpt-a"},
    "azure classic": {"model": "azure/dep", "api_version": "2024-10-21"},
    "azure v1": {"model": "azure/dep", "api_version": "v1"},
    "anthropic": {"model": "anthropic/claude-a"},
    "ollama": {"model": "ollama/llama-a"},
}


async def _astream(llm: LLMManager) -> None:
    async with llm.astream("task", "Hello?") as pieces:
        [piece async for piece in pieces]


CALLS: dict[str, Callable[[LLMManager], Any]] = {
    "text": lambda llm: llm.complete("task", "Hello?"),
    "text, async": lambda llm: asyncio.run(llm.acomplete("task", "Hello?")),
    "schema": lambda llm: llm.complete("task", "Hello?", schema=SCHEMA),
    "stream": lambda llm: list(llm.stream("task", "Hello?")),
    "stream, async": lambda llm: asyncio.run(_astream(llm)),
    "embeddings": lambda llm: llm.embed("task", ["Hello"]),
}
CASES = [
    (provider, call) for provider in PROVIDERS for call in CALLS if (provider, call) != ("anthropic", "embeddings")
]


@pytest.fixture(scope="module")
def trap() -> Iterator[Endpoint]:
    """A real server that would answer."""
    with FaultServer() as server:
        yield server.plan("trap", faults.good('{"a": 1}'))


def _manager(provider: str, trap: Endpoint, monkeypatch: pytest.MonkeyPatch) -> LLMManager:
    monkeypatch.setenv("TRAP_KEY", "a-key-of-no-account")
    base = f"{trap.url}/v1" if provider == "openai" else trap.url
    model = {"api_base": base, "api_key_env": "TRAP_KEY", **PROVIDERS[provider]}
    task = {"models": ["first", "second"], "cache": "off"}
    models = {"first": model, "second": model}
    return LLMManager(config=LLMConfig.model_validate({"version": 1, "models": models, "tasks": {"task": task}}))


@pytest.mark.parametrize(("provider", "call"), CASES)
def test_a_miss_is_a_miss_and_reaches_nobody(
    provider: str, call: str, trap: Endpoint, tmp_path: Path, llm_network: NetworkGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cassette each call ends in one CassetteMissError: no retry, no second model, no connection."""
    before = trap.connections
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a miss is nothing to wait for"))
    with (
        use_cassette(tmp_path / "empty.yaml"),
        _manager(provider, trap, monkeypatch) as llm,
        pytest.raises(CassetteMissError, match="does not exist") as miss,
    ):
        CALLS[call](llm)
    assert len(miss.value.attempts) <= 1
    assert (trap.connections, llm_network.connects) == (before, [])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_trap_would_have_answered(provider: str, trap: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cassette the same manager does reach the server, or the canary would be dead."""
    before = trap.connections
    with _manager(provider, trap, monkeypatch) as llm:
        monkeypatch.setattr("testronaut_llm.local.ollama_models.ollama_missing", lambda _: None)
        assert llm.complete("task", "Hello?").text == '{"a": 1}'
    assert trap.connections > before


async def test_nothing_follows_a_replay(llm_network: NetworkGuard) -> None:
    """No thread of LiteLLM asks a server anything after the cassette has closed (P49)."""
    where = target("ollama/smollm2:135m", key=None)
    asked = chat(where, "What does `ls -la` do? Answer in one sentence.", temperature=0, seed=7, num_ctx=2048)
    with use_cassette(CASSETTES / "ollama" / "litellm-chat.yaml", ignored=("options.num_ctx", "truncate", "shift")):
        _, reply = await attempt(asked)
    assert reply.error is None
    await asyncio.sleep(0.5)
    assert llm_network.connects == []
    assert llm_network.blocked == []
