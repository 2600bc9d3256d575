"""The managers behind the fixture `llm`: one that records under a budget, one that needs no key and no server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from testronaut_llm.llm_manager import LLMManager

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.testing.session_budget import SessionBudget


class OfflineLLM(LLMManager):
    """An `LLMManager` that replays: to be used while a cassette is open, which answers in place of the servers."""

    def __init__(self, path: str | Path | None = None, *, config: LLMConfig | None = None) -> None:
        super().__init__(path, config=config, offline=True)


class RecordedLLM(LLMManager):
    """An `LLMManager` whose real calls are recorded, all of a session under one budget."""

    ASIDE = ("/api/tags", "/api/version", "/api/show", "/api/ps")
    """What asks whether an Ollama model is there: not recorded, since a replay does not ask."""

    def __init__(self, path: str | Path | None = None, *, budget: SessionBudget) -> None:
        super().__init__(path)
        self._lookup.cache = None  # each request of a test is recorded, and replayed
        self._caller.services.payer = budget
        self._caller.services.local.repeatable = True
