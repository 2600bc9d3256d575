"""Finds the URL and API version of a model, and checks if the host is its provider's or this machine."""

import os
import re
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.providers.row import Missing, Provider
from testronaut_llm.support.text import few, host_of

TRUST = "read it, then run: testronaut-llm trust"
_OLLAMA_PORT, _PORTS = 11434, {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):([^:]*)")
_HOST = re.compile(r"[\w.:%-]*")
_APPENDED_BY_LITELLM = {
    "azure": re.compile(r"/openai(/(deployments|v1)(/.*)?)?$"),
    "anthropic": re.compile(r"/v1(/messages)?$"),
    "ollama": re.compile(r"/(v1|api(/.*)?)$"),
    "openai": re.compile(r"/(chat/completions|completions|embeddings|responses)$"),
}
"""Paths at the end of a pasted URL, by wire; they are cut off, since LiteLLM appends them again."""


class Endpoint(NamedTuple):
    """How a model is reached."""

    url: str | None  # None if LiteLLM chooses it
    source: str = ""  # of the URL: `llm.yaml`, the name of a variable, `default`, or empty if there is none
    api_version: str | None = None  # of an Azure resource

    @property
    def from_file(self) -> bool:
        """True if it comes from the file, which may not be trusted."""
        return self.source == "llm.yaml"


def endpoint_of(model: ModelConfig, provider: Provider) -> Endpoint:
    """Returns the endpoint: `api_base`, then the provider's variables, then its default; the version likewise."""
    version = model.api_version
    if not version and provider.version_variables:
        version = next(filter(None, map(os.environ.get, provider.version_variables)), "v1")
    if model.api_base:
        return Endpoint(_tidy(model.api_base, provider.wire), "llm.yaml", version)
    for name in provider.base_variables:
        if url := os.environ.get(name, "").strip():
            return Endpoint(_tidy(url, provider.wire), name, version)
    return Endpoint(provider.default_base, "default" if provider.default_base else "", version)


def is_own_host(url: str, provider: Provider) -> bool:
    """True if the URL names a server of the provider, not another one with the same protocol."""
    host = host_of(url)
    for own in (*provider.hosts, host_of(provider.default_base or "")):
        if own and (host == own or host.endswith("." + own)):
            return True
    return False


def not_trusted(model: ModelConfig, provider: Provider | None = None) -> Missing | None:
    """Returns the settings without effect until the file is trusted; None if the model can be asked.

    `config.trust` checked the settings when the file was read. Here the host is checked: it must be the provider's own
    or this machine (an `api_base` that is not on loopback was removed).
    """
    if model.trusted:
        return None
    withheld = list(model.withheld)
    if provider:
        has_host = provider.local or model.api_base or provider.default_base or provider.hosts
        if provider.rented or ("api_base" in provider.required and provider.key_required) or not has_host:
            withheld.append(f"model ({model.model!r}, since {provider.name} has no fixed host)")
    if not withheld:
        return None
    return Missing(f"this llm.yaml is not trusted; without effect until then: {few(withheld)}", TRUST)


def url_problem(url: str) -> str | None:
    """Returns the problem of a URL, without the URL itself; None if a client can use it."""
    if "@" in url.partition("://")[2].partition("/")[0]:
        return "holds a user name or password"
    with suppress(ValueError):  # no URL, a port over 65535, a label of the host that is empty or too long
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        if parts.scheme in _PORTS and host.encode("idna") and _HOST.fullmatch(host) and url.isprintable():
            return None
    return "is not an http or https URL, its port at most 65535"


def pull_command(model: ModelConfig) -> str:
    """Returns the command that fetches a local model; by its alias if that names the server."""
    named = model.api_base and model.alias != "it"  # the alias that `local/` gives to a model without a row
    return f"testronaut-llm models pull {model.alias if named else model.model}"


def leaves_by_name(model: ModelConfig, provider: Provider) -> bool:
    """True for an Ollama model that runs on ollama.com, reached through the port of this machine."""
    return provider.wire == "ollama" and model.name.lower().endswith(("-cloud", ":cloud"))


@lru_cache(maxsize=256)
def _tidy(url: str, wire: str) -> str:
    url = url.strip().strip("\"'").strip().split("?", 1)[0]
    url = ollama_url(url) if wire == "ollama" else url.rstrip("/")
    tail = _APPENDED_BY_LITELLM.get(wire)
    return tail.sub("", url) if tail else url


def ollama_url(address: str) -> str:
    """Returns the URL of `OLLAMA_HOST`, as Ollama's own client reads it: `:11435`, `::1`, `box`, ...

    An invalid port and a login stay in the URL, so that `url_problem` finds them.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        scheme, rest = ("https", "ollama.com:443") if address == "ollama.com" else ("http", address)
    place, _, path = rest.partition("/")
    if "@" in place:
        return f"{scheme}://{rest}"
    split = _HOST_AND_PORT.fullmatch(place)
    host, port = split.groups() if split else (place, "")
    host = (host.strip("[]") if ":" in host else host) or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what a server binds, not us
    port = port or str(_PORTS.get(scheme if mark else "", _OLLAMA_PORT))
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{path}".rstrip("/")
