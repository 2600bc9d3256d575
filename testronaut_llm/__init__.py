"""One door to every language model: tasks, routing, cost, cache and fallback over LiteLLM."""

from __future__ import annotations

from testronaut_llm.comparison import Comparison
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
    ServerError,
    UnknownTaskError,
)
from testronaut_llm.llm_manager import LLMManager
from testronaut_llm.model_config import LLMConfig
from testronaut_llm.provider_registry import Provider, register_provider
from testronaut_llm.records import Answer, Attempt, Candidate, Embeddings, Message, Route, Usage
from testronaut_llm.streams import AsyncStream, Stream

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
    "Candidate",
    "CassetteMissError",
    "Comparison",
    "ConfigError",
    "ConnectionFailedError",
    "ContentFilteredError",
    "ContextWindowError",
    "Embeddings",
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
    "ServerError",
    "Stream",
    "UnknownTaskError",
    "Usage",
    "register_provider",
]
