"""Prices and facts of models: from `llm.yaml` first, then from the tables, never guessed.

LiteLLM and tokencost are slow to import, so their tables are read as files, each when it is first needed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.sections import PriceConfig
from testronaut_llm.money.price_rows import (
    FREE,
    ModelFacts,
    Price,
    Rates,
    Row,
    decode,
    model_rows,
    read_facts,
    read_price,
    user_table_path,
)
from testronaut_llm.providers.provider import endpoint_of, is_own_host, leaves_by_name
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Usage
from testronaut_llm.support.paths import data_file, version
from testronaut_llm.support.text import is_loopback
from testronaut_llm.telemetry.log import logger

Rows = Mapping[str, Row]

_BUNDLED = (("litellm", "model_prices_and_context_window_backup.json"), ("tokencost", "model_prices.json"))
_SNAPSHOT = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")
_DATE = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_FINE_TUNE = re.compile(r"^(ft:[^:]+):")
# Anthropic's names for "the only snapshot of this generation".
_ALIASES = {"claude-sonnet-4-0": "claude-sonnet-4", "claude-opus-4-0": "claude-opus-4"}
# LiteLLM files some models of one provider under another name.
_FILED_AS = {"openai": "text-completion-openai", "azure": "azure_text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """USD, or None if no price is known; `source` names the origin of the price."""

    amount: Decimal | None
    source: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: `name` is its origin, `rows` maps the name of a model to its facts."""

    name: str
    rows: Rows

    @property
    def newest(self) -> str | None:
        """Date (YYYY-MM-DD) of the newest dated model in it; the table is not older."""
        dates = [found[1].replace("-", "") for name in self.rows if (found := _SNAPSHOT.search(name))]
        newest = max(filter(_DATE.fullmatch, dates), default=None)
        return newest and f"{newest[:4]}-{newest[4:6]}-{newest[6:]}"


class PriceTable:
    """The prices of all models. `readers` return the tables, the most trusted first; each is called when needed."""

    def __init__(self, readers: Sequence[Callable[[], Table | None]]) -> None:
        self._readers = [functools.cache(read) for read in readers]
        cached = functools.lru_cache(maxsize=1024)  # names in responses come from outside
        self._row, self._price = cached(self._find_row), cached(self._read_price)

    @classmethod
    def load(cls, user_file: Path | None = None) -> PriceTable:
        """Returns the table of this machine, with that of `prices update` in `user_file`. Files are read later."""
        bundled = [functools.partial(_read_bundled, *place) for place in _BUNDLED]
        return cls([functools.partial(_read_user, user_file or user_table_path()), *bundled])

    def tables(self) -> Iterator[Table]:
        """Yields the tables, the most trusted first."""
        return (table for read in self._readers if (table := read()) is not None)

    def price(self, model: ModelConfig, service: str = "") -> Price | None:
        """Returns the price of the model in a service tier; None if neither `llm.yaml` nor a table has one."""
        if model.price is not None:
            return _configured(model.price)
        own = _runs_on_own_machine(model)
        listed = None if own else self._price(service, model.provider, model.name, model.base_model)
        if listed is None and (own or model.local):
            return Price(tiers=((0, FREE),), source="local: free" if own else "llm.yaml: declared local")
        return listed

    def cost(self, model: ModelConfig, usage: Usage, response_model: str | None = None, *, service: str = "") -> Cost:
        """Returns the cost of a call in the service tier that answered.

        The response names the snapshot that answered, or the model of an Azure deployment without `base_model`.
        """
        price, configured = None, model.base_model or model.name
        if response_model and model.price is None:
            unnamed = model.provider == "azure" and model.base_model is None
            snapshot = response_model != configured and _SNAPSHOT.sub("", response_model) == configured
            if (unnamed or snapshot) and not _runs_on_own_machine(model):
                deployed = response_model if model.provider == "azure" else None
                price = self._price(service, model.provider, response_model, deployed)
        price = price or self.price(model, service)
        return Cost(amount=price.cost(usage), source=price.source) if price else Cost(amount=None, source=None)

    def facts(self, model: ModelConfig) -> ModelFacts:
        """Returns window, output limit and abilities; `llm.yaml` comes before the tables."""
        listed = None if _runs_on_own_machine(model) else self._row(model.provider, model.name, model.base_model)
        facts = listed[2] if listed else ModelFacts()
        return replace(
            facts,
            context_window=model.num_ctx or model.context_window or facts.context_window,
            max_output=model.max_output or facts.max_output,
            dimensions=model.dimensions or facts.dimensions,
        )

    def fix(self, model: ModelConfig) -> str:
        """Returns how to give this model a price in `llm.yaml`."""
        unnamed = model.provider == "azure" and not model.base_model
        how = "`base_model: NAME` (of the model it deploys) or " if unnamed else ""
        where = f"models.{model.alias} in llm.yaml"
        return f"add {how}`price: {{input: USD, output: USD}}`, per million tokens, to {where}"

    def _read_price(self, service: str, *names: str | None) -> Price | None:
        """Returns the price in a service tier. `auto` leaves the tier to the provider: the most expensive one."""
        if service == "auto":
            return self._price("priority", *names) or self._price("", *names)
        found = self._row(*names)
        tiers = read_price(found[1], service) if found else None
        if found is None or tiers is None:
            return None
        return Price(tiers=tiers, source=found[0] + (f" ({service})" if service else ""))

    def _find_row(self, provider: str, name: str, base_model: str | None) -> tuple[str, Row, ModelFacts] | None:
        """Returns source, row and facts of a model: by its exact name in any table, else by a snapshot or an alias."""
        wanted = _spellings(provider, name, base_model)
        for match in (_exact, lambda rows, owner, key: _exact(rows, owner, _SNAPSHOT.sub("", key)), _alias):
            for table in self.tables():
                for owner, key in wanted:
                    if (found := match(table.rows, owner, key)) is not None:
                        row = table.rows[found]
                        return f"{table.name}: {found}", row, read_facts(row)
        return None


