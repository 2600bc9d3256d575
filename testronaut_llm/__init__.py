"""Asks language models by task: routing, cost, cache and fallback on top of LiteLLM.

Each public name is loaded at its first use, so that importing the package is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig
    from testronaut_llm.errors import (
        AllModelsFailedError,
        AuthenticationError,
        BadResponseError,
        BudgetExceededError,
        CacheMissError,
        CassetteMissError,
        ConfigError,
        ConnectionFailedError,
        ContentFilteredError,
        ContextWindowError,
        InvalidRequestError,
        LLMError,
        LLMTimeoutError,
        LocalModelError,
        MissingCredentialError,
        ModelNotFoundError,
        NoReadyModelError,
        OutputInvalidError,
        OutputTruncatedError,
        OverloadedError,
        PermissionDeniedError,
        ProviderError,
        QuotaExceededError,
        RateLimitError,
        SecretInPromptError,
        ServerError,
        UnknownTaskError,
    )
    from testronaut_llm.llm_manager import LLMManager
    from testronaut_llm.methods.batch import Estimate
    from testronaut_llm.methods.classify import Classification
    from testronaut_llm.methods.compare import Comparison
    from testronaut_llm.methods.streams import AsyncStream, Stream
    from testronaut_llm.options import CallOptions, EmbedOptions
    from testronaut_llm.providers.provider import Provider
    from testronaut_llm.providers.provider_registry import register_provider
    from testronaut_llm.records import Answer, Attempt, Candidate, Embeddings, Message, Route, Usage

__version__ = "0.1.0"

__all__ = [
    "AllModelsFailedError",
    "Answer",
    "AsyncStream",
    "Attempt",
    "AuthenticationError",
    "BadResponseError",
    "BudgetExceededError",
    "CacheMissError",
    "CallOptions",
    "Candidate",
    "CassetteMissError",
    "Classification",
    "Comparison",
    "ConfigError",
    "ConnectionFailedError",
    "ContentFilteredError",
    "ContextWindowError",
    "EmbedOptions",
    "Embeddings",
    "Estimate",
    "InvalidRequestError",
    "LLMConfig",
    "LLMError",
    "LLMManager",
    "LLMTimeoutError",
    "LocalModelError",
    "Message",
    "MissingCredentialError",
    "ModelNotFoundError",
    "NoReadyModelError",
    "OutputInvalidError",
    "OutputTruncatedError",
    "OverloadedError",
    "PermissionDeniedError",
    "Provider",
    "ProviderError",
    "QuotaExceededError",
    "RateLimitError",
    "Route",
    "SecretInPromptError",
    "ServerError",
    "Stream",
    "UnknownTaskError",
    "Usage",
    "register_provider",
]

_HOMES = {
    name: module
    for module, names in {
        "methods.batch": "Estimate",
        "methods.classify": "Classification",
        "methods.compare": "Comparison",
        "config.model_config": "LLMConfig",
        "llm_manager": "LLMManager",
        "options": "CallOptions EmbedOptions",
        "providers.provider": "Provider",
        "providers.provider_registry": "register_provider",
        "records": "Answer Attempt Candidate Embeddings Message Route Usage",
        "methods.streams": "AsyncStream Stream",
    }.items()
    for name in names.split()
}
"""The module of each public name that is not an error."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
