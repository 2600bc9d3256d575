"""A table of providers of a test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testronaut_llm.providers import provider_registry as registry


@pytest.fixture
def own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """At the end, the rows that were registered and all that was read of plugins and LiteLLM are forgotten."""
    read = (registry._plugins, registry.find_provider, registry.litellm_names, registry.litellm_services)
    monkeypatch.setattr(registry, "_table", dict(registry._table))
    for one in read:
        one.cache_clear()
    yield
    for one in read:
        one.cache_clear()
