"""Measures a new process, compared with DSPy: import, one answer from a warm disk cache, command line.

    python benchmarks/start_up.py --peers PYTHON [--rounds 15]

PYTHON is the interpreter of an environment with DSPy: `python -m venv peers && peers/bin/pip install dspy`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial

from bench import PROMPT, Row, by_turns, dspy_asks, home, options, ours_asks, process, served, show

IMPORT = "import dspy"


def command(*words: str) -> str:
    """Returns a program that runs the command line."""
    return f"import sys; from testronaut_llm.cli import main; sys.argv[1:] = {list(words)!r}; main()"


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields the four rows."""
    if not given.peers:
        print("start_up.py: left out, since no --peers names an environment with DSPy", file=sys.stderr)
        return
    with served() as url, home(url):
        for what, ours, theirs, target in (
            ("`import testronaut_llm`, compared with `import dspy`", "import testronaut_llm", IMPORT, "<= 0.25"),
            ("a new process: import, file, one answer from a warm disk cache", ours_asks(), dspy_asks(url), "<= 0.35"),
            ("the whole process of `--help`, compared with `import dspy`", command("--help"), IMPORT, "<= 0.5"),
            ("`run` from the cache, compared with `import dspy`", command("run", "default", PROMPT), IMPORT, "<= 0.5"),
        ):
            mine, peer = partial(process, sys.executable, "-c", ours), partial(process, given.peers, "-c", theirs)
            mine(), peer()  # compiles, and fills the caches
            yield Row(what, *by_turns(given.rounds, mine, peer), target)


if __name__ == "__main__":
    show(rows(options(__doc__, rounds=15)))
