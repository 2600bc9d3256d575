"""Managers of the fixtures: one needs no key and no server, one records within the budget of a session."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.sections import BudgetConfig
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.llm_manager import LLMManager
from testronaut_llm.money.ledger import Ledger

_RECORDING = "recording"


class OfflineLLM(LLMManager):
    """An `LLMManager` that sends nothing: an open cassette, or a gateway of the test, answers instead of servers.

    Every model counts as ready. Nothing is cached, and budgets use a ledger in memory.
    """

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None, gateway: Any = None) -> None:
        super().__init__(path, config=config, gateway=gateway, offline=True)


class RecordedLLM(LLMManager):
    """An `LLMManager` with real calls, to be recorded. Nothing is cached.

    All that share a ledger (see `session_ledger`) may spend `limit` USD together.
    """

    ASIDE = ("/api/tags", "/api/version", "/api/show", "/api/ps")
    """Paths of requests that list Ollama models. They are not recorded, since a replay does not send them."""

    def __init__(self, path: str | Path | None = None, *, limit: Decimal, ledger: Ledger) -> None:
        budget = BudgetConfig(scope=_RECORDING).model_copy(update={"total": limit})  # which may be 0
        super().__init__(config=ConfigSource.find(path).current().model_copy(update={"budget": budget}), ledger=ledger)


def session_ledger() -> Ledger:
    """Returns a ledger in memory, for all managers that record in one session."""
    return Ledger(None)
