"""One attempt through the gateway, on each wire."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.gateway.model_request import Reply, Request, Target
from testronaut_llm.providers.provider import endpoint_of
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Message, Usage

KEY = "sk-canary-0123456789abcdefghijklmn"
WIRES = ("openai", "azure", "azure v1", "anthropic", "ollama")
CLIENTS = ("openai", "anthropic", "ollama")  # wires with a client of their own; the others share that of `openai`
FORMS = ("whole", "stream")
MODELS = {
    "openai": "openai/gpt-4o-mini",
    "azure": "azure/my-deployment",
    "azure v1": "azure/my-deployment",
    "anthropic": "anthropic/claude-haiku-4-5",
    "ollama": "ollama/qwen3:8b",
}
DEAD = "http://127.0.0.1:9"
"""Nothing listens there: an answer can only come out of a cassette."""
VERSIONS = {"azure": "2024-10-21", "azure v1": "v1"}


def target(wire: str, url: str = DEAD, *, key: str | None = KEY, **fields: Any) -> Target:
    """The target of a wire, or of a model at its `api_base`; `fields` are those of a model in `llm.yaml`."""
    base = f"{url}/v1" if wire == "openai" else url
    model = ModelConfig(**{"alias": "m", "model": MODELS.get(wire, wire), "api_base": base, **fields})
    provider, secret = provider_of(model), SecretStr(key) if key else None
    version = VERSIONS.get(wire) or endpoint_of(model, provider).api_version
    return Target(model=model, provider=provider, api_base=base, api_version=version, key=secret)


def chat(where: Target, *turns: tuple[str, str] | str, **fields: Any) -> Request:
    """A request of some turns, `(role, text)` or a user's text; `fields` are those of `Request`."""
    pairs = [("user", turn) if isinstance(turn, str) else turn for turn in turns]
    messages = tuple(Message(role=role, content=text) for role, text in pairs)  # type: ignore[arg-type]
    return Request(target=where, messages=messages, **{"max_tokens": 80, "timeout": 10.0, **fields})


def request(to: Target, **fields: Any) -> Request:
    num_ctx = 4096 if to.provider.wire == "ollama" else None
    return replace(chat(to, "Say hello.", temperature=0.0, num_ctx=num_ctx), **fields)


async def _sent(gateway: Gateway, asked: Request) -> tuple[list[Any], Reply]:
    """The pieces of a stream, and the reply with its counts as the provider reports them; missing ones are 0."""
    *pieces, reply = [part async for part in gateway.send(asked, Exchange())]
    assert isinstance(reply, Reply)
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    usage = reply.usage and Usage(**{name: getattr(reply.usage, name) or 0 for name in names})
    return pieces, replace(reply, usage=usage)


class Attempts:
    """A gateway and an event loop that are kept for many attempts."""

    def __init__(self) -> None:
        self.gateway = Gateway(lambda text: text.replace(KEY, "***"))
        self._runner = asyncio.Runner()

    def __call__(self, asked: Request, mode: str) -> tuple[str, Reply]:
        """Returns the pieces of a stream, and the reply."""
        pieces, reply = self._runner.run(_sent(self.gateway, replace(asked, stream=mode == "stream")))
        return "".join(pieces), reply

    def close(self) -> None:
        self._runner.run(self.gateway.aclose())
        self._runner.close()


async def attempt(asked: Request) -> tuple[list[str], Reply]:
    """Returns the same, with a gateway of its own."""
    gateway = Gateway(str)
    sent = await _sent(gateway, asked)
    await gateway.aclose()
    return sent
