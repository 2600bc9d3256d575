"""Checks servers and files of models that need more than a key and an endpoint, and remembers the results."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from testronaut_llm.providers.endpoint import api_base_of, ollama_url
from testronaut_llm.providers.row import Missing, Present, Provider

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

_UNKNOWN = Missing("not probed yet")


class Probes:
    """Results of the rows' probes, remembered for some seconds, so that not every call probes."""

    def __init__(self, *, remember: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember = remember
        self._clock = clock
        self._found: dict[tuple[object, ...], tuple[float, Missing | Present | None]] = {}

    def ask(self, model: ModelConfig, provider: Provider) -> Missing | None:
        """Returns what is missing by the row's probe, at most some seconds old."""
        key, expires, found = self._last(model, provider)
        if provider.probe and self._clock() >= expires:
            found = provider.probe(model)
            self._found[key] = (self._clock() + self._remember, found)
        return found if isinstance(found, Missing) and found is not _UNKNOWN else None

    def remembers(self, model: ModelConfig, provider: Provider) -> bool:
        """True if `ask` would not probe."""
        return self._clock() < self._last(model, provider)[1]

    def seen(self, model: ModelConfig, provider: Provider) -> Present | None:
        """Returns the local model that was last found; None if none, or before the first probe."""
        found = self._last(model, provider)[2]
        return found if isinstance(found, Present) else None

    def is_absent(self, model: ModelConfig, provider: Provider) -> bool:
        """True if a probe found that a local model is not there but may be fetched."""
        return self._last(model, provider)[2] is None

    def digest(self, model: ModelConfig, provider: Provider) -> str | None:
        """Returns the digest of `seen`."""
        found = self._last(model, provider)[2]
        return found.digest if isinstance(found, Present) else None

    def forget(self) -> None:
        """Makes the next `ask` probe again, as after a pull. The last found model stays."""
        self._found = {key: (0.0, found) for key, (_, found) in self._found.copy().items()}

    def _last(
        self, model: ModelConfig, provider: Provider
    ) -> tuple[tuple[object, ...], float, Missing | Present | None]:
        """Returns (key, expiry, result). Rows without a probe never expire."""
        if provider.probe is None:
            return (), math.inf, _UNKNOWN
        key = (provider.name, api_base_of(model, provider), model.settings)  # all inputs of a probe
        return key, *self._found.get(key, (0.0, _UNKNOWN))


def ollama(model: ModelConfig) -> Missing | Present | None:
    """Returns the model on the server, or what is missing."""
    from testronaut_llm.local.ollama_models import ollama_missing

    return ollama_missing(model)


def embedded(model: ModelConfig) -> Missing | Present | None:
    """Returns the stored model, or what is missing: the runner or the model."""
    from testronaut_llm.local.local_provider import embedded_missing

    return embedded_missing(model)


def ollama_behind_openai(model: ModelConfig) -> Missing | None:
    """Refuses Ollama's OpenAI form, which cannot set the context length, unless the row states a window."""
    if not model.api_base or model.num_ctx or model.context_window:
        return None
    ours = {ollama_url(os.environ.get("OLLAMA_HOST", "").strip()), "http://127.0.0.1:11434"}
    asked = ollama_url(model.api_base.replace("//localhost", "//127.0.0.1"))
    if "/".join(asked.split("/")[:3]) not in ours:
        return None
    return Missing(
        "its api_base is Ollama's OpenAI form, which cannot set the context length and cuts longer prompts silently",
        f"write `model: ollama/{model.name}` without api_base, "
        f"or `context_window:` with the tokens that the server really reads",
    )


def google_cloud(model: ModelConfig) -> Missing | None:  # noqa: ARG001 - a probe takes its model
    """Returns what is missing if no project is named."""
    if os.environ.get("VERTEXAI_PROJECT"):
        return None
    return Missing("VERTEXAI_PROJECT is not set", "export VERTEXAI_PROJECT=<project> VERTEXAI_LOCATION=<region>")


BY_PROVIDER = {
    "openai": ollama_behind_openai,
    "ollama": ollama,
    "embedded": embedded,
    **dict.fromkeys(("vertex_ai", "vertex_ai_beta"), google_cloud),
}
