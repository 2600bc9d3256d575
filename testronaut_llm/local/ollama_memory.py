"""What a manager knows of the models in the memory of Ollama servers: with which window, and which of them think."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from testronaut_llm.errors import LLMError
from testronaut_llm.local.ollama_body import window
from testronaut_llm.local.ollama_models import LoadedModel
from testronaut_llm.local.ollama_provider import OllamaServer, full_name
from testronaut_llm.model_config import ModelConfig
from testronaut_llm.provider_registry import api_base_of, provider_of

_REMEMBERED = 5.0
"""Seconds that an answer of `/api/ps` counts, so that a busy manager does not ask at each call."""
Key = tuple[str | None, str]


def _loaded(model: ModelConfig) -> tuple[LoadedModel, ...]:
    with OllamaServer.of(model) as server:
        return server.loaded()


class OllamaMemory:
    """Windows of loaded models, by server and name.

    Args:
        ask: what a server has in memory; None asks nobody and keeps nothing in mind, so that the same call is the
            same request each time, as recordings need it.
    """

    def __init__(
        self,
        ask: Callable[[ModelConfig], tuple[LoadedModel, ...]] | None = _loaded,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask, clock
        self._windows: dict[Key, tuple[float, int | None]] = {}
        self._loading: dict[Key, bool] = {}
        self._thoughtless: set[Key] = set()

    @property
    def looks(self) -> bool:
        """False where the same call has to be the same request each time."""
        return self._ask is not None

    def remembers(self, model: ModelConfig) -> bool:
        """True if `look` would ask nobody."""
        return self._ask is None or self._clock() < self._windows.get(_key(model), (0.0, None))[0]

    def look(self, model: ModelConfig) -> None:
        """Asks the server which window the model has in memory, unless that was asked some seconds ago."""
        if self._ask is None or self.remembers(model):
            return
        found = None
        with suppress(LLMError):  # the call itself will say what is wrong
            name = full_name(model.name).lower()
            rows = [one for one in self._ask(model) if full_name(one.name).lower() == name]
            found = rows[0].context_length if rows else None
        self._windows[_key(model)] = (self._clock() + _REMEMBERED, found)

    def size(self, model: ModelConfig, usual: int, *, needed: int = 0, most: int | None = None) -> int:
        """Returns the window to ask for now, see `window`, and takes it for loaded from now on."""
        key = _key(model)
        until, loaded = self._windows.get(key, (0.0, None))
        size = window(model, usual, needed=needed, loaded=loaded, most=most)
        if self._ask is not None:
            self._loading[key] = loaded != size
            self._windows[key] = (until, size)
        return size

    def had_to_load(self, model: ModelConfig) -> bool:
        """True if the model was not in memory with its window when it was asked last."""
        return self._loading.get(_key(model), False)

    def note_thoughtless(self, model: ModelConfig) -> None:
        """Keeps in mind that the server said of a model that it cannot think."""
        self._thoughtless.add(_key(model))

    def is_thoughtless(self, model: ModelConfig) -> bool:
        """True if a server has said so."""
        return _key(model) in self._thoughtless


def _key(model: ModelConfig) -> Key:
    return api_base_of(model, provider_of(model)), model.name
