"""Measures one answer from the cache in a running process, compared with DSPy's disk cache.

    python benchmarks/warm_hit.py --peers PYTHON [--rounds 5] [--hits 1000]

Three rows: one prompt many times, another prompt each time, and an answer that is validated by a pydantic class.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial

from bench import PROMPT, Row, by_turns, dspy_asks, home, options, ours_asks, printed, served, show

SCHEMA = "from pydantic import BaseModel; Verdict = type('Verdict', (BaseModel,), {'__annotations__': {'text': str}})"


def timed(prompts: str, ask: str = "ask(prompt)") -> str:
    """Returns a program that asks prompts, then asks them again and prints the seconds of one hit."""
    again = f"[{ask} for prompt in prompts]"
    return (
        f"prompts = {prompts}; {again}; began = time.perf_counter(); {again}; finish(); "
        "print((time.perf_counter() - began) / len(prompts))"
    )


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields three rows, compared with DSPy's hits for the same prompts; it has no schema in this form."""
    if not given.peers:
        print("warm_hit.py: left out, since no --peers names an environment with DSPy", file=sys.stderr)
        return
    same, other = f"[{PROMPT!r}] * {given.hits}", f"[f'Say hello, {{n}}.' for n in range({given.hits})]"
    with_schema = "llm.complete(None, prompt, schema=Verdict)"
    with served() as url, home(url):
        for what, prompts, ask in (
            ("one hit in a running process, the same prompt", same, "ask(prompt)"),
            ("one hit in a running process, another prompt each time", other, "ask(prompt)"),
            ("one hit in a running process, with a schema", same, with_schema),
        ):
            # the session adds up what a hit notes, and leaves for later
            ours = ours_asks(f"{SCHEMA}; finish = lambda: llm.session; {timed(prompts, ask)}")
            theirs = dspy_asks(url, f"finish = int; {timed(prompts)}")
            measured = partial(printed, sys.executable, ours), partial(printed, given.peers, theirs)
            yield Row(f"{what}, compared with DSPy's disk hit", *by_turns(given.rounds, *measured), "<= 0.5")


if __name__ == "__main__":
    show(rows(options(__doc__, rounds=5, hits=1000)))
