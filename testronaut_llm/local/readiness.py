"""Tells if a model is ready, and asks the servers and files of local models at most every few seconds."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import CassetteMissError, ConfigError, LLMError, LocalModelError
from testronaut_llm.local import embedded_child
from testronaut_llm.local.download import is_pinned
from testronaut_llm.local.machine import check_memory, memory_of_servers
from testronaut_llm.local.model_downloader import catalogue
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.ollama_provider import OllamaModel, OllamaServer
from testronaut_llm.providers.credentials import key_source
from testronaut_llm.providers.provider import (
    Endpoint,
    Missing,
    Present,
    Probe,
    Provider,
    endpoint_of,
    not_trusted,
    ollama_url,
    url_problem,
)
from testronaut_llm.providers.provider_registry import is_local, provider_of
from testronaut_llm.support.paths import install
from testronaut_llm.support.text import few, is_loopback

_UNKNOWN = Missing("not probed yet")
_SHOWN: dict[str, OllamaModel] = {}
"""Answers of `/api/show` by digest; they never change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`ready`, or what is `missing` and the `fix`; `note` names the sources of the key and the endpoint."""

    ready: bool
    missing: str = ""
    fix: str = ""
    note: str = ""
    unreachable: bool = False


def readiness(model: ModelConfig, *, probes: Probes | None = None) -> Readiness:
    """Returns what a model lacks: trust; else all of variables, fields, an endpoint and a key; else a server.

    Without `probes`, which remember, servers are asked now.
    """
    exports = " ".join(f"{name}='your value'" for name in model.unset)
    unset = Missing(f"{few(model.unset)} is not set", f"export {exports}") if model.unset else None
    try:
        provider = provider_of(model)
    except ConfigError as error:
        lack = not_trusted(model) or unset or Missing(str(error))
        return Readiness(ready=False, missing=lack.what, fix=lack.fix)
    endpoint, source = endpoint_of(model, provider), key_source(model, provider)
    check = _CHECKS.get(provider.name)
    steps = [one for one in (unset or _incomplete(model, provider, endpoint), source.missing) if one]
    missing = (
        not_trusted(model, provider)
        or (steps and Missing("; ".join(one.what for one in steps), "; then ".join(one.fix for one in steps)))
        or (check and check(model))
        or (probes or Probes()).ask(model, provider)
    )
    if missing:
        return Readiness(ready=False, missing=missing.what, fix=missing.fix, unreachable=missing.unreachable)
    notes = [source.note] if source.note else []
    if endpoint.source not in ("", "default"):
        notes.append(f"endpoint from {endpoint.source}")
    if endpoint.api_version:
        notes.append(f"api_version {endpoint.api_version}")
    return Readiness(ready=True, note=", ".join(notes))


def _incomplete(model: ModelConfig, provider: Provider, endpoint: Endpoint) -> Missing | None:
    """Returns what is missing in its row of `llm.yaml`: an endpoint, fields, or a valid URL."""
    # An `openai.OpenAI` without an endpoint would send the key of this provider to OpenAI.
    must_be_told = provider.client == "openai" and not provider.local
    if endpoint.url is None and (must_be_told or "api_base" in provider.required):
        also = "".join(f", or set {variable}" for variable in provider.base_variables[:1])
        return Missing(f"{provider.name} needs an endpoint", f"add `api_base:` in llm.yaml{also}")
    refused = provider.refused(model.extra)
    if refused and provider.refused(model.extra, embedding=True):
        return Missing(refused, "correct `extra:` in llm.yaml")
    for field in provider.required:
        if field != "api_base" and getattr(model, field, None) in (None, ""):
            return Missing(f"{provider.name} needs `{field}`", f"add `{field}:` in llm.yaml")
    if endpoint.url is not None and (problem := url_problem(endpoint.url)):
        return Missing(f"the endpoint of {endpoint.source} {problem}", "expected a URL such as https://host.example/v1")
    return None


class Probes:
    """Results of asking for local models, and of the probes of rows, remembered for some seconds."""

    def __init__(self, *, remember: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember = remember
        self._clock = clock
        self._found: dict[tuple[object, ...], tuple[float, Missing | Present | None]] = {}

    def ask(self, model: ModelConfig, provider: Provider) -> Missing | None:
        """Returns what is missing by the row's probe, at most some seconds old."""
        key, expires, found = self._last(model, provider)
        if self._clock() >= expires and (probe := _probe_of(provider)):
            found = probe(model)
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

    def forget(self) -> None:
        """Makes the next `ask` probe again, as after a pull. The last found model stays."""
        self._found = {key: (0.0, found) for key, (_, found) in self._found.copy().items()}

    def _last(
        self, model: ModelConfig, provider: Provider
    ) -> tuple[tuple[object, ...], float, Missing | Present | None]:
        """Returns (key, expiry, result). Rows without a probe never expire."""
        if _probe_of(provider) is None:
            return (), math.inf, _UNKNOWN
        key = (provider.name, endpoint_of(model, provider).url, model.settings)  # all inputs of a probe
        return key, *self._found.get(key, (0.0, _UNKNOWN))


