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

genai = pytest.importorskip("genai_prices")

# The list below is of the locked releases; others differ in a few rows each, which were not looked up.
pytestmark = pytest.mark.skipif(
    any(pin(name) != version(name) for name in ("litellm", "tokencost", "genai-prices")),
    reason="compares the locked price tables",
)

PROVIDERS = {name: name for name in ("openai", "anthropic", "mistral", "groq", "deepseek", "cohere")}
GENAI_NAMES = {**PROVIDERS, "gemini": "google", "xai": "x-ai"}
ONE_MORNING = datetime(2026, 11, 23, 8, tzinfo=UTC)  # some prices change with the hour of the day

DIFFERENCES = {
    "genai-prices is right: the model is retired, and our row, in tokencost only, is of an earlier day": """
        anthropic/claude-3-5-haiku-latest gemini/gemini-1.5-pro gemini/gemini-1.5-pro-001 gemini/gemini-1.5-pro-002
        gemini/gemini-1.5-pro-exp-0801 gemini/gemini-1.5-pro-latest gemini/gemini-2.5-flash-preview-05-20
        gemini/gemini-pro mistral/mistral-large-2407 mistral/open-mistral-nemo openai/o1-mini-2024-09-12""",
    "LiteLLM is right: the name moved on to a newer model": """
        deepseek/deepseek-chat deepseek/deepseek-reasoner mistral/magistral-medium-latest
        mistral/magistral-small-latest mistral/mistral-large-latest mistral/mistral-medium""",
    "open: the price of a successor or of a reseller": """
        deepseek/deepseek-v3.2 xai/grok-code-fast xai/grok-code-fast-1 xai/grok-code-fast-1-0825""",
}


def test_genai_prices_agree() -> None:
    """An independent table has the same prices for a thousand tokens in and out, except a known list."""
    ours = PriceTable.load(Path("/nonexistent/prices.json"))
    same, differ = 0, set()
    for reference in sorted({reference for table in ours.tables() for reference in text_models(table)}):
        model = ModelConfig(alias="a", model=reference)
        answer = 0 if ours.facts(model).mode == "embedding" else 1000
        cost = ours.cost(model, Usage(prompt_tokens=1000, completion_tokens=answer)).amount
        usage = genai.Usage(input_tokens=1000, output_tokens=answer or None)
        about = {"provider_id": GENAI_NAMES[model.provider], "genai_request_timestamp": ONE_MORNING}
        try:
            found = genai.calc_price(usage, model_ref=model.name, **about)
        except LookupError:
            continue
        if cost is not None and abs(cost - found.total_price) < Decimal("1e-12"):
            same += 1
        elif cost is not None:
            differ.add(reference)
    assert differ == {name for names in DIFFERENCES.values() for name in names.split()}
    assert same > 250


def test_cached_tokens_agree_with_genai_prices() -> None:
    """Cached and cache-written tokens cost the same in both tables."""
    for provider, name, written in (("openai", "gpt-5", 0), ("anthropic", "claude-haiku-4-5", 2000)):
        kinds = {"cache_write_tokens": written, "completion_tokens": 7}
        usage = Usage(prompt_tokens=10_010, cached_tokens=8000, **kinds)
        theirs = genai.Usage(
            input_tokens=10_010, cache_read_tokens=8000, cache_write_tokens=written or None, output_tokens=7
        )
        found = genai.calc_price(theirs, model_ref=name, provider_id=provider)
        ours = PriceTable.load().cost(ModelConfig(alias="a", model=f"{provider}/{name}"), usage)
        assert ours.amount == found.total_price


def text_models(table: Table) -> Iterator[str]:
    """The chat and embedding models of the providers that all tables know."""
    for key, row in table.rows.items():
        provider = row["litellm_provider"]
        prefixed = key.startswith(f"{provider}/")
        if provider in GENAI_NAMES and row.get("mode") in ("chat", "embedding") and (prefixed or "/" not in key):
            yield f"{provider}/{key.removeprefix(provider + '/')}"
