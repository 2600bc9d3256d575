"""Which providers there are, and what is known of a model's provider before LiteLLM is loaded.

The one door to `providers/`: rows of data (`rows.py`), the table that holds them (`table.py`),
where a model is reached (`endpoint.py`) and whether it is ready (`readiness.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testronaut_llm.providers.endpoint import api_base_of, api_version_of, leaves_by_name, pull_command, runs_here
from testronaut_llm.providers.readiness import Probes, Readiness, readiness
from testronaut_llm.providers.row import Missing, Provider
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
    """The row of a model's provider.

    Raises:
        ConfigError: the provider is unknown; the message names the closest one.
    """
    return find_provider(model.provider)


def is_local(model: ModelConfig) -> bool:
    """May `private` tasks use it? A model server on loopback, or where `local: true` says so; never a `-cloud` tag.

    Raises:
        ConfigError: the provider is unknown.
    """
    return runs_here(model, provider_of(model))


def timeout_of(model: ModelConfig) -> float:
    """Seconds for one attempt where the task says nothing: 600 for models that run here or nearby, else 120.

    Raises:
        ConfigError: the provider is unknown.
    """
    provider = provider_of(model)
    nearby = (provider.local and not leaves_by_name(model, provider)) or model.local
    return 600.0 if nearby else 120.0
