"""The shape of one row of the provider table: how to reach a provider, what it needs, what `extra` may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from testronaut_llm.config.faults import shown
from testronaut_llm.config.local_options import OTHER_FIELDS, refused_options
from testronaut_llm.support.owned_fields import refused_in_extra
from testronaut_llm.support.text import did_you_mean

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

Wire = Literal["openai", "azure", "anthropic", "ollama", "other"]
SchemaDialect = Literal["openai", "azure", "strict", "anthropic", "free", "none"]
STRICT_DIALECTS: frozenset[SchemaDialect] = frozenset({"openai", "azure", "strict"})
"""OpenAI's strict mode: with the bounds that OpenAI takes, with Azure's limits, and with neither."""
ClientKind = Literal["openai", "azure", "handler", "none"]


class Missing(NamedTuple):
    """What keeps a model from being asked, and the line or command that mends it."""

    what: str
    mend: str = ""


class Present(NamedTuple):
    """A local model that is there: which one it is, the tokens of context it was made for, and whether it can think."""

    digest: str
    context: int | None = None
    thinks: bool | None = None


Probe = Callable[["ModelConfig"], Missing | Present | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider. The defaults describe a cloud service that speaks the OpenAI wire.

    Attributes:
        name: what stands before the slash in `llm.yaml`.
        litellm_prefix: what LiteLLM calls it.
        wire: whose error bodies and finish reasons its answers follow.
        schema_dialect: which JSON Schema its structured output takes; `none`: the schema goes as words.
        client: the client object that LiteLLM takes for a chat: `openai.OpenAI`, `openai.AzureOpenAI`
            or LiteLLM's `HTTPHandler`.
        embedding_client: the same for embeddings, None where it is the same; `none`: LiteLLM opens its own.
        key_variables: environment variables of its usual key, in the order of trying.
        base_variables: environment variables of its endpoint.
        version_variables: environment variables of its API version.
        default_base: its own endpoint; None leaves it to LiteLLM.
        hosts: further hosts (with their subdomains) that are the provider's own.
        extra: body fields that a chat's `extra` may hold; None where LiteLLM sends any, in its `extra_body`.
        embedding_extra: the same for embeddings.
        required: fields of `ModelConfig` without which it cannot be reached.
        key_required: is it never asked without a key?
        generic: does its name also stand for other people's servers that speak its wire? They get
            its usual key only when `api_key_env` says so.
        rented: can anybody rent a host of it, or does it sign with credentials that it finds? An untrusted file may
            not name it.
        local: does it run models on the host that its endpoint names?
        logprobs: how many log-probabilities a token it gives on request; 0 if none.
        probe: a further look at the world (never a paid call): what is missing, which model is there, or None.
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
    probe: Probe | None = None

    def refused(self, extra: Mapping[str, Any], *, embedding: bool = False) -> str | None:
        """Returns what is wrong with the first field of `extra` that cannot be sent; None if all can be."""
        if self.name in OTHER_FIELDS:
            wrong = chain(refused_in_extra(extra), refused_options(self.name, extra, embedding=embedding))
            return next((f"extra holds {shown('.'.join(place))}: {why}" for place, why in wrong), None)
        known = self.embedding_extra if embedding else self.extra
        unknown = next((name for name in extra if known is not None and name not in known), None)
        if unknown is None:
            return None
        if not known:
            return f"extra holds {shown(unknown)}, and LiteLLM has no way to send further body fields to {self.name}"
        return f"extra holds {shown(unknown)}, no body field of {self.name}{did_you_mean(unknown, known)}"

    def body_arguments(self, body: Mapping[str, Any], *, embedding: bool = False) -> dict[str, Any]:
        """Returns the arguments with which LiteLLM puts these fields into the body, and does not act upon them.

        That is `extra_body`. Anthropic, and Ollama for embeddings, would be sent a field of that name. There each field
        is an argument of its own, of a list that LiteLLM hands on.
        """
        if not body or self.wire not in (("ollama",) if embedding else ("anthropic",)):
            return {"extra_body": dict(body)} if body else {}
        return dict(body) if embedding else {**body, "allowed_openai_params": list(body)}
