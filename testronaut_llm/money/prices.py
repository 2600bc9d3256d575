"""What a model costs and what is known of it: `llm.yaml` first, then the tables, and never a guess.

A price that nobody states is None, not zero: a budget that counts unknown as free holds nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testronaut_llm.money.price_names import find_row, spellings
from testronaut_llm.money.price_rows import FREE, ModelFacts, Price, Rates, read_facts, read_price
from testronaut_llm.money.price_tables import SNAPSHOT, PriceTables, Row, Table
from testronaut_llm.providers.endpoint import api_base_of, is_own_host, leaves_by_name
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Usage
from testronaut_llm.support.text import is_loopback

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.config.sections import PriceConfig

__all__ = ["Cost", "ModelFacts", "Price", "PriceTable", "Rates"]


@dataclass(frozen=True)
class _Listing:
    """The row that a table has for a model."""

    table: Table
    key: str
    row: Row
    prices: dict[str, Price] = field(default_factory=dict)

    @functools.cached_property
    def facts(self) -> ModelFacts:
        return read_facts(self.row)

    def price(self, service: str) -> Price | None:
        """The price in a service tier; `auto` leaves that to the provider, which may use the most expensive one."""
        if service == "auto":
            return self.price("priority") or self.price("")
        if service not in self.prices:
            tiers = read_price(self.row, service)
            source = f"{self.table.name}: {self.key}" + (f" ({service})" if service else "")
            if tiers is None:
                return None
            self.prices[service] = Price(tiers=tiers, source=source)
        return self.prices[service]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """USD, or None where no price is known; `source` says whose price it is."""

    amount: Decimal | None
    source: str | None


class PriceTable:
    """The prices of all models, read when first asked for."""

    def __init__(self, tables: PriceTables) -> None:
        self._tables = tables
        self._found: dict[tuple[str, str, str | None], _Listing | None] = {}

    @classmethod
    def load(cls, user_file: Path | None = None) -> PriceTable:
        """The table of this machine, with what `prices update` wrote to `user_file`. Reads nothing yet."""
        return cls(PriceTables(user_file))

    def price(self, model: ModelConfig, service: str = "") -> Price | None:
        """What the model costs in a service tier; None where neither `llm.yaml` nor a table says."""
        if model.price is not None:
            return _configured(model.price)
        if _runs_on_own_machine(model):
            return Price(tiers=((0, FREE),), source="local: free")
        found = self._row(model.provider, model.name, model.base_model)
        listed = found.price(service) if found else None
        if listed is None and model.local:
            return Price(tiers=((0, FREE),), source="llm.yaml: declared local")
        return listed

    def cost(self, model: ModelConfig, usage: Usage, response_model: str | None = None, *, service: str = "") -> Cost:
        """What a call cost in the service tier that answered.

        The name in the response settles which snapshot of the configured model answered, or which model
        an Azure deployment without `base_model` runs.
        """
        price = self._price_of_answer(model, response_model, service) or self.price(model, service)
        return Cost(amount=price.cost(usage) if price else None, source=price.source if price else None)

    def facts(self, model: ModelConfig) -> ModelFacts:
        """Window, output limit and abilities; what `llm.yaml` says comes before the tables."""
        found = None if _runs_on_own_machine(model) else self._row(model.provider, model.name, model.base_model)
        facts = found.facts if found else ModelFacts()
        said: dict[str, Any] = {
            "context_window": model.num_ctx or model.context_window,
            "max_output": model.max_output,
            "dimensions": model.dimensions,
        }
        said = {name: tokens for name, tokens in said.items() if tokens}
        return replace(facts, **said) if said else facts

    def mend(self, model: ModelConfig) -> str:
        """The line of `llm.yaml` that gives this model a price."""
        unnamed = model.provider == "azure" and not model.base_model
        how = "`base_model: NAME` (of the model it deploys) or " if unnamed else ""
        where = f"models.{model.alias} in llm.yaml"
        return f"add {how}`price: {{input: USD, output: USD}}`, per million tokens, to {where}"

    def tables(self) -> tuple[Table, ...]:
        """The tables that are there, the most trusted first."""
        return tuple(self._tables)

    def _row(self, provider: str, name: str, base_model: str | None) -> _Listing | None:
        key = (provider, name, base_model)
        if key not in self._found:
            found = find_row(self._tables, spellings(provider, name, base_model))
            self._found[key] = _Listing(*found) if found else None
        return self._found[key]

    def _price_of_answer(self, model: ModelConfig, response_model: str | None, service: str) -> Price | None:
        """The price of the snapshot that answered, where the response names one of the configured model."""
        if not response_model or model.price is not None or _runs_on_own_machine(model):
            return None
        configured = model.base_model or model.name
        snapshot = response_model != configured and SNAPSHOT.sub("", response_model) == configured
        deployed = model.provider == "azure" and model.base_model is None
        if not snapshot and not deployed:
            return None
        found = self._row(model.provider, response_model, response_model if model.provider == "azure" else None)
        return found.price(service) if found else None


@functools.lru_cache(maxsize=256)
def _configured(price: PriceConfig) -> Price:
    given = {name: value for name, value in price if value is not None}
    return Price(tiers=((0, Rates.of(given)),), source="llm.yaml")


def _runs_on_own_machine(model: ModelConfig) -> bool:
    provider = provider_of(model)
    if not provider.local or leaves_by_name(model, provider):
        return False
    url = api_base_of(model, provider) or ""
    return not is_own_host(url, provider) or is_loopback(url)