def _probe_of(provider: Provider) -> Probe | None:
    local = _PROBES.get(provider.name) if provider.local else None
    return provider.probe or local


def _ollama_behind_openai(model: ModelConfig) -> Missing | None:
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


def _google_cloud(_: ModelConfig) -> Missing | None:
    """Returns what is missing if no project is named."""
    if os.environ.get("VERTEXAI_PROJECT"):
        return None
    return Missing(
        "VERTEXAI_PROJECT is not set", "export VERTEXAI_PROJECT='your project' VERTEXAI_LOCATION='your region'"
    )


_CHECKS: Mapping[str, Callable[[ModelConfig], Missing | None]] = {
    "openai": _ollama_behind_openai,
    **dict.fromkeys(("vertex_ai", "vertex_ai_beta"), _google_cloud),
}
"""Needs of some providers beyond a key and an endpoint, by name."""


def ollama_missing(model: ModelConfig) -> Missing | Present | None:
    """Returns why a model is not ready, or which one it is; None if it may be pulled. Takes a second at most."""
    running = None
    try:
        with OllamaServer.of(model) as server:
            found = server.find(model.name) if model.auto_pull is True else server.pulled(model.name)
            if found is None:
                return None
            details = _details(server, model, found)
            _check_expected(server, model, found)
            with suppress(LLMError):  # an older server may not tell
                running = server.find(model.name, loaded=True)
    except CassetteMissError:
        raise  # an error of the test, not of the server
    except LLMError as error:
        what, _, fix = str(error).partition("; ")
        return Missing(what, fix.removeprefix("run: "), unreachable=what.startswith("no Ollama answers"))
    thinks = "thinking" in details.capabilities if details.capabilities else None
    loaded = running.context_length if running else None
    return Present(found.digest, details.context_length, thinks, loaded, time.monotonic())


def _details(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> OllamaModel:
    """Returns the model from the server's list, or from `show` if the list of an older server lacks details."""
    needs_capabilities = model.reasoning not in (None, "off") and not found.capabilities
    if found.context_length is not None and not needs_capabilities:
        return found
    with suppress(LLMError):
        if found.digest not in _SHOWN:
            _SHOWN[found.digest] = server.show(found.name)
        return _SHOWN[found.digest]
    return found


def _check_expected(server: OllamaServer, model: ModelConfig, found: OllamaModel) -> None:
    """Raises LocalModelError if a model is not the pinned one, runs on another host, or does not fit into memory."""
    if not is_pinned(found.digest, model.digest):
        pinned = f"{model.name!r} has digest {found.digest[:12]}, and llm.yaml pins {model.digest}"
        raise LocalModelError(f"{pinned}; {server.pull_command(model.name)}, or correct `digest:`")
    if found.remote_host and is_local(model):  # its name and address look local; only the server reports it
        fix = "to allow that, write `local: false` (private tasks then skip it)"
        raise LocalModelError(
            f"{model.name!r} does not run here: Ollama sends its prompts to {found.remote_host}; {fix}"
        )
    if is_local(model) and is_loopback(server.url):
        try:
            check_memory(repr(model.name), found.size, memory_of_servers())
        except LocalModelError as error:
            raise LocalModelError(f"{error}, or write `local: false` if the server is not on this machine") from None


def embedded_missing(model: ModelConfig, *, store: ModelStore | None = None) -> Missing | Present | None:
    """Returns why an embedded model is not ready, or which one it is; None if a call will fetch it."""
    try:
        stored = (store or ModelStore()).get(model.name)
    except LocalModelError as error:
        return Missing(str(error))
    if never := embedded_child.unsupported():
        return never
    lacks, steps = [], []
    if importlib.util.find_spec("xllamacpp") is None:
        lacks.append("the package xllamacpp is not installed")
        steps.append(install("embedded"))
    if stored is None and not (model.auto_pull is True and model.name in catalogue()):
        lacks.append("the model is not on this machine")
        steps.append(f"testronaut-llm models pull embedded/{model.name}")
    if lacks:
        return Missing(", and ".join(lacks), "; then ".join(steps))
    return embedded_child.library_problem() or (Present(stored.sha256) if stored else None)


_PROBES: Mapping[str, Probe] = {"ollama": ollama_missing, "embedded": embedded_missing}
