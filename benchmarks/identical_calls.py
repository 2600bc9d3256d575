"""Counts the requests of a hundred identical concurrent calls.

python benchmarks/identical_calls.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from bench import PROMPT, Row, asked, home, options, served, show


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields one row: calls in threads."""
    from testronaut_llm import LLMManager

    with served(delay=0.3) as url, home(url):
        with LLMManager() as llm, ThreadPoolExecutor(given.calls) as pool:
            list(pool.map(lambda _: llm.complete(None, PROMPT), range(given.calls)))
        yield Row(f"{given.calls} identical calls at once", asked(url), None, "1", unit="requests")


if __name__ == "__main__":
    show(rows(options(__doc__, calls=100)))
