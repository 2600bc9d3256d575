"""One attempt through the gateway, sync or async, for tests of what goes over a wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.gateway import Gateway
from testronaut_llm.gateway.model_request import Reply, Request, Target
from testronaut_llm.providers.provider_registry import api_base_of, api_version_of, provider_of
from testronaut_llm.records import Message, Usage

DEAD = "http://127.0.0.1:9"
"""Nothing listens there: an answer can only come out of a cassette."""


def target(model: str, *, api_base: str = DEAD, key: str | None = "a-key", **fields: Any) -> Target:
    """Where to ask; `fields` are those of a model in `llm.yaml`."""
    config = ModelConfig(alias="m", model=model, api_base=api_base, **fields)
    provider = provider_of(config)
    return Target(
        model=config,
        provider=provider,
        api_base=api_base_of(config, provider),
        api_version=api_version_of(config, provider),
        key=SecretStr(key) if key else None,
    )


def chat(where: Target, *turns: tuple[str, str] | str, **fields: Any) -> Request:
    """A request of some turns, `(role, text)` or a user's text; `fields` are those of `Request`."""
    pairs = [("user", turn) if isinstance(turn, str) else turn for turn in turns]
    messages = tuple(Message(role=role, content=text) for role, text in pairs)  # type: ignore[arg-type]
    return Request(target=where, messages=messages, **{"max_tokens": 80, "timeout": 10.0, **fields})


def as_reported(reply: Reply) -> Reply:
    """The reply with its counts as the provider reports them, those that it leaves out as 0."""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    if reply.usage is None:
        return reply
    return replace(reply, usage=Usage(**{name: getattr(reply.usage, name) or 0 for name in names}))


async def attempt(request: Request) -> tuple[list[str], Reply]:
    """The pieces of a stream, and the reply."""
    gateway = Gateway(lambda text: text)
    parts: list[Any] = [part async for part in gateway.send(request, Exchange())]
    await gateway.aclose()
    return parts[:-1], as_reported(parts[-1])
