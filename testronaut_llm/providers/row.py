"""The shape of one row of the provider table: how to reach a provider and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

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
        local: does it run models on the host that its endpoint names?
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
    local: bool = False
    probe: Probe | None = None
