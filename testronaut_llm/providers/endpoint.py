"""Where a model is reached: its URL, whose host that is, whether it is this machine, and what a quick look finds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from testronaut_llm.config.problems import few
from testronaut_llm.providers.row import Missing, Present
from testronaut_llm.support.text import host_of, is_loopback

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.providers.row import Provider

TRUST = "read it, then run: testronaut-llm trust"
_OLLAMA_PORT, _PORTS = 11434, {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):([^:]*)")
_HOST = re.compile(r"[\w.:%-]*")
_SPARE_TAIL = {
    # What people paste from a portal or an SDK, and LiteLLM would append a second time.
    "azure": re.compile(r"/openai(/(deployments|v1)(/.*)?)?$"),
    "anthropic": re.compile(r"/v1(/messages)?$"),
    "ollama": re.compile(r"/(v1|api(/.*)?)$"),
    "openai": re.compile(r"/(chat/completions|completions|embeddings|responses)$"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An endpoint and where it was found: `llm.yaml`, the name of a variable, `default`, or nowhere."""

    url: str | None
    source: str = ""

    @property
    def from_file(self) -> bool:
        """True if it was written in the file, which may be a stranger's."""
        return self.source == "llm.yaml"


def base_of(model: ModelConfig, provider: Provider) -> Base:
    """Returns the endpoint with its source: `api_base`, then the provider's variables, then its default."""
    if model.api_base:
        return Base(url=_tidy(model.api_base, provider.wire), source="llm.yaml")
    for name in provider.base_variables:
        if url := os.environ.get(name, "").strip():
            return Base(url=_tidy(url, provider.wire), source=name)
    return Base(url=provider.default_base, source="default" if provider.default_base else "")


def api_base_of(model: ModelConfig, provider: Provider) -> str | None:
    """Returns the endpoint as LiteLLM wants it, or None where LiteLLM knows it better."""
    return base_of(model, provider).url


def api_version_of(model: ModelConfig, provider: Provider) -> str | None:
    """Returns the API version of an Azure resource: `api_version`, then the variables, then `v1`; None elsewhere."""
    if not provider.version_variables:
        return model.api_version
    found = (os.environ.get(variable) for variable in provider.version_variables)
    return model.api_version or next(filter(None, found), "v1")


def is_own_host(url: str, provider: Provider) -> bool:
    """True if the URL names a server of the provider itself, not merely one that speaks like it."""
    host = host_of(url)
    own = [*provider.hosts, host_of(provider.default_base or "")]
    return any(name and (host == name or host.endswith("." + name)) for name in own)


def not_trusted(model: ModelConfig, provider: Provider | None = None) -> Missing | None:
    """Returns what trusting its file would change for a model that cannot be asked until then; None if it can be.

    What the file says was judged by `config.trust` when it was read. Here its provider is.
    """
    if model.trusted:
        return None
    withheld = list(model.withheld)
    if provider and not _has_fixed_host(model, provider):
        withheld.append(f"model ({model.model!r}, since {provider.name} has no fixed host)")
    if not withheld:
        return None
    return Missing(f"this llm.yaml is not trusted; without effect until then: {few(withheld)}", TRUST)


def _has_fixed_host(model: ModelConfig, provider: Provider) -> bool:
    """True if its host is the provider's own or this machine; `api_base` is on loopback, or was withheld."""
    if provider.rented or ("api_base" in provider.required and provider.key_required):
        return False
    return provider.local or bool(model.api_base or provider.default_base or provider.hosts)


def fault_of(url: str) -> str | None:
    """Returns what is wrong with a URL, in words that do not repeat it; None if a client can use it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # raises for a label that is empty or too long
    except ValueError:
        return "is no URL"
    if not (_HOST.fullmatch(host) and url.isprintable()):
        return "is no URL"
    if parts.scheme not in ("http", "https") or not host:
        return "is no http or https URL"
    if "@" in parts.netloc:
        return "holds a user name or password"
    try:
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError:
        return "has a port that is no number from 0 to 65535"
    return None


def pull_command(model: ModelConfig) -> str:
    """Returns the command that fetches a local model; by the name of its row where that says which server."""
    named = model.api_base and model.alias != "it"  # which is what a trial calls the model that it looks at
    return f"testronaut-llm models pull {model.alias if named else model.model}"


def runs_here(model: ModelConfig, provider: Provider) -> bool:
    """True if `private` tasks may use it: a model server on loopback, or `local: true`; never a `-cloud` tag."""
    if leaves_by_name(model, provider):
        return False
    if model.local is not None:
        return model.local
    url = api_base_of(model, provider)
    return provider.local and (url is None or is_loopback(url))


def leaves_by_name(model: ModelConfig, provider: Provider) -> bool:
    """True for an Ollama model that ollama.com answers for, through the port of this machine."""
    return provider.wire == "ollama" and model.name.lower().endswith(("-cloud", ":cloud"))


@lru_cache(maxsize=256)
def _tidy(url: str, wire: str) -> str:
    url = url.strip().strip("\"'").strip().split("?", 1)[0]
    url = ollama_url(url) if wire == "ollama" else url.rstrip("/")
    tail = _SPARE_TAIL.get(wire)
    return tail.sub("", url) if tail else url


def ollama_url(address: str) -> str:
    """Returns the URL that `OLLAMA_HOST` stands for: `0.0.0.0`, `:11435`, `::1`, `box`, `https://box/path`, ...

    It is read as Ollama's own client reads it, but for a port that is none and a login: these stay, for `fault_of`.
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


def ollama_probe(model: ModelConfig) -> Missing | Present | None:
    """Looks whether the server answers and has the model."""
    from testronaut_llm.local.ollama_models import ollama_missing

    return ollama_missing(model)


def embedded_probe(model: ModelConfig) -> Missing | Present | None:
    """Looks whether the runner is installed and the model in the store."""
    from testronaut_llm.local.local_provider import embedded_missing

    return embedded_missing(model)


def ollama_behind_openai(model: ModelConfig) -> Missing | None:
    """Ollama's OpenAI form cannot set the context length, and cuts longer prompts without a word."""
    if not model.api_base or model.num_ctx or model.context_window:
        return None
    ours = {ollama_url(os.environ.get("OLLAMA_HOST", "").strip()), "http://127.0.0.1:11434"}
    asked = ollama_url(model.api_base.replace("//localhost", "//127.0.0.1"))
    if "/".join(asked.split("/")[:3]) not in ours:
        return None
    return Missing(
        "its api_base is Ollama's OpenAI form, which cannot set the context length and cuts longer prompts silently",
        f"write `model: ollama/{model.name}` without api_base, "
        f"or `context_window:` with the tokens that the server really takes",
    )


def google_cloud(model: ModelConfig) -> Missing | None:  # noqa: ARG001 - every probe is asked with its model
    """Looks whether a project is named."""
    if os.environ.get("VERTEXAI_PROJECT"):
        return None
    return Missing("VERTEXAI_PROJECT is not set", "export VERTEXAI_PROJECT=<project> VERTEXAI_LOCATION=<region>")
