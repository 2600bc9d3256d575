"""The local models of one manager: fetched when a call needs them, loaded, sized; and why one of them failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from testronaut_llm.errors import ConnectionFailedError, LLMError, LLMTimeoutError, LocalModelError
from testronaut_llm.limits.rules import at_once
from testronaut_llm.local.ollama_body import load_options, usual_window
from testronaut_llm.local.ollama_memory import OllamaMemory
from testronaut_llm.local.on_demand import Fetch, Fetches
from testronaut_llm.provider_registry import Probes, provider_of
from testronaut_llm.providers.row import Present
from testronaut_llm.support.lazy import lazy

if TYPE_CHECKING:
    from testronaut_llm.local.download import Report
    from testronaut_llm.local.local_provider import EmbeddedRunner, Endpoint
    from testronaut_llm.model_config import LLMConfig, ModelConfig

_PATIENCE = 120.0
"""Seconds without progress after which a pull is begun anew."""


class LocalModels:
    """What the engine has to do for models that no provider serves. Safe for threads.

    Args:
        config: the configuration as it is now.
        probes: what was seen of each model.
        tell: gets the events of fetches.
    """

    def __init__(
        self, config: Callable[[], LLMConfig], probes: Probes, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self._config, self._probes = config, probes
        self._served: dict[str, str] = {}
        self._fetches = Fetches(tell)
        self.memory = OllamaMemory()

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

    def fetch(self, model: ModelConfig, seconds: float, *, trusted: bool) -> Fetch | None:
        """Begins to fetch a model that is not there and may be fetched; None where nothing has to be.

        Args:
            model: which.
            seconds: that the call still has.
            trusted: may the row's key be sent?
        """
        provider = provider_of(model)
        if model.auto_pull is not True:
            return None
        if provider.name == "embedded":
            from testronaut_llm.local.model_downloader import fetch
            from testronaut_llm.local.model_store import ModelStore

            if ModelStore().find(model.name) is not None:
                return None
            return self._fetches.begin(model, seconds, lambda report: void(fetch(model.name, progress=report)))
        if provider.name != "ollama" or self._probes.seen(model, provider) is not None:
            return None
        return self._fetches.begin(model, seconds, partial(self._pull, model, trusted))

    def _pull(self, model: ModelConfig, trusted: bool, report: Report) -> None:
        from testronaut_llm.local.ollama_provider import OllamaServer
        from testronaut_llm.local.ollama_pull import pull

        with OllamaServer.of(model, trusted=trusted) as server:
            pull(server, model.name, report=report, patience=_PATIENCE)
        self._probes.forget()
        # What came may be another model than the one that is pinned, or one that does not run here.
        if (missing := self._probes.ask(model, provider_of(model))) is not None:
            raise LocalModelError(f"{model.alias}: {missing.what}; {missing.mend}")

    def load(self, model: ModelConfig, *, trusted: bool) -> None:
        """Brings a local model into memory as calls want it there. May take minutes.

        Raises:
            LocalModelError: it is not here, or cannot be loaded.
        """
        provider = provider_of(model)
        if provider.name == "embedded":
            self.runner.load(model, slots=at_once(self._config(), model))
        elif provider.name == "ollama":
            from testronaut_llm.local.ollama_provider import OllamaServer

            if (missing := self._probes.ask(model, provider)) is not None:
                raise LocalModelError(f"{model.alias}: {missing.what}; {missing.mend}")
            if (fetch := self.fetch(model, float("inf"), trusted=trusted)) is not None:
                fetch.future.result()
            with OllamaServer.of(model, trusted=trusted) as server:
                self.memory.look(model)
                server.load(
                    model.name,
                    vectors=server.makes_vectors(model.name),
                    keep_alive=model.keep_alive,
                    options=load_options(model, self.window(model, most=self._seen_context(model))),
                )

    def window(self, model: ModelConfig, *, needed: int = 0, most: int | None = None) -> int | None:
        """Tokens of window to ask an Ollama server for; None for other models."""
        if provider_of(model).wire != "ollama":
            return None
        return self.memory.size(model, usual_window(self._config(), model), needed=needed, most=most)

    def thinks(self, model: ModelConfig) -> bool | None:
        """True if a model can think before it answers; None where nobody knows."""
        if self.memory.is_thoughtless(model):
            return False
        seen = self._probes.seen(model, provider_of(model)) if self.memory.looks else None
        return seen.thinks if seen else None

    def explain(self, model: ModelConfig, error: LLMError) -> LLMError | None:
        """A better word for a failure: why the embedded model died, or that the model was still loading; or None."""
        if isinstance(error, ConnectionFailedError) and (base := self._served.get(model.alias)):
            return self.runner.crash(base)
        if isinstance(error, LLMTimeoutError) and self.memory.had_to_load(model):
            return LLMTimeoutError(
                f"{error}. The model was not in memory when it was asked, and may still have been loading: load it "
                f"beforehand (llm.warm_up({model.alias!r})), or give it a longer `timeout`"
            )
        return None

    def _seen_context(self, model: ModelConfig) -> int | None:
        seen: Present | None = self._probes.seen(model, provider_of(model))
        return seen.context if seen else None


def void(_: object) -> None:
    """Returns nothing, whatever it is given."""
