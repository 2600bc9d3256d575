"""One row of the table of providers: how to reach a provider, what it needs, which body fields it supports."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from testronaut_llm.config.extra_fields import OTHER_FIELDS, refused_in_extra, refused_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.problems import quoted
from testronaut_llm.support.text import did_you_mean, few, host_of

Wire = Literal["openai", "azure", "anthropic", "ollama", "other"]
SchemaDialect = Literal["openai", "azure", "strict", "anthropic", "free", "none"]
STRICT_DIALECTS: frozenset[SchemaDialect] = frozenset({"openai", "azure", "strict"})
"""Dialects of OpenAI's strict mode: OpenAI itself, Azure, and other servers that follow it."""
ClientKind = Literal["openai", "azure", "handler", "none"]


class Missing(NamedTuple):
    """Why a model is not ready (`what`), and the line or command that fixes it."""

    what: str
    fix: str = ""
    unreachable: bool = False
    """Its server does not answer."""


class Present(NamedTuple):
    """A local model that was found: its digest, its context window in tokens, and True if it can reason.

    `loaded` is the context with which it was in memory, at the monotonic time `at`.
    """

    digest: str
    context: int | None = None
    thinks: bool | None = None
    loaded: int | None = None
    at: float = 0.0


Probe = Callable[["ModelConfig"], Missing | Present | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider. The defaults describe a cloud service that speaks OpenAI's protocol.

    Attributes:
        name: the part before the slash in `llm.yaml`; `litellm_prefix` is LiteLLM's name.
        wire: the provider whose error bodies and finish reasons it uses.
        schema_dialect: the JSON Schema of its structured output; `none`: the schema is sent as words.
        client: the class of LiteLLM's `client` for a chat: `openai.OpenAI`, `openai.AzureOpenAI`
            or LiteLLM's `HTTPHandler`.
        embedding_client: the same for embeddings, None if it is `client`; `none`: LiteLLM opens its own.
        key_variables: environment variables of its usual key; the first that is set counts. The same for
            `base_variables` (its endpoint) and `version_variables` (its API version).
        default_base: its own endpoint; None leaves it to LiteLLM.
        hosts: further hosts (with their subdomains) that are the provider's own.
        extra: body fields that `extra` of a chat may hold; None if LiteLLM sends any, in its `extra_body`.
            `embedding_extra` is the same for embeddings.
        required: fields of `ModelConfig` that it needs.
        generic: True if its name is also used for other servers with its protocol. They get its usual key only if
            `api_key_env` names it.
        rented: True if anybody can rent a host of it, or if it signs with credentials of the machine. A file that is
            not trusted cannot use it.
        local: True if it runs models on the host that its endpoint names.
        logprobs: most log-probabilities per token on request; 0 if none.
        texts: most texts to embed in one request.
        probe: checks more, at no cost: returns what is missing, the local model, or None.
    """

    name: str
    litellm_prefix: str = "openai"
    wire: Wire = "openai"
    schema_dialect: SchemaDialect = "strict"
    client: ClientKind = "openai"
    embedding_client: ClientKind | None = None
    key_variables: tuple[str, ...] = ()
    base_variables: tuple[str, ...] = ()
    version_variables: tuple[str, ...] = ()
    default_base: str | None = None
    hosts: tuple[str, ...] = ()
    extra: frozenset[str] | None = None
    embedding_extra: frozenset[str] | None = None
    required: tuple[str, ...] = ()
    key_required: bool = True
    generic: bool = False
    rented: bool = False
    local: bool = False
    logprobs: int = 0
    texts: int = 96
    probe: Probe | None = None

    def refused(self, extra: Mapping[str, Any], *, embedding: bool = False) -> str | None:
        """Returns the problem of the first field of `extra` that cannot be sent; None if all can."""
        if not extra:
            return None
        if self.name in OTHER_FIELDS:
            wrong = (*refused_in_extra(extra), *refused_options(self.name, extra, embedding=embedding))
            return f"extra holds {quoted('.'.join(wrong[0][0]))}: {wrong[0][1]}" if wrong else None
        known = self.embedding_extra if embedding else self.extra
        for name in extra if known is not None else ():
            if not known:
                return f"extra holds {quoted(name)}, and LiteLLM has no way to send further body fields to {self.name}"
            if name not in known:
                return f"extra holds {quoted(name)}, not a body field of {self.name}{did_you_mean(name, known)}"
        return None

    def body_arguments(self, body: Mapping[str, Any], *, embedding: bool = False) -> dict[str, Any]:
        """Returns the arguments with which LiteLLM puts these fields into the body without acting on them.

        That is `extra_body`, but for Anthropic, and Ollama's embeddings, LiteLLM would send a field of that name. There
        each field is an argument of its own, with a list of those to pass on.
        """
        if not body or self.wire not in (("ollama",) if embedding else ("anthropic",)):
            return {"extra_body": dict(body)} if body else {}
        return dict(body) if embedding else {**body, "allowed_openai_params": list(body)}


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
