"""One attempt at the fault server through the gateway, in each wire and mode."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from attempts import as_reported
from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.gateway.model_request import Reply, Request, Target
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Message

KEY = "sk-canary-0123456789abcdefghijklmn"
WIRES = ("openai", "azure", "azure v1", "anthropic", "ollama")
MODES = ("whole", "stream")
MODELS = {
    "openai": "openai/gpt-4o-mini",
    "azure": "azure/my-deployment",
    "azure v1": "azure/my-deployment",
    "anthropic": "anthropic/claude-haiku-4-5",
    "ollama": "ollama/qwen3:8b",
}
VERSIONS = {"azure": "2024-10-21", "azure v1": "v1"}


def target(wire: str, url: str, **fields: Any) -> Target:
    """The target of a wire at a server."""
    model = ModelConfig(alias="m", model=fields.pop("model", MODELS[wire]), **fields)
    base = f"{url}/v1" if wire == "openai" else url
    version = VERSIONS.get(wire)
    return Target(model=model, provider=provider_of(model), api_base=base, api_version=version, key=SecretStr(KEY))


def request(to: Target, **fields: Any) -> Request:
    """A short chat request."""
    plain = Request(
        target=to,
        messages=(Message(role="user", content="Say hello."),),
        max_tokens=50,
        timeout=5.0,
        temperature=0.0,
        num_ctx=4096 if to.provider.wire == "ollama" else None,
    )
    return replace(plain, **fields)


class Attempts:
    """A gateway and an event loop that are kept for many attempts."""

    def __init__(self) -> None:
        self.gateway = Gateway(lambda text: text.replace(KEY, "***"))
        self.gateway.load()
        self._runner = asyncio.Runner()

    def __call__(self, asked: Request, mode: str) -> tuple[str, Reply]:
        """One attempt; the pieces that were handed out, and the Reply."""
        if not asked.texts:
            asked = replace(asked, stream=mode == "stream")
        results = self._runner.run(self._collected(asked))
        return "".join(results[:-1]), as_reported(results[-1])

    def close(self) -> None:
        """Closes connections and loop."""
        self._runner.run(self.gateway.aclose())
        self._runner.close()

    async def _collected(self, asked: Request) -> list[Any]:
        return [one async for one in self.gateway.send(asked, Exchange())]
