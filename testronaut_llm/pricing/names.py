"""Which row of a table is this model's? Its exact name, snapshot, fine-tune or base model; never a near miss."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from testronaut_llm.pricing.tables import SNAPSHOT, Row, Rows, Table

_FINE_TUNE = re.compile(r"^(ft:[^:]+):")
_LATEST = re.compile(r"-latest$")
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


def find_row(
    tables: Iterable[Table], wanted: list[Spelling], same: Callable[[Row, Row], bool]
) -> tuple[Table, str, Row] | None:
    """The first row that is this model's: by exact name in any table, then as a snapshot of one, then as its alias.

    Args:
        tables: newest first.
        wanted: from `spellings`.
        same: do two rows cost the same? An alias is only priced when all its snapshots agree.
    """
    for match in (_exact, _undated, _alias):
        for table in tables:
            for spelling in wanted:
                key = match(table.rows, spelling, same)
                if key is not None:
                    return table, key, table.rows[key]
    return None


def _of(provider: str, name: str) -> list[Spelling]:
    tuned = _FINE_TUNE.match(name)
    name = tuned.group(1) if tuned else name
    return [Spelling(f"{provider}/{name}", provider), Spelling(name, provider)]


def _exact(rows: Rows, spelling: Spelling, _same: Callable[[Row, Row], bool]) -> str | None:
    row = rows.get(spelling.key)
    return spelling.key if row is not None and spelling.fits(row) else None


def _undated(rows: Rows, spelling: Spelling, same: Callable[[Row, Row], bool]) -> str | None:
    stem = SNAPSHOT.sub("", spelling.key)
    return _exact(rows, Spelling(stem, spelling.provider), same) if stem != spelling.key else None


def _alias(rows: Rows, spelling: Spelling, same: Callable[[Row, Row], bool]) -> str | None:
    stem = _LATEST.sub("", spelling.key)
    stem = _ALIASES.get(stem, stem)
    snapshots = sorted(_snapshots(rows, stem, spelling))
    if not snapshots or not all(same(rows[snapshots[0]], rows[key]) for key in snapshots[1:]):
        return None
    return snapshots[-1]


def _snapshots(rows: Rows, stem: str, spelling: Spelling) -> Iterator[str]:
    for key, row in rows.items():
        if key.startswith(stem) and SNAPSHOT.sub("", key) == stem != key and spelling.fits(row):
            yield key
