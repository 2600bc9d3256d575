"""The price tables, read as data, and the row that each of them has for a model.

Importing LiteLLM or tokencost takes seconds and loads SDKs. So their files are read without importing them, and only
when a price is first asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from pathlib import Path
from typing import Any

from testronaut_llm.money.price_rows import Row, read_price
from testronaut_llm.support.paths import data_dir, data_file, version
from testronaut_llm.telemetry.log import logger

Rows = Mapping[str, Row]

SNAPSHOT = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")

_DATE = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_BUNDLED = (("litellm", "model_prices_and_context_window_backup.json"), ("tokencost", "model_prices.json"))
_FINE_TUNE = re.compile(r"^(ft:[^:]+):")
# Anthropic's names for "the only snapshot of this generation".
_ALIASES = {"claude-sonnet-4-0": "claude-sonnet-4", "claude-opus-4-0": "claude-opus-4"}
# LiteLLM files some models of one provider under another name.
_FILED_AS = {"openai": "text-completion-openai", "azure": "azure_text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table: `name` says where it comes from, `rows` maps a model's name to what is known of it."""

    name: str
    rows: Rows

    @property
    def newest(self) -> str | None:
        """Date (YYYY-MM-DD) of the newest dated model it lists, a lower bound of the table's own date."""
        dates = (found[1].replace("-", "") for name in self.rows if (found := SNAPSHOT.search(name)))
        newest = max((date for date in dates if _DATE.fullmatch(date)), default=None)
        return newest and f"{newest[:4]}-{newest[4:6]}-{newest[6:]}"


class PriceTables:
    """The user's update, LiteLLM's map, tokencost's table: the order of trust. Each is read once, when reached."""

    def __init__(self, user_file: Path | None = None) -> None:
        self._readers = [cache(partial(_read_user, user_file or user_table_path()))]
        self._readers += [cache(partial(_read_bundled, package, file)) for package, file in _BUNDLED]

    def __iter__(self) -> Iterator[Table]:
        return (table for read in self._readers if (table := read()) is not None)


def user_table_path() -> Path:
    """Returns the file that `prices update` writes."""
    return data_dir() / "prices.json"


def decode(text: str) -> Any:
    """Returns decoded JSON with every fraction as the Decimal that is written; NaN is a ValueError."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse)


def model_rows(decoded: Mapping[str, Any]) -> dict[str, Row]:
    """Returns the entries that describe a model; tables also hold rules and a commented sample."""
    models = {k: v for k, v in decoded.items() if isinstance(v, Mapping) and "litellm_provider" in v}
    models.pop("sample_spec", None)
    return models


def find_row(
    tables: Iterable[Table], provider: str, name: str, base_model: str | None = None
) -> tuple[Table, str, Row] | None:
    """Returns the row of a model: by its exact name in any table, else as a snapshot, else as an alias.

    A similar name is never a match.
    """
    wanted = _spellings(provider, name, base_model)
    for match in (_exact, _undated, _alias):
        for table in tables:
            for owner, key in wanted:
                if (found := match(table.rows, owner, key)) is not None:
                    return table, found, table.rows[found]
    return None


def _spellings(provider: str, name: str, base_model: str | None) -> list[tuple[str, str]]:
    """Returns (provider of the row, key) pairs under which a table may file this model, best first.

    An Azure deployment's own name says nothing about its model, so only its `base_model` counts. Where Azure lists no
    price, OpenAI's list price holds.
    """
    if base_model is None:
        return [] if provider == "azure" else _keys(provider, name)
    head, _, tail = base_model.partition("/")
    bare = tail if head == provider else base_model
    found = _keys(provider, bare)
    if tail and head != provider:
        found += _keys(head, tail)
    return [*found, *(_keys("openai", bare) if provider == "azure" else ())]


def _keys(provider: str, name: str) -> list[tuple[str, str]]:
    tuned = _FINE_TUNE.match(name)
    name = tuned[1] if tuned else name
    return [(provider, f"{provider}/{name}"), (provider, name)]


def _exact(rows: Rows, provider: str, key: str) -> str | None:
    row = rows.get(key)
    filed = str(row.get("litellm_provider", "")) if row is not None else ""
    fits = filed in (provider, _FILED_AS.get(provider)) or filed.startswith((f"{provider}-", f"{provider}_"))
    return key if row is not None and fits else None


def _undated(rows: Rows, provider: str, key: str) -> str | None:
    stem = SNAPSHOT.sub("", key)
    return _exact(rows, provider, stem) if stem != key else None


def _alias(rows: Rows, provider: str, key: str) -> str | None:
    """Returns the newest snapshot, if all of them cost the same."""
    stem = key.removesuffix("-latest")
    stem = _ALIASES.get(stem, stem)
    snapshots = sorted(
        name
        for name in rows
        if name.startswith(stem) and SNAPSHOT.sub("", name) == stem != name and _exact(rows, provider, name)
    )
    prices = [read_price(rows[name]) for name in snapshots]
    return snapshots[-1] if snapshots and prices.count(prices[0]) == len(prices) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no price")


def _read_user(path: Path) -> Table | None:
    try:
        decoded = decode(path.read_text(encoding="utf-8"))
        return Table(name=f"prices update of {str(decoded['updated'])[:10]}", rows=model_rows(decoded["rows"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        mend = "run `testronaut-llm prices update` again or delete the file"
        logger().warning("price_table_unreadable", file=str(path), fault=str(error), mend=mend)
        return None


def _read_bundled(package: str, file: str) -> Table | None:
    path = data_file(package, file)
    if path is None:
        return None
    rows = model_rows(decode(path.read_text(encoding="utf-8")))
    return Table(name=f"{package} {version(package) or 'of unknown version'}", rows=rows)
