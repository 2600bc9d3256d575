"""Measures one answer from the cache in a running process, compared with DSPy's disk cache.

python benchmarks/warm_hit.py --peers PYTHON [--rounds 5] [--hits 2000]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from bench import PROMPT, Row, by_turns, dspy_asks, home, options, ours_asks, printed, served, show


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """One row."""
    if not given.peers:
        print("warm_hit.py: left out, since no --peers names an environment with DSPy", file=sys.stderr)
        return
    timed = (
        f"began = time.perf_counter(); [ask({PROMPT!r}) for _ in range({given.hits})]; "
        f"print((time.perf_counter() - began) / {given.hits})"
    )
    with served() as url, home(url):
        added_up = timed.replace("print(", "llm.session; print(")  # what a hit notes, and leaves for later
        ours, theirs = ours_asks(added_up), dspy_asks(url, timed)
        figures = by_turns(given.rounds, lambda: printed(sys.executable, ours), lambda: printed(given.peers, theirs))
        yield Row("one hit in a running process, compared with DSPy's disk hit", *figures, "<= 0.5")


if __name__ == "__main__":
    show(rows(options(__doc__, rounds=5, hits=2000)))