def _read_user(path: Path) -> Table | None:
    try:
        decoded = decode(path.read_text(encoding="utf-8"))
        return Table(name=f"prices update of {str(decoded['updated'])[:10]}", rows=model_rows(decoded["rows"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if not isinstance(error, FileNotFoundError):
            fix = "run `testronaut-llm prices update` again or delete the file"
            logger().warning("price_table_unreadable", file=str(path), error=str(error), fix=fix)
        return None


def _read_bundled(package: str, file: str) -> Table | None:
    path = data_file(package, file)
    name = f"{package} {version(package) or 'of unknown version'}"
    return Table(name=name, rows=model_rows(decode(path.read_text(encoding="utf-8")))) if path else None


def _spellings(provider: str, name: str, base_model: str | None) -> list[tuple[str, str]]:
    """Returns (provider of the row, key) pairs under which a table may file this model, best first.

    The name of an Azure deployment is not used. If Azure lists no price for its `base_model`, OpenAI's is used.
    """
    if base_model is None:
        owners = [] if provider == "azure" else [(provider, name)]
    else:
        head, _, tail = base_model.partition("/")
        bare = tail if head == provider else base_model
        owners = [(provider, bare)]
        if tail and head != provider:
            owners.append((head, tail))
        if provider == "azure":
            owners.append(("openai", bare))
    pairs = []
    for owner, key in owners:
        tuned = _FINE_TUNE.match(key)
        filed = tuned[1] if tuned else key
        pairs += [(owner, f"{owner}/{filed}"), (owner, filed)]
    return pairs


def _exact(rows: Rows, provider: str, key: str) -> str | None:
    row = rows.get(key)
    filed = str(row.get("litellm_provider", "")) if row is not None else ""
    fits = filed in (provider, _FILED_AS.get(provider)) or filed.startswith((f"{provider}-", f"{provider}_"))
    return key if row is not None and fits else None


def _alias(rows: Rows, provider: str, key: str) -> str | None:
    """Returns the newest snapshot, if all of them cost the same."""
    stem = key.removesuffix("-latest")
    stem = _ALIASES.get(stem, stem)
    snapshots = sorted(
        name
        for name in rows
        if name.startswith(stem) and _SNAPSHOT.sub("", name) == stem != name and _exact(rows, provider, name)
    )
    prices = [read_price(rows[name]) for name in snapshots]
    return snapshots[-1] if snapshots and prices.count(prices[0]) == len(prices) else None


@functools.lru_cache(maxsize=256)
def _configured(price: PriceConfig) -> Price:
    given = {name: value for name, value in price if value is not None}
    return Price(tiers=((0, Rates.of(given)),), source="llm.yaml")


def _runs_on_own_machine(model: ModelConfig) -> bool:
    provider = provider_of(model)
    if not provider.local or leaves_by_name(model, provider):
        return False
    url = endpoint_of(model, provider).url or ""
    return not is_own_host(url, provider) or is_loopback(url)
