"""What a model costs and what is known of it: `llm.yaml` first, then the tables, and never a guess.

A price that nobody states is None, not zero: a budget that counts unknown as free holds nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testronaut_llm.money.price_rows import FREE, ModelFacts, Price, Rates, read_facts, read_price
from testronaut_llm.money.price_tables import SNAPSHOT, PriceTables, Table, find_row
from testronaut_llm.providers.endpoint import api_base_of, is_own_host, leaves_by_name
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.records import Usage
from testronaut_llm.support.text import is_loopback

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.config.sections import PriceConfig

__all__ = ["Cost", "ModelFacts", "Price", "PriceTable", "Rates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """USD, or None if no price is known; `source` says whose price it is."""

    amount: Decimal | None
    source: str | None


class PriceTable:
    """The prices of all models, read when first asked for. `tables` are in the order of trust."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._tables = tables
        cached = functools.lru_cache(maxsize=1024)  # names in responses come from outside
        self._row = cached(functools.partial(find_row, tables))
        self._facts = cached(self._facts_of_row)
        self._price = cached(self._price_of_row)

    @classmethod
    def load(cls, user_file: Path | None = None) -> PriceTable:
        """Returns the table of this machine, with what `prices update` wrote to `user_file`. Reads nothing yet."""
        return cls(PriceTables(user_file))

    def price(self, model: ModelConfig, service: str = "") -> Price | None:
        """Returns what the model costs in a service tier; None if neither `llm.yaml` nor a table says."""
        if model.price is not None:
            return _configured(model.price)
        if _runs_on_own_machine(model):
            return Price(tiers=((0, FREE),), source="local: free")
        listed = self._price(service, model.provider, model.name, model.base_model)
        if listed is None and model.local:
            return Price(tiers=((0, FREE),), source="llm.yaml: declared local")
        return listed

    def cost(self, model: ModelConfig, usage: Usage, response_model: str | None = None, *, service: str = "") -> Cost:
        """Returns what a call cost in the service tier that answered.

        The name in the response settles which snapshot of the configured model answered, or which model an Azure
        deployment without `base_model` runs.
        """
        price = self._price_of_answer(model, response_model, service) or self.price(model, service)
        return Cost(amount=price.cost(usage) if price else None, source=price.source if price else None)

    def facts(self, model: ModelConfig) -> ModelFacts:
        """Returns window, output limit and abilities; what `llm.yaml` says comes before the tables."""
        own = _runs_on_own_machine(model)
        facts = ModelFacts() if own else self._facts(model.provider, model.name, model.base_model)
        said: dict[str, Any] = {
            "context_window": model.num_ctx or model.context_window,
            "max_output": model.max_output,
            "dimensions": model.dimensions,
        }
        return replace(facts, **{name: tokens for name, tokens in said.items() if tokens})

    def mend(self, model: ModelConfig) -> str:
        """Returns the line of `llm.yaml` that gives this model a price."""
        unnamed = model.provider == "azure" and not model.base_model
        how = "`base_model: NAME` (of the model it deploys) or " if unnamed else ""
        where = f"models.{model.alias} in llm.yaml"
        return f"add {how}`price: {{input: USD, output: USD}}`, per million tokens, to {where}"

    def tables(self) -> tuple[Table, ...]:
        """Returns the tables that are there, the most trusted first."""
        return tuple(self._tables)

    def _facts_of_row(self, *names: str | None) -> ModelFacts:
        found = self._row(*names)
        return read_facts(found[2]) if found else ModelFacts()

    def _price_of_row(self, service: str, *names: str | None) -> Price | None:
        """Returns the price in a service tier. `auto` leaves the tier to the provider: the most expensive one."""
        if service == "auto":
            return self._price("priority", *names) or self._price("", *names)
        found = self._row(*names)
        tiers = read_price(found[2], service) if found else None
        if found is None or tiers is None:
            return None
        return Price(tiers=tiers, source=f"{found[0].name}: {found[1]}" + (f" ({service})" if service else ""))

    def _price_of_answer(self, model: ModelConfig, response_model: str | None, service: str) -> Price | None:
        """Returns the price of the snapshot that answered, if the response names one of the configured model."""
        if not response_model or model.price is not None or _runs_on_own_machine(model):
            return None
        configured = model.base_model or model.name
        snapshot = response_model != configured and SNAPSHOT.sub("", response_model) == configured
        if not snapshot and (model.provider != "azure" or model.base_model is not None):
            return None
        deployed = response_model if model.provider == "azure" else None
        return self._price(service, model.provider, response_model, deployed)


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
