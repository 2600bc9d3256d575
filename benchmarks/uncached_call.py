"""Measures one uncached call with the ledger, compared with LiteLLM's `completion` and its Router's, on one server.

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
    """Yields four rows: cache off and on, each compared with LiteLLM and with its Router."""
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

        settings: dict[str, Any] = {"model": "openai/gpt-4o-mini", "api_base": f"{url}/v1", "api_key": "none"}
        router = litellm.Router(model_list=[{"model_name": "m", "litellm_params": settings}], num_retries=0)

        def bare(prompt: str) -> Any:
            return litellm.completion(**settings, messages=[{"role": "user", "content": prompt}], max_retries=0)

        def routed(prompt: str) -> Any:
            return router.completion("m", [{"role": "user", "content": prompt}])

        with LLMManager() as llm:
            for mode in ("off", "use"):
                ours = partial(llm.complete, None, cache=mode)
                seconds = by_turns(given.rounds, *[partial(timed, one) for one in (ours, bare, routed)])
                what = f"one uncached call, cache `{mode}`, compared with"
                yield Row(f"{what} `litellm.completion`", seconds[0], seconds[1], "<= 1.35")
                yield Row(f"{what} `Router.completion`", seconds[0], seconds[2], "<= 1")


if __name__ == "__main__":
    show(rows(options(__doc__, rounds=20, in_a_row=20)))
