"""Reads a row of a price table: its price, if it can be relied on, and what else it says of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeGuard

from testronaut_llm.records import Usage
from testronaut_llm.support.money import MOST_TOKENS, exact, is_amount

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
        """Returns rates; those that are not known default to input or output, which must be."""
        paid_as = {"cache_read": known["input"], "cache_write": known["input"], "reasoning": known["output"]}
        return cls(**{**paid_as, **known})

    @exact
    def cost(self, usage: Usage) -> Decimal:
        """Returns USD of these tokens."""
        reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
        return (
            usage.uncached_tokens * self.input
            + usage.cached_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
            + (usage.completion_tokens - reasoning) * self.output
            + reasoning * self.reasoning
        ) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The rates of a model by length of the prompt, ascending; `source` says where they are from.

    A tier `(above, rates)` holds for all tokens of a call whose prompt has more than `above` tokens.
    """

    tiers: tuple[tuple[int, Rates], ...]
    source: str

    def rates(self, prompt_tokens: int = 0) -> Rates:
        """Returns the rates of a call with a prompt of this many tokens."""
        return next((rates for above, rates in reversed(self.tiers) if prompt_tokens > above), self.tiers[0][1])

    def cost(self, usage: Usage) -> Decimal:
        """Returns USD of one call, exactly."""
        return self.rates(usage.prompt_tokens).cost(usage)

    @exact
    def worst(self, prompt_bound: int, max_tokens: int) -> Decimal:
        """Returns the USD that a call can cost at most, however its tokens are split and in whichever tier."""
        possible = [rates for above, rates in self.tiers if above == 0 or prompt_bound > above]
        prompt = max(max(rates.input, rates.cache_read, rates.cache_write) for rates in possible)
        answer = max(max(rates.output, rates.reasoning) for rates in possible)
        return (prompt_bound * prompt + max_tokens * answer) / MILLION

    @property
    def free(self) -> bool:
        """True if it is known to cost nothing."""
        return all(rates.input == rates.output == rates.cache_write == 0 for _, rates in self.tiers)


FREE = Rates.of({"input": Decimal(0), "output": Decimal(0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of a model beside its price; None if nothing is.

    `known` is True if some table lists the model. `context_window` and `max_output` are tokens. `retires` is the day
    (YYYY-MM-DD) on which its provider withdraws it.
    """

    known: bool = False
    mode: str | None = None
    context_window: int | None = None
    max_output: int | None = None
    dimensions: int | None = None
    supports_schema: bool | None = None
    retires: str | None = None


def read_price(row: Row, service: str = "") -> tuple[tuple[int, Rates], ...] | None:
    """Returns the tiers of a row in a service tier (empty: the standard one), or None without a reliable price.

    Tables write zero for what they do not know, so a price of zero is unknown. Free models are declared in `llm.yaml`.
    """
    tiers = dict(_tiers(row, f"_{service}" if service else ""))
    base = tiers.get(0, {})
    answers = row.get("mode") not in _NO_ANSWER_PRICE
    if not base.get("input") or (answers and not base.get("output")):
        return None
    return tuple((above, Rates.of({"output": Decimal(0), **base, **tiers[above]})) for above in sorted(tiers))


def read_facts(row: Row) -> ModelFacts:
    """Returns what a row says beside the price."""
    return ModelFacts(
        known=True,
        mode=row.get("mode"),
        context_window=_count(row, "max_input_tokens") or _count(row, "max_tokens"),
        max_output=_count(row, "max_output_tokens"),
        dimensions=_count(row, "output_vector_size"),
        supports_schema=row.get("supports_response_schema"),
        retires=row.get("deprecation_date"),
    )


def service_of(said: Mapping[str, Any]) -> str | None:
    """Returns the service tier that a body names: empty for the standard one, None if it names none."""
    words = [str(said[name]).lower() for name in SERVICES if said.get(name) is not None]
    special = [word for word in words if word not in _STANDARD]
    return special[0] if special else "" if words else None


def starts_at(band: Any) -> Decimal | None:
    """Returns the prompt length at which a band of `tiered_pricing` starts; None if it is not a band of tokens."""
    span = band.get("range") if isinstance(band, Mapping) else None
    return Decimal(span[0]) if isinstance(span, list) and span and _is_length(span[0]) else None


def _tiers(row: Row, service: str) -> Iterator[tuple[int, dict[str, Decimal]]]:
    if "tiered_pricing" in row:
        for band in row["tiered_pricing"] or ():
            if (start := starts_at(band)) is not None:
                yield int(start), _rates(band, service)
    else:
        yield 0, _rates(row, service)
        for suffix, thousands in {found.group(0, 1) for key in row if (found := _BAND.search(key))}:
            yield int(thousands) * 1000, _rates(row, suffix + service) or _rates(row, suffix)


@exact
def _rates(row: Row, suffix: str) -> dict[str, Decimal]:
    given = {ours: row[key + suffix] for ours, key in _FIELDS.items() if is_amount(row.get(key + suffix))}
    return {ours: value * MILLION for ours, value in given.items() if value > 0 or ours in ("input", "output")}


def _count(row: Row, key: str) -> int | None:
    value = row.get(key)
    return int(value) if _is_length(value) and value > 0 else None


def _is_length(value: Any) -> TypeGuard[int | Decimal]:
    """True for a number of tokens; tables write some of them as 1e6."""
    number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    return number and Decimal(value).is_finite() and 0 <= value <= MOST_TOKENS
