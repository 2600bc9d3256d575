"""Measures the peak memory of `run --batch` for 100,000 lines, compared with 10,000.

    python benchmarks/batch_memory.py [--lines 100000]

Each batch runs in a process of its own. Its lines repeat a hundred prompts whose answers are in the cache, so it takes
a minute and not hours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import Row, home, options, served, show

PROGRAM = """
import resource, sys
from testronaut_llm.cli import app
app(["run", "default", "--batch", sys.argv[1], "--out", sys.argv[2]], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
"""


def most(folder: Path, lines: int) -> float:
    """Megabytes."""
    asked, answered = folder / f"{lines}.jsonl", folder / f"{lines}.out"
    with asked.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(f"Explain option {number % 100}.") + "\n" for number in range(lines))
    command = [sys.executable, "-c", PROGRAM, str(asked), str(answered)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    with answered.open("rb") as file:
        assert sum(1 for _ in file) == lines
    return float(done.stdout.split()[-1])


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields one row."""
    with served() as url, home(url) as folder:
        most(folder, 100)
        few, many = most(folder, given.lines // 10), most(folder, given.lines)
        what = f"memory of a batch of {given.lines:,} lines, compared with {given.lines // 10:,}"
        yield Row(what, many, few, "flat", "MB")


if __name__ == "__main__":
    show(rows(options(__doc__, lines=100_000)))
