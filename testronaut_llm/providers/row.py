"""One row of the table of providers: how to reach a provider, what it needs, which body fields it supports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from testronaut_llm.config.extra_fields import OTHER_FIELDS, refused_in_extra, refused_options
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.problems import quoted
from testronaut_llm.support.text import did_you_mean

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
