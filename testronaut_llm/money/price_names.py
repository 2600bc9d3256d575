"""Which row of a table is this model's? Its exact name, snapshot, fine-tune or base model; never a near miss."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from testronaut_llm.money.price_rows import read_price
from testronaut_llm.money.price_tables import SNAPSHOT, Row, Rows, Table

_FINE_TUNE = re.compile(r"^(ft:[^:]+):")
# Anthropic's names for "the only snapshot of this generation".
_ALIASES = {"claude-sonnet-4-0": "claude-sonnet-4", "claude-opus-4-0": "claude-opus-4"}
# LiteLLM files some models of one provider under another name.
_FILED_AS = {"openai": ("openai", "text-completion-openai"), "azure": ("azure", "azure_text")}


@dataclass(frozen=True, slots=True)
class Spelling:
    """A key to look for, and the provider its row must belong to."""

    key: str
    provider: str

    def fits(self, row: Row) -> bool:
        filed = str(row.get("litellm_provider", ""))
        return filed in _FILED_AS.get(self.provider, (self.provider,)) or filed.startswith(
            (f"{self.provider}-", f"{self.provider}_")
        )


def spellings(provider: str, name: str, base_model: str | None = None) -> list[Spelling]:
    """The keys under which a table may file this model, best first.

    An Azure deployment's own name says nothing about the model behind it, so only its
    `base_model` counts; Azure sells OpenAI's models at OpenAI's list price where it lists none.
    """
    if provider != "azure" and base_model is None:
        return _of(provider, name)
    if base_model is None:
        return []
    head, _, tail = base_model.partition("/")
    bare = tail if head == provider else base_model
    found = _of(provider, bare)
    if tail and head != provider:
        found += _of(head, tail)
    return [*found, *(_of("openai", bare) if provider == "azure" else ())]


def find_row(tables: Iterable[Table], wanted: list[Spelling]) -> tuple[Table, str, Row] | None:
    """The first row that is this model's: by exact name in any table, then as a snapshot of one, then as its alias."""
    for match in (_exact, _undated, _alias):
        for table in tables:
            for spelling in wanted:
                key = match(table.rows, spelling)
                if key is not None:
                    return table, key, table.rows[key]
    return None


def _of(provider: str, name: str) -> list[Spelling]:
    if tuned := _FINE_TUNE.match(name):
        name = tuned[1]
    return [Spelling(f"{provider}/{name}", provider), Spelling(name, provider)]


def _exact(rows: Rows, spelling: Spelling) -> str | None:
    row = rows.get(spelling.key)
    return spelling.key if row is not None and spelling.fits(row) else None


def _undated(rows: Rows, spelling: Spelling) -> str | None:
    stem = SNAPSHOT.sub("", spelling.key)
    return _exact(rows, Spelling(stem, spelling.provider)) if stem != spelling.key else None


def _alias(rows: Rows, spelling: Spelling) -> str | None:
    """The newest snapshot, where all of them cost the same."""
    stem = spelling.key.removesuffix("-latest")
    stem = _ALIASES.get(stem, stem)
    of_stem = (key for key in rows if key.startswith(stem) and SNAPSHOT.sub("", key) == stem != key)
    snapshots = sorted(key for key in of_stem if spelling.fits(rows[key]))
    prices = [read_price(rows[key]) for key in snapshots]
    return snapshots[-1] if snapshots and prices.count(prices[0]) == len(prices) else None
