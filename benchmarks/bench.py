"""Helpers of the speed benchmarks: a server on loopback, a file with one model, processes, and rows of a table.

Each benchmark prints rows that compare this package with another library in the same run, in turns. Compare ratios, not
seconds. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

PROMPT = "Say hello."


@dataclass(frozen=True)
class Row:
    """One row of the table, in seconds or another `unit`. `peer` is None without a comparison."""

    what: str
    ours: float
    peer: float | None
    target: str
    unit: str = "ms"

    def __str__(self) -> str:
        shown = [f"{one * 1e3:.3g} ms" if self.unit == "ms" else f"{one:.4g} {self.unit}" for one in self._figures()]
        ratio = f"{self.ours / self.peer:.2f}" if self.peer else ""
        return f"| {self.what} | {' | '.join([*shown, ''][:2])} | {ratio} | {self.target} |"

    def _figures(self) -> list[float]:
        return [self.ours] if self.peer is None else [self.ours, self.peer]


HEAD = "| what | here | peer | ratio | target |\n| --- | --- | --- | --- | --- |"


def options(doc: str | None, **defaults: int) -> argparse.Namespace:
    """Returns the options that all scripts share, and those of one script."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--peers", metavar="PYTHON", help="Python of an environment that has DSPy")
    for name, number in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=number)
    return parser.parse_args()


def show(rows: Iterator[Row]) -> None:
    """Prints each row when it is measured."""
    print(HEAD)
    for row in rows:
        print(row, flush=True)


@contextmanager
def served(delay: float = 0.0) -> Iterator[str]:
    """Yields the URL of a server in a process of its own, whose answers take so many seconds."""
    script = Path(__file__).with_name("server.py")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        try:
            url = f"http://127.0.0.1:{child.stdout.readline().strip()}"
            asked(url, delay=delay)
            yield url
        finally:
            child.terminate()


def asked(url: str, *, delay: float = 0.0) -> int:
    """Returns the number of requests since the last call of this function; later answers take so many seconds."""
    with urlopen(f"{url}/{delay}") as told:
        return int(told.read())


@contextmanager
def home(url: str) -> Iterator[Path]:
    """Makes a folder for this package and DSPy, with a file of one model; sets its variables in this process."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "llm.yaml")
        row = f'{{model: openai/gpt-4o-mini, api_base: "{url}/v1", price: {{input: 1, output: 2}}}}'
        file.write_text(f"models: {{m: {row}}}\ntasks: {{default: {{models: m, max_tokens: 100}}}}\n", "utf-8")
        os.environ |= {"TESTRONAUT_LLM_HOME": folder, "TESTRONAUT_LLM_CONFIG": str(file), "OPENAI_API_KEY": "none"}
        os.environ |= {"DSPY_CACHEDIR": f"{folder}/dspy", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ |= before


def process(python: str, *arguments: str) -> float:
    """Returns the seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run([python, *arguments], capture_output=True, check=True)
    return time.perf_counter() - began


def printed(python: str, code: str) -> float:
    """Returns the number that a process prints last."""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def by_turns(rounds: int, *measured: Callable[[], float]) -> list[float]:
    """Returns the medians of several measurements, made in turns. The first round is not counted."""
    taken: list[list[float]] = [[one() for one in measured] for _ in range(rounds + 1)][1:]
    return [statistics.median(figures) for figures in zip(*taken, strict=True)]


def dspy_asks(url: str, then: str = "") -> str:
    """Returns a program that gets one answer from DSPy's disk cache, and then does something."""
    settings: dict[str, Any] = {"api_base": f"{url}/v1", "api_key": "none", "max_tokens": 100, "num_retries": 0}
    return f"""
import os, time
import dspy
dspy.configure_cache(enable_disk_cache=True, enable_memory_cache=False, disk_cache_dir=os.environ["DSPY_CACHEDIR"])
ask = dspy.LM("openai/gpt-4o-mini", temperature=0.0, **{settings!r})
ask({PROMPT!r})
{then}
"""


def ours_asks(then: str = "") -> str:
    """Returns a program that gets one answer from this package, and then does something."""
    return f"""
import time
from testronaut_llm import LLMManager
with LLMManager() as llm:
    ask = lambda prompt: llm.complete(None, prompt)
    ask({PROMPT!r})
    {then}
"""
