"""The local models of one manager: fetched when a call needs them, loaded, sized; and why one of them failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import ConnectionFailedError, LLMError, LLMTimeoutError, LocalModelError
from testronaut_llm.limits.rules import at_once
from testronaut_llm.local.ollama_body import load_options, usual_window, window
from testronaut_llm.local.on_demand import Fetch, Fetches
from testronaut_llm.providers.provider_registry import Probes, api_base_of, provider_of
from testronaut_llm.support.lazy import lazy

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig
    from testronaut_llm.local.download import Report
    from testronaut_llm.local.local_provider import EmbeddedRunner, Endpoint

_REMEMBERED = 5.0
"""Seconds that an answer of `/api/ps` counts, so that a busy manager does not ask at each call."""


@dataclass(slots=True)
class _Loaded:
    """What is known of an Ollama model in memory: with which window (tokens), and until when that counts."""

    until: float = 0.0
    window: int | None = None
    had_to_load: bool = False
    cannot_think: bool = False


class LocalModels:
    """What a manager does for models that no provider serves. Safe for threads.

    Args:
        config: the configuration as it is now.
        probes: what was seen of each model.
        tell: gets the events of fetches.

    Attributes:
        repeatable: is the same call to be the same request each time, whatever a server has loaded? Recordings need it.
    """

    def __init__(
        self, config: Callable[[], LLMConfig], probes: Probes, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._config, self._probes, self._fetches = config, probes, Fetches(tell)
        self._served: dict[str, str] = {}
        self._loaded: dict[tuple[str | None, str], _Loaded] = {}
        self.repeatable = False

    @lazy
    def runner(self) -> EmbeddedRunner:
        """The embedded models, started when they are used."""
        from testronaut_llm.local.local_provider import EmbeddedRunner

        return EmbeddedRunner()

    def close(self) -> None:
        """Ends the embedded models, and lets fetches end."""
        self._fetches.close()
        if "runner" in self.__dict__:
            self.runner.close()

    def serve(self, model: ModelConfig, *, embeddings: bool) -> Endpoint:
        """Where an embedded model answers; may start it. Raises as `EmbeddedRunner.endpoint` does."""
        endpoint = self.runner.endpoint(model, embeddings=embeddings, slots=at_once(self._config(), model))
        self._served[model.alias] = endpoint.api_base
        return endpoint

    def fetch(self, model: ModelConfig, seconds: float) -> Fetch | None:
        """Begins to fetch a model that is not there and may be fetched; None where nothing has to be.

        `seconds` are those that the call still has, or infinite.
        """
        provider = provider_of(model)
        if model.auto_pull is not True or not provider.local or not self._probes.is_absent(model, provider):
            return None
        fetch = _fetch if provider.name == "embedded" else _pull
        return self._fetches.begin(model, seconds, partial(self._fetched, model, fetch))

    def _fetched(self, model: ModelConfig, fetch: Callable[[ModelConfig, Report], None], report: Report) -> None:
        fetch(model, report)
        self._probes.forget()
        self._checked(model)  # what came may be another model than the pinned one, or one that does not run here

    def _checked(self, model: ModelConfig) -> None:
        if (missing := self._probes.ask(model, provider_of(model))) is not None:
            raise LocalModelError(f"{model.alias}: {missing.what}; {missing.mend}".removesuffix("; "))

    def load(self, model: ModelConfig) -> None:
        """Brings a local model into memory as calls want it there. May take minutes.

        Raises:
            LocalModelError: it is not here, or cannot be loaded.
        """
        name = provider_of(model).name
        if name == "embedded":
            self.runner.load(model, slots=at_once(self._config(), model))
        elif name == "ollama":
            from testronaut_llm.local.ollama_provider import OllamaServer

            self._checked(model)
            if (fetch := self.fetch(model, float("inf"))) is not None:
                fetch.future.result()
            self.look(model)
            seen = self._probes.seen(model, provider_of(model))
            options = load_options(model, self.window(model, most=seen.context if seen else None))
            with OllamaServer.of(model) as server:
                vectors = server.makes_vectors(model.name)
                server.load(model.name, vectors=vectors, keep_alive=model.keep_alive, options=options)

    def remembers(self, model: ModelConfig) -> bool:
        """True if `look` would ask nobody."""
        return provider_of(model).wire != "ollama" or self.repeatable or time.monotonic() < self._of(model).until

    def look(self, model: ModelConfig) -> None:
        """Asks the server of an Ollama model whether it is loaded, and how, unless that was asked some seconds ago."""
        if self.remembers(model) or self._probes.seen(model, provider_of(model)) is None:
            return
        from testronaut_llm.local.ollama_provider import OllamaServer

        loaded = None
        with suppress(LLMError), OllamaServer.of(model) as server:  # the call itself will say what is wrong
            loaded = server.find_loaded(model.name)
        known = self._of(model)
        known.until, known.window = time.monotonic() + _REMEMBERED, loaded.context_length if loaded else None

    def window(self, model: ModelConfig, *, needed: int = 0, most: int | None = None) -> int | None:
        """Tokens of window to ask an Ollama server for, which are taken for loaded then; None for other models."""
        if provider_of(model).wire != "ollama":
            return None
        known = self._of(model)
        size = window(model, usual_window(self._config(), model), needed=needed, loaded=known.window, most=most)
        if not self.repeatable:
            known.window, known.had_to_load = size, known.window != size
        return size

    def thinks(self, model: ModelConfig) -> bool | None:
        """True if a model can think before it answers; None where nobody knows."""
        seen = None if self.repeatable else self._probes.seen(model, provider_of(model))
        return False if self._of(model).cannot_think else seen.thinks if seen else None

    def note_cannot_think(self, model: ModelConfig) -> None:
        """Keeps in mind what a server said of a model."""
        self._of(model).cannot_think = True

    def explain(self, model: ModelConfig, error: LLMError) -> LLMError | None:
        """A better word for a failure: why the embedded model died, or that the model was still loading; or None."""
        if isinstance(error, ConnectionFailedError) and (base := self._served.get(model.alias)):
            return self.runner.crash(base)
        if isinstance(error, LLMTimeoutError) and self._of(model).had_to_load:
            return LLMTimeoutError(
                f"{error}. The model was not in memory when it was asked, and may still have been loading: load it "
                f"beforehand (llm.warm_up({model.alias!r})), or give it a longer `timeout`"
            )
        return None

    def _of(self, model: ModelConfig) -> _Loaded:
        return self._loaded.setdefault((api_base_of(model, provider_of(model)), model.name), _Loaded())


def _fetch(model: ModelConfig, report: Report) -> None:
    from testronaut_llm.local.model_downloader import fetch

    fetch(model.name, progress=report)


def _pull(model: ModelConfig, report: Report) -> None:
    from testronaut_llm.local.ollama_provider import OllamaServer
    from testronaut_llm.local.ollama_pull import pull

    with OllamaServer.of(model) as server:
        pull(server, model.name, report=report)
