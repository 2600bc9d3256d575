"""The managers behind the fixture `llm`: one that records under a budget, one that needs no key and no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from testronaut_llm.calls.engine import Engine
from testronaut_llm.calls.steps import Result
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.limits.rate_limiter import RateLimiter, Ticket
from testronaut_llm.limits.windows import Rule
from testronaut_llm.llm_manager import LLMManager
from testronaut_llm.money.budgets import scope_of
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.providers.provider_registry import Readiness, api_base_of, api_version_of, provider_of
from testronaut_llm.records import Call, Route
from testronaut_llm.testing.session_budget import SessionBudget

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there. Cassettes know loopback without its port, so replays match all the same."""
AZURE = "https://resource.openai.azure.com"
"""What cassettes make of any Azure resource's host."""


class NoLimits(RateLimiter):
    """Nothing is sent, so nothing waits."""

    def ticket(self, _rules: Sequence[Rule], _model: str, tokens: int) -> Ticket:
        """Its turn comes at once."""
        return Ticket(self, (), tokens)


class OfflineEngine(Engine):
    """Routes, judges and counts as ever, and never asks whether a model can be reached. Nothing is cached."""

    def __init__(self, source: ConfigSource) -> None:
        super().__init__(source)
        self.answers = None
        self.limiter = NoLimits()
        self.local.repeatable = True
        # In memory: budgets hold, and the user's own books stay as they are.
        self.ledger = Ledger(None, scope=lambda: scope_of(self.source.current()))

    def ready(self, model: ModelConfig) -> Readiness:  # noqa: ARG002 - the signature is the engine's
        """Always."""
        return Readiness(ready=True)

    def target(self, model: ModelConfig, embeddings: bool = False) -> Target:  # noqa: ARG002 - as above
        """The model's own address, or a stand-in where its address is not known here."""
        provider = provider_of(model)
        base = api_base_of(model, provider)
        if provider.name == "embedded":
            base = f"{NOWHERE}/v1"
        elif base is None or "${" in base:
            base = AZURE if provider.wire == "azure" else NOWHERE
        return Target(model=model, provider=provider, api_base=base, api_version=api_version_of(model, provider))

    def learn(self, call: Call, result: Result, route: Route, model: ModelConfig) -> None:
        """Nothing: what a test counted says nothing about the next real call."""


class OfflineLLM(LLMManager):
    """An `LLMManager` that replays: to be used while a cassette is open, which answers in place of the servers."""

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None) -> None:
        super().__init__(path, config=config)
        self._engine = OfflineEngine(self._engine.source)


class RecordedLLM(LLMManager):
    """An `LLMManager` whose real calls are recorded, all of a session under one budget."""

    ASIDE = ("/api/tags", "/api/version", "/api/show", "/api/ps")
    """What asks whether an Ollama model is there: not recorded, since a replay does not ask."""

    def __init__(self, path: str | Path | None = None, *, budget: SessionBudget) -> None:
        super().__init__(path)
        self._engine.purse = budget
        self._engine.local.repeatable = True
        self._engine.answers = None  # each request of a test is recorded, and replayed
