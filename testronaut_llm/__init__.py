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

__all__ = ["CallOptions", "EmbedOptions", "LLMConfig", "LLMManager", "Message", "Provider", "register_provider"]
__all__ += ["Answer", "AsyncStream", "Attempt", "Candidate", "Classification", "Comparison", "Embeddings", "Estimate"]
__all__ += ["Route", "Stream", "Usage"]
__all__ += ["AllModelsFailedError", "AuthenticationError", "BadResponseError", "BudgetExceededError", "CacheMissError"]
__all__ += ["CassetteMissError", "ConfigError", "ConnectionFailedError", "ContentFilteredError", "ContextWindowError"]
__all__ += ["InvalidRequestError", "LLMError", "LLMTimeoutError", "LocalModelError", "MissingCredentialError"]
__all__ += ["ModelNotFoundError", "NoReadyModelError", "OutputInvalidError", "OutputTruncatedError", "OverloadedError"]
__all__ += ["PermissionDeniedError", "ProviderError", "QuotaExceededError", "RateLimitError", "SecretInPromptError"]
__all__ += ["ServerError", "UnknownTaskError"]

_HOMES = {"Classification": "methods.classify", "Comparison": "methods.compare", "Estimate": "methods.batch"}
_HOMES |= {"LLMConfig": "config.model_config", "LLMManager": "llm_manager", "Provider": "providers.provider"}
_HOMES |= {"register_provider": "providers.provider_registry", "CallOptions": "options", "EmbedOptions": "options"}
_HOMES |= dict.fromkeys(("AsyncStream", "Stream"), "methods.streams")
_HOMES |= dict.fromkeys(("Answer", "Attempt", "Candidate", "Embeddings", "Message", "Route", "Usage"), "records")
"""The module of each public name that is not an error."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
