"""Reads a row of a price table: its price, if that is reliable, and other facts; installs a newer table as a whole."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any

from testronaut_llm.errors import ConfigError, ConnectionFailedError
from testronaut_llm.providers.network import client_settings
from testronaut_llm.records import Usage
from testronaut_llm.support.paths import data_dir, make_folder, user_path, write_atomically
from testronaut_llm.support.text import CONTEXT, MOST_TOKENS, decoded, exact, few, is_amount, is_loopback, read_utf8
from testronaut_llm.telemetry.redaction import Redactor, said

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


def user_table_path() -> Path:
    """Returns the file that `prices update` writes."""
    return data_dir() / "prices.json"


def decode(text: str) -> Any:
    """Returns decoded JSON, with fractions as exact Decimals."""
    return json.loads(text, parse_float=Decimal, parse_constant=Decimal)


def model_rows(decoded: Mapping[str, Any]) -> dict[str, Row]:
    """Returns the entries of models; tables also hold rules and a sample."""
    models = {k: v for k, v in decoded.items() if isinstance(v, Mapping) and "litellm_provider" in v}
    models.pop("sample_spec", None)
    return models


LARGEST = 16 * 1024 * 1024
_HIGHEST = 1  # USD for one token: anything above it is a wrong unit
_FETCH_SECONDS = 30
_EXPECTED = "a JSON object of models, as LiteLLM's model_prices_and_context_window.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceUpdate:
    """The result of an update. `previous` is the file with the previous table, if there was one."""

    path: Path
    models: int
    priced: int
    previous: Path | None


def update_prices(source: str, *, path: Path | None = None) -> PriceUpdate:
    """Replaces the user's price table, and keeps the previous one as `prices.previous.json` in the same folder.

    `source` is a file or an https URL (http on loopback), in the format of LiteLLM's map. Raises ConfigError, and
    changes nothing, if it cannot be read or holds an impossible price.
    """
    text = _fetch(source) if "://" in source else read_utf8(user_path(source), most=LARGEST)
    rows = _checked(Redactor().redact(source), text)
    path = path or user_table_path()
    written = f'{{"version": 1, "updated": "{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "rows": {text}}}'
    try:
        make_folder(path.parent)
        previous = path.with_name(f"{path.stem}.previous.json") if path.exists() else None
        if previous is not None:
            shutil.copyfile(path, previous)
        write_atomically(path, written, mode=0o644)
    except OSError as error:
        raise ConfigError(f"cannot write the price table {str(path)!r}: {error}", file=str(path)) from None
    priced = sum(read_price(row) is not None for row in rows.values())
    return PriceUpdate(path=path, models=len(rows), priced=priced, previous=previous)


def _fetch(url: str) -> str:
    import httpx

    from testronaut_llm.support.http_body import bounded

    scheme, shown = url.partition("://")[0].lower(), Redactor().redact(url)
    if scheme != "https" and not (scheme == "http" and is_loopback(url)):
        raise ConfigError(f"cannot take prices from {shown!r}: expected a file or an https:// address")
    hooks: dict[str, Any] = {"response": [partial(bounded, most=LARGEST)]}
    try:
        with httpx.Client(timeout=_FETCH_SECONDS, event_hooks=hooks, **client_settings(url, redirects=True)) as client:
            return decoded(client.get(url).raise_for_status().content, shown)
    except (ConnectionFailedError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        why = Redactor().redact(said(error))
        raise ConfigError(f"cannot fetch prices from {shown!r}: {why}; expected {_EXPECTED}") from None


def _checked(source: str, text: str) -> Mapping[str, Row]:
    try:
        table = decode(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source!r} is not JSON ({error}); expected {_EXPECTED}") from None
    rows = model_rows(table) if isinstance(table, dict) else {}
    problems = {name: list(_problems(row)) for name, row in rows.items()}
    if not any(read_price(row) for name, row in rows.items() if not problems[name]):
        raise ConfigError(f"{source!r} prices no model; expected {_EXPECTED}")
    if lines := [f"{name}.{problem}" for name, found in problems.items() for problem in found]:
        raise ConfigError(f"{source!r} holds impossible prices, so nothing was changed: {few(lines, '; ')}")
    return rows


def _problems(row: Row) -> Iterator[str]:
    for key, value in row.items():
        if value is not None and ("_cost_per_token" in key or "token_cost" in key):
            if not is_amount(value):
                yield f"{key} is {value!s:.40} (expected a plain number of USD, zero or more)"
            elif value > _HIGHEST:
                yield f"{key} is {value!s:.40} (expected USD for one token, at most {_HIGHEST})"
    bands = row.get("tiered_pricing")
    for band in bands if isinstance(bands, list) else ():
        yield from _problems(band) if isinstance(band, Mapping) else ()
