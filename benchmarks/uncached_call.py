"""Measures one uncached call with the ledger, compared with bare `litellm.completion` to the same server.

python benchmarks/uncached_call.py [--rounds 20] [--in-a-row 20]
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench import Row, by_turns, home, options, served, show


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Two rows: with the cache off, and on."""
    with served() as url, home(url):
        import litellm

        from testronaut_llm import LLMManager

        counter = itertools.count()

        def timed(ask: Callable[[str], Any]) -> float:
            """Several in a row: LiteLLM leaves a thread at work after a call, which falls into the next one's time."""
            began = time.perf_counter()
            for _ in range(given.in_a_row):
                ask(f"Say hello, {next(counter)}.")
            return (time.perf_counter() - began) / given.in_a_row

        def bare(prompt: str) -> Any:
            messages = [{"role": "user", "content": prompt}]
            return litellm.completion(
                "openai/gpt-4o-mini", messages, api_base=f"{url}/v1", api_key="none", max_retries=0
            )

        with LLMManager() as llm:
            for mode, target in (("off", "<= 1.05"), ("use", "<= 1.10")):
                ours = partial(llm.complete, None, cache=mode)
                figures = by_turns(given.rounds, partial(timed, ours), partial(timed, bare))
                yield Row(f"one uncached call, cache `{mode}`, compared with `litellm.completion`", *figures, target)


if __name__ == "__main__":
    show(rows(options(__doc__, rounds=20, in_a_row=20)))
