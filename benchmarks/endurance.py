"""What many calls leave behind in one process: memory, descriptors and threads; and a hit among many entries.

    python benchmarks/endurance.py [--calls 5000] [--entries 1000000]

Calls go to a server on loopback, each with the cache and the ledger on. The entries of the large store are written to
its file directly, in the form in which the cache writes them.
"""

from __future__ import annotations

import argparse
import gc
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
from speed import served


def made(home: str, url: str) -> None:
    """A file with one model, for a manager of its own folder."""
    file = Path(home, "llm.yaml")
    row = f'{{model: openai/gpt-4o-mini, api_base: "{url}/v1", price: {{input: 1, output: 2}}}}'
    file.write_text(f"models: {{m: {row}}}\ntasks: {{default: {{models: m, max_tokens: 100}}}}\n", "utf-8")
    os.environ |= {"TESTRONAUT_LLM_HOME": home, "TESTRONAUT_LLM_CONFIG": str(file), "OPENAI_API_KEY": "none"}


def flat(calls: int) -> None:
    """Prints what a process holds after some calls, and after many more."""
    from testronaut_llm import LLMManager

    me = psutil.Process()
    print("| calls | memory | descriptors | threads |\n| --- | --- | --- | --- |")
    with LLMManager() as llm:
        for number in range(calls + 1):
            llm.complete(None, f"Say hello, {number}.")
            if number in (calls // 10, calls // 2, calls):
                gc.collect()
                memory = me.memory_info().rss / 1e6
                print(f"| {number} | {memory:.0f} MB | {me.num_fds()} | {threading.active_count()} |", flush=True)


def hit(rounds: int = 2000) -> float:
    """Seconds of a hit, at the median."""
    from testronaut_llm import LLMManager

    with LLMManager() as llm:
        llm.complete(None, "Say hello.")
        taken = []
        for _ in range(rounds):
            began = time.perf_counter()
            assert llm.complete(None, "Say hello.").cached
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def fill(home: str, entries: int) -> None:
    """Copies the stored answer under other keys until there are so many."""
    file = next(Path(home).rglob("cache.db"))
    with sqlite3.connect(file, isolation_level=None) as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(Cache)") if row[1] not in ("rowid", "key")]
        names = ", ".join(columns)
        numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        one = "SELECT * FROM Cache WHERE tag IS NOT NULL LIMIT 1"
        db.execute(
            f"INSERT INTO Cache (key, {names}) {numbers} SELECT lower(hex(randomblob(32))), {names} FROM n, ({one})",
            (entries,),
        )


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--entries", type=int, default=1_000_000)
    options = parser.parse_args()
    with served() as server, tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        made(few, server)
        flat(options.calls)
        print("\n| entries | one hit | |\n| --- | --- | --- |")
        for home, entries in ((few, 1000), (many, options.entries)):
            made(home, server)
            hit(1)
            fill(home, entries)
        taken = {}
        for home, entries in ((few, 1000), (many, options.entries)):
            made(home, server)
            taken[entries] = hit()
            print(f"| {entries:,} | {taken[entries] * 1e6:.0f} us | {taken[entries] / taken[1000]:.2f} x |")


if __name__ == "__main__":
    main()
