"""Our prices compared with genai-prices, an independent table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.money.prices import PriceTable, Table
from testronaut_llm.records import Usage

genai = pytest.importorskip("genai_prices")

PROVIDERS = {name: name for name in ("openai", "anthropic", "mistral", "groq", "deepseek", "cohere")}
GENAI_NAMES = {**PROVIDERS, "gemini": "google", "xai": "x-ai"}
ONE_MORNING = datetime(2026, 11, 23, 8, tzinfo=UTC)  # some prices change with the hour of the day


def test_genai_prices_agree() -> None:
    """An independent table has the same prices, but for a few retired models and names that moved on to newer ones."""
    ours = PriceTable.load(Path("/nonexistent/prices.json"))
    same, differ = set(), set()
    for reference in {reference for table in ours.tables() for reference in text_models(table)}:
        model = ModelConfig(alias="a", model=reference)
        answer = 0 if ours.facts(model).mode == "embedding" else 1000
        cost = ours.cost(model, Usage(prompt_tokens=1000, completion_tokens=answer)).amount
        usage = genai.Usage(input_tokens=1000, output_tokens=answer or None)
        about = {"provider_id": GENAI_NAMES[model.provider], "genai_request_timestamp": ONE_MORNING}
        with contextlib.suppress(LookupError):
            found = genai.calc_price(usage, model_ref=model.name, **about).total_price
            if cost is not None:
                (same if abs(cost - found) < Decimal("1e-12") else differ).add(reference)
    assert len(same) > 250
    assert len(differ) < 0.1 * len(same), differ


def text_models(table: Table) -> Iterator[str]:
    for key, row in table.rows.items():
        provider = row["litellm_provider"]
        prefixed = key.startswith(f"{provider}/")
        if provider in GENAI_NAMES and row.get("mode") in ("chat", "embedding") and (prefixed or "/" not in key):
            yield f"{provider}/{key.removeprefix(provider + '/')}"
