"""Reads a row of a price table: its price, if that is reliable, and other facts about the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

from testronaut_llm.records import Usage
from testronaut_llm.support.money import CONTEXT, MOST_TOKENS, exact, is_amount

Row = Mapping[str, Any]

MILLION = Decimal(1_000_000)

_FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
_BAND = re.compile(r"_above_(\d{1,6})k_tokens$")
SERVICES = ("service_tier", "serviceTier", "speed")  # of OpenAI and most others, Gemini, and Anthropic's fast mode
_STANDARD = ("", "default", "standard", "standard_only", "on_demand", "normal")
_NO_ANSWER_PRICE = ("embedding", "rerank", "moderation")  # modes that produce no tokens to pay for


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """USD per million tokens."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    reasoning: Decimal

    @classmethod
    def of(cls, known: Mapping[str, Decimal]) -> Rates:
        """Returns rates; unknown ones default to those of input or output, which must be known."""
        paid_as = {"cache_read": known["input"], "cache_write": known["input"], "reasoning": known["output"]}
        return cls(**{**paid_as, **known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Rates by the size of the prompt (more than so many tokens, ascending), and their source."""

    tiers: tuple[tuple[int, Rates], ...]
    source: str

    def cost(self, usage: Usage) -> Decimal:
        """Returns USD of one call, exactly."""
        rates = self.tiers[0][1]
        for above, higher in self.tiers[1:]:
            rates = higher if usage.prompt_tokens > above else rates
        reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
        with localcontext(CONTEXT):
            return (
                usage.uncached_tokens * rates.input
                + usage.cached_tokens * rates.cache_read
                + usage.cache_write_tokens * rates.cache_write
                + (usage.completion_tokens - reasoning) * rates.output
                + reasoning * rates.reasoning
            ) / MILLION

    def worst(self, prompt_bound: int, max_tokens: int) -> Decimal:
        """Returns the most USD that a call can cost, in the most expensive split of its tokens and tier."""
        prompt = answer = Decimal(0)
        for above, rates in self.tiers:
            if above == 0 or prompt_bound > above:
                prompt = max(prompt, rates.input, rates.cache_read, rates.cache_write)
                answer = max(answer, rates.output, rates.reasoning)
        with localcontext(CONTEXT):
            return (prompt_bound * prompt + max_tokens * answer) / MILLION


FREE = Rates.of({"input": Decimal(0), "output": Decimal(0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts about a model other than its price: listed in a table, sizes in tokens."""

    known: bool = False
    mode: str | None = None
    context_window: int | None = None
    max_output: int | None = None
    dimensions: int | None = None
    supports_schema: bool | None = None


def read_price(row: Row, service: str = "") -> tuple[tuple[int, Rates], ...] | None:
    """Returns the tiers of a row in a service tier (empty: the standard one); None if the price is unknown, or zero.

    Tables write zero for unknown prices. Free models are declared in `llm.yaml`.
    """
    suffix = f"_{service}" if service else ""
    bands = row.get("tiered_pricing")
    if isinstance(bands, list):
        ranges = [(band.get("range"), band) for band in bands if isinstance(band, Mapping)]
        starts = [(_length(span[0]), band) for span, band in ranges if isinstance(span, list) and span]
        tiers = {start: _rates(band, suffix) for start, band in starts if start is not None}
    else:
        above = {found.group(0, 1) for key in row if (found := _BAND.search(key))}
        tiers = {int(k) * 1000: _rates(row, band + suffix) or _rates(row, band) for band, k in above}
        tiers[0] = _rates(row, suffix)
    base = tiers.get(0, {})
    if not base.get("input") or (row.get("mode") not in _NO_ANSWER_PRICE and not base.get("output")):
        return None
    return tuple((start, Rates.of({"output": Decimal(0), **base, **tiers[start]})) for start in sorted(tiers))


def read_facts(row: Row) -> ModelFacts:
    """Returns the facts of a row other than its price."""
    sizes = ("max_input_tokens", "max_tokens", "max_output_tokens", "output_vector_size")
    window, whole, answer, dimensions = (_length(row.get(key)) or None for key in sizes)
    return ModelFacts(
        known=True,
        mode=row.get("mode"),
        context_window=window or whole,
        max_output=answer,
        dimensions=dimensions,
        supports_schema=row.get("supports_response_schema"),
    )


def service_of(said: Mapping[str, Any]) -> str | None:
    """Returns the service tier that a body names: empty for the standard one, None if it names none."""
    found = None
    for name in SERVICES:
        if said.get(name) is not None and not found:
            word = str(said[name]).lower()
            found = "" if word in _STANDARD else word
    return found


@exact
def _rates(row: Row, suffix: str) -> dict[str, Decimal]:
    given = {ours: row[key + suffix] for ours, key in _FIELDS.items() if is_amount(row.get(key + suffix))}
    return {ours: value * MILLION for ours, value in given.items() if value > 0 or ours in ("input", "output")}


def _length(value: Any) -> int | None:
    """Returns a number of tokens, which tables may write as 1e6; None if it is not one."""
    number = isinstance(value, int | Decimal) and not isinstance(value, bool) and Decimal(value).is_finite()
    return int(value) if number and 0 <= value <= MOST_TOKENS else None
