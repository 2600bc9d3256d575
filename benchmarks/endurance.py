"""Measures memory, descriptors and threads of one process after many calls.

    python benchmarks/endurance.py [--calls 5000]

Calls go to a server on loopback, each with the cache and the ledger on.
"""

from __future__ import annotations

import argparse
import gc
import threading
from collections.abc import Iterator

import psutil
from bench import Row, home, options, served, show


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields the resources after all calls, compared with those after a tenth of them."""
    from testronaut_llm import LLMManager

    me, held = psutil.Process(), []
    with served() as url, home(url), LLMManager() as llm:
        for number in range(1, given.calls + 1):
            llm.complete(None, f"Say hello, {number}.")
            if number in (given.calls // 10, given.calls):
                gc.collect()
                held.append((me.memory_info().rss / 1e6, me.num_fds(), threading.active_count()))
    for what, unit, early, late in zip(("memory", "descriptors", "threads"), ("MB", "", ""), *held, strict=True):
        yield Row(f"{what} after {given.calls:,} calls, compared with {given.calls // 10:,}", late, early, "flat", unit)


if __name__ == "__main__":
    show(rows(options(__doc__, calls=5000)))
