"""Our prices compared with genai-prices, an independent table: the differences, and which table is right."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from source_tree import pin

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.money.prices import PriceTable, Table
from testronaut_llm.records import Usage
from testronaut_llm.support.paths import version

# The lists below are of the locked releases; others differ in a few rows each, which were not looked up.
pytestmark = pytest.mark.skipif(
    any(pin(name) != version(name) for name in ("litellm", "tokencost", "genai-prices")),
    reason="compares the locked price tables",
)

GENAI_NAMES = {
    **{name: name for name in ("openai", "anthropic", "mistral", "groq", "deepseek", "cohere")},
    "gemini": "google",
    "xai": "x-ai",
}

DIFFERS_FROM_GENAI = {
    # retired, and only in tokencost's table, whose row is of an earlier day: genai-prices is right
    "anthropic/claude-3-5-haiku-latest": "genai-prices: $0.80 and $4, as the dated snapshot",
    "gemini/gemini-1.5-pro": "genai-prices: cut to $1.25 and $5 in October 2024",
    "gemini/gemini-1.5-pro-001": "genai-prices: as above",
    "gemini/gemini-1.5-pro-002": "genai-prices: as above",
    "gemini/gemini-1.5-pro-exp-0801": "genai-prices: as above",
    "gemini/gemini-1.5-pro-latest": "genai-prices: as above; tokencost's two prices are of different days",
    "gemini/gemini-2.5-flash-preview-05-20": "genai-prices: the preview's price; tokencost has the final model's",
    "gemini/gemini-pro": "genai-prices: $0.50 and $1.50 a million by tokens",
    "mistral/mistral-large-2407": "genai-prices: cut to $2 and $6 in September 2024",
    "openai/o1-mini-2024-09-12": "genai-prices: cut to $1.10 and $4.40 in January 2025",
    # names that moved on to newer models: LiteLLM's map follows them
    "deepseek/deepseek-chat": "LiteLLM: the name moved on to V3.2 and later; genai-prices keeps an earlier one",
    "deepseek/deepseek-reasoner": "LiteLLM: as above",
    "deepseek/deepseek-v3.2": "open: $0.28 and $0.40, or what a reseller takes",
    "mistral/magistral-medium-latest": "LiteLLM: the name moved on",
    "mistral/magistral-small-latest": "LiteLLM: the name moved on",
    "mistral/mistral-large-latest": "LiteLLM: Large 3 costs $0.50 and $1.50",
    "mistral/mistral-medium": "LiteLLM: the name moved on",
    "mistral/open-mistral-nemo": "genai-prices: cut to $0.15 and $0.15",
    "xai/grok-code-fast": "open: LiteLLM prices the name as its successor",
    "xai/grok-code-fast-1": "open: as above",
    "xai/grok-code-fast-1-0825": "open: as above",
}


ONE_MORNING = datetime(2026, 11, 23, 8, tzinfo=UTC)
"""Some prices change with the hour of the day."""


def test_genai_prices_agree() -> None:
    """An independent table has the same prices for a thousand tokens in and out, except a known list."""
    genai = pytest.importorskip("genai_prices")
    ours = PriceTable.load(Path("/nonexistent/prices.json"))
    same, differ = 0, set()
    for reference in sorted({reference for table in ours.tables() for reference in text_models(table)}):
        model = ModelConfig(alias="a", model=reference)
        answer = 0 if ours.facts(model).mode == "embedding" else 1000
        cost = ours.cost(model, Usage(prompt_tokens=1000, completion_tokens=answer)).amount
        try:
            found = genai.calc_price(
                genai.Usage(input_tokens=1000, output_tokens=answer or None),
                model_ref=model.name,
                provider_id=GENAI_NAMES[model.provider],
                genai_request_timestamp=ONE_MORNING,
            )
        except LookupError:
            continue
        if cost is None:
            continue
        if abs(cost - found.total_price) < Decimal("1e-12"):
            same += 1
        else:
            differ.add(reference)
    assert differ == set(DIFFERS_FROM_GENAI)
    assert same > 250


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-5", "claude-haiku-4-5", "claude-sonnet-4-5"])
def test_cached_tokens_agree_with_genai_prices(name: str) -> None:
    """Cached and cache-written tokens cost the same in both tables."""
    genai = pytest.importorskip("genai_prices")
    provider, written = ("anthropic", 2000) if name.startswith("claude") else ("openai", 0)
    usage = Usage(prompt_tokens=10_010, cached_tokens=8000, cache_write_tokens=written, completion_tokens=7)
    theirs = genai.calc_price(
        genai.Usage(input_tokens=10_010, output_tokens=7, cache_read_tokens=8000, cache_write_tokens=written or None),
        model_ref=name,
        provider_id=provider,
    )
    ours = PriceTable.load().cost(ModelConfig(alias="a", model=f"{provider}/{name}"), usage)
    assert ours.amount == theirs.total_price


def text_models(table: Table) -> Iterator[str]:
    """The chat and embedding models of the providers that all tables know."""
    for key, row in table.rows.items():
        provider = row["litellm_provider"]
        prefixed = key.startswith(f"{provider}/")
        if provider in GENAI_NAMES and row.get("mode") in ("chat", "embedding") and (prefixed or "/" not in key):
            yield f"{provider}/{key.removeprefix(provider + '/')}"
