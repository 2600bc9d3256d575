"""The managers behind the fixtures: one needs no key and no server, one records under the budget of a session.

Everything that the test tools change inside a manager is changed in this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from testronaut_llm.calls.engine import Engine
from testronaut_llm.calls.steps import Result
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.config.sections import BudgetConfig
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.gateway.model_request import Target
from testronaut_llm.limits.rate_limiter import RateLimiter, Ticket
from testronaut_llm.limits.windows import Rule
from testronaut_llm.llm_manager import LLMManager
from testronaut_llm.money.budgets import scope_of
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.providers.provider_registry import Readiness, api_base_of, api_version_of, provider_of
from testronaut_llm.records import Call, Route

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there. Cassettes know loopback without its port, so replays match all the same."""
AZURE = "https://resource.openai.azure.com"
"""What cassettes make of any Azure resource's host."""
_RECORDING = "recording"


class OfflineLLM(LLMManager):
    """An `LLMManager` that sends nothing: an open cassette, or a gateway of the test, answers for the servers.

    Every model counts as ready. Nothing is cached, and budgets hold in a ledger in memory.

    Args:
        path: the `llm.yaml`; found as documented if not given.
        config: made in Python, in place of a file.
        gateway: what requests are given to, in place of LiteLLM.
    """

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None, gateway: Any = None) -> None:
        super().__init__(path, config=config)
        self._engine = _OfflineEngine(self._engine.source)
        if gateway is not None:
            self._engine.gateway = gateway


class RecordedLLM(LLMManager):
    """An `LLMManager` whose calls are real and are to be recorded. Nothing is cached.

    Args:
        path: the `llm.yaml`; found as documented if not given.
        limit: USD for all managers that share the ledger.
        ledger: see `session_ledger`.
    """

    ASIDE = ("/api/tags", "/api/version", "/api/show", "/api/ps")
    """Paths that tell whether an Ollama model is there. They are not recorded, since a replay does not ask."""

    def __init__(self, path: str | Path | None = None, *, limit: Decimal, ledger: Ledger) -> None:
        budget = BudgetConfig(scope=_RECORDING).model_copy(update={"total": limit})  # which may be 0
        super().__init__(config=ConfigSource.find(path).current().model_copy(update={"budget": budget}))
        self._engine.ledger = ledger
        self._engine.local.repeatable = True
        self._engine.answers = None


def session_ledger() -> Ledger:
    """A ledger in memory, for all managers that record in one session."""
    return Ledger(None, scope=lambda: _RECORDING)


class _NoLimits(RateLimiter):
    """Nothing is sent, so nothing waits."""

    def ticket(self, _rules: Sequence[Rule], _model: str, tokens: int) -> Ticket:
        """Returns a ticket that may be used at once."""
        return Ticket(self, (), tokens)


class _OfflineEngine(Engine):
    def __init__(self, source: ConfigSource) -> None:
        super().__init__(source)
        self.answers = None
        self.limiter = _NoLimits()
        self.local.repeatable = True
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
