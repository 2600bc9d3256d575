"""Measures a cache hit among a million stored answers, compared with one among a thousand.

    python benchmarks/many_entries.py [--entries 1000000] [--few 1000] [--rounds 5]

A hundred entries are real answers, which are looked up in turn. The others are copies of them under random keys,
written directly to the file of the store.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench import PROMPT, Row, by_turns, home, options, served, show

PROMPTS = [f"{PROMPT} {number}" for number in range(100)]


def hit(folder: Path) -> float:
    """Returns the seconds of a hit."""
    from testronaut_llm import LLMManager

    os.environ["TESTRONAUT_LLM_HOME"] = str(folder)
    with LLMManager(folder / "llm.yaml") as llm:
        llm.complete(None, PROMPTS[0])
        began = time.perf_counter()
        for prompt in PROMPTS:
            assert llm.complete(None, prompt).cached
        return (time.perf_counter() - began) / len(PROMPTS)


def fill(folder: Path, entries: int) -> None:
    """Asks the prompts, and copies the stored answers until there are so many entries."""
    from testronaut_llm import LLMManager

    with LLMManager(folder / "llm.yaml") as llm:
        for prompt in PROMPTS:
            llm.complete(None, prompt)
    with sqlite3.connect(next(folder.rglob("cache.db")), isolation_level=None) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(Cache)") if row[1] not in ("rowid", "key")]
        names = ", ".join(columns)
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        one = "SELECT * FROM Cache WHERE tag IS NOT NULL LIMIT 1"
        db.execute(
            f"INSERT INTO Cache (key, {names}) {numbers} SELECT lower(hex(randomblob(32))), {names} FROM n, ({one})",
            (entries - len(PROMPTS),),
        )


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields one row."""
    with served() as url:
        with home(url) as many:
            fill(many, given.entries)
            with home(url) as few:
                fill(few, given.few)
                figures = by_turns(given.rounds, partial(hit, many), partial(hit, few))
        yield Row(f"a hit among {given.entries:,} entries, compared with one among {given.few:,}", *figures, "<= 1.5")


if __name__ == "__main__":
    show(rows(options(__doc__, entries=1_000_000, few=1000, rounds=5)))
