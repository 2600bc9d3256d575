"""Which provider a model has, how it is reached, and whether it is ready: known before LiteLLM is loaded.

The door to `providers/`: the shape of a row (`row.py`), the rows (`table.py`), and URLs (`endpoint.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from testronaut_llm.config.problems import few
from testronaut_llm.errors import ConfigError
from testronaut_llm.providers import endpoint
from testronaut_llm.providers.credentials import KeySource, key_source
from testronaut_llm.providers.endpoint import api_base_of, api_version_of, leaves_by_name, pull_command, runs_here
from testronaut_llm.providers.row import Missing, Present, Provider
from testronaut_llm.providers.table import ENTRY_POINTS, find_provider, register_provider

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

__all__ = [
    "ENTRY_POINTS",
    "Missing",
    "Probes",
    "Provider",
    "Readiness",
    "api_base_of",
    "api_version_of",
    "is_local",
    "provider_of",
    "pull_command",
    "readiness",
    "register_provider",
    "timeout_of",
]


def provider_of(model: ModelConfig) -> Provider:
    """Returns the row of a model's provider.

    Raises:
        ConfigError: the provider is unknown; the message names the closest one.
    """
    return find_provider(model.provider)


def is_local(model: ModelConfig) -> bool:
    """True if `private` tasks may use it: a model server on loopback, or `local: true`; never a `-cloud` tag.

    Raises:
        ConfigError: the provider is unknown.
    """
    return runs_here(model, provider_of(model))


def timeout_of(model: ModelConfig) -> float:
    """Returns seconds for one attempt where the task says nothing: 600 for models that run here or nearby, else 120.

    Raises:
        ConfigError: the provider is unknown.
    """
    provider = provider_of(model)
    nearby = (provider.local and not leaves_by_name(model, provider)) or model.local
    return 600.0 if nearby else 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The answer. `note` says what would be used: where the key comes from, and the endpoint."""

    ready: bool
    missing: str = ""
    mend: str = ""
    note: str = ""


_UNKNOWN = Missing("not looked at")


class Probes:
    """Remembers for some seconds what the rows' probes found, so that a busy manager does not ask at each call."""

    def __init__(self, *, remember: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._remember = remember
        self._clock = clock
        self._found: dict[tuple[object, ...], tuple[float, Missing | Present | None]] = {}

    def ask(self, model: ModelConfig, provider: Provider) -> Missing | None:
        """Returns what the row's probe misses, now or some seconds ago."""
        expires, found = self._last(model, provider)
        if provider.probe and self._clock() >= expires:
            found = provider.probe(model)
            self._found[_key(model, provider)] = (self._clock() + self._remember, found)
        return found if isinstance(found, Missing) and found is not _UNKNOWN else None

    def remembers(self, model: ModelConfig, provider: Provider) -> bool:
        """True if `ask` would ask nobody."""
        return self._clock() < self._last(model, provider)[0]

    def seen(self, model: ModelConfig, provider: Provider) -> Present | None:
        """Returns the local model that was seen behind this name; None where nobody has looked, or nobody can say."""
        seen = self._last(model, provider)[1]
        return seen if isinstance(seen, Present) else None

    def is_absent(self, model: ModelConfig, provider: Provider) -> bool:
        """True if somebody has looked for a local model, and it is not there but may be fetched."""
        return self._last(model, provider)[1] is None

    def digest(self, model: ModelConfig, provider: Provider) -> str | None:
        """Returns the digest of the model that was seen."""
        seen = self.seen(model, provider)
        return seen.digest if seen else None

    def forget(self) -> None:
        """Asks anew next time, as after a pull."""
        self._found = {key: (0.0, found) for key, (_, found) in self._found.copy().items()}

    def _last(self, model: ModelConfig, provider: Provider) -> tuple[float, Missing | Present | None]:
        """Returns when the last result expires, and the result. Rows without a probe never expire."""
        if provider.probe is None:
            return math.inf, _UNKNOWN
        return self._found.get(_key(model, provider), (0.0, _UNKNOWN))


def _key(model: ModelConfig, provider: Provider) -> tuple[object, ...]:
    """Returns all that a probe may look at, which `extra` is not."""
    return (provider.name, endpoint.api_base_of(model, provider), model.settings)


def readiness(model: ModelConfig, *, probes: Probes | None = None) -> Readiness:
    """Returns the first thing that a model lacks: trust, variables, fields, a usable endpoint, a key, a server.

    Without `probes`, which remember, servers are asked now.
    """
    try:
        provider = find_provider(model.provider)
    except ConfigError as error:
        return _not_ready(endpoint.not_trusted(model) or _unset(model) or Missing(str(error)))
    base = endpoint.base_of(model, provider)
    source = key_source(model, provider)
    missing = (
        endpoint.not_trusted(model, provider)
        or _unset(model)
        or _fields(model, provider, base)
        or _endpoint(base)
        or source.missing
        or (probes or Probes()).ask(model, provider)
    )
    return _not_ready(missing) if missing else Readiness(ready=True, note=_note(model, provider, base, source))


def _unset(model: ModelConfig) -> Missing | None:
    if not model.unset:
        return None
    return Missing(f"{few(model.unset)} is not set", f"export {model.unset[0]}=<value>")


def _not_ready(missing: Missing) -> Readiness:
    return Readiness(ready=False, missing=missing.what, mend=missing.mend)


def _fields(model: ModelConfig, provider: Provider, base: endpoint.Base) -> Missing | None:
    # An `openai.OpenAI` without an endpoint would take OpenAI's, and the key of another along.
    must_be_told = provider.client == "openai" and not provider.local
    if base.url is None and (must_be_told or "api_base" in provider.required):
        also = "".join(f", or set {variable}" for variable in provider.base_variables[:1])
        return Missing(f"{provider.name} needs an endpoint", f"add `api_base:` in llm.yaml{also}")
    chat, embedding = (provider.refused(model.extra, embedding=which) for which in (False, True))
    if chat and embedding:
        return Missing(chat, "correct `extra:` in llm.yaml")
    for field in provider.required:
        if field != "api_base" and getattr(model, field, None) in (None, ""):
            return Missing(f"{provider.name} needs `{field}`", f"add `{field}:` in llm.yaml")
    return None


def _endpoint(base: endpoint.Base) -> Missing | None:
    fault = endpoint.fault_of(base.url) if base.url is not None else None
    if fault is None:
        return None
    return Missing(f"the endpoint of {base.source} {fault}", "expected a URL such as https://host.example/v1")


def _note(model: ModelConfig, provider: Provider, base: endpoint.Base, source: KeySource) -> str:
    parts = [source.note]
    if base.source and base.source != "default":
        parts.append(f"endpoint from {base.source}")
    if version := endpoint.api_version_of(model, provider):
        parts.append(f"api_version {version}")
    return ", ".join(filter(None, parts))
