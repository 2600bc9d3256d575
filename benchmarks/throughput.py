"""How many uncached async calls get through at once, beside bare LiteLLM and its Router.

    python benchmarks/throughput.py [--calls 1000] [--at-once 64] [--rounds 3]

All ask a server of their own process on loopback that takes a while (--delay) to answer. Prints ratios of medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from speed import served

Ask = Callable[[str], Awaitable[Any]]
NAMES = ("here, cache `off`", "here, cache `use`", "`litellm.acompletion`", "`litellm.Router`")
PROMPTS = (f"Say hello, {number}." for number in itertools.count())


async def a_second(ask: Ask, calls: int, at_once: int) -> float:
    """Calls a second."""
    jobs = iter([next(PROMPTS) for _ in range(calls)])

    async def worker() -> None:
        for prompt in jobs:
            await ask(prompt)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return calls / (time.perf_counter() - began)


@asynccontextmanager
async def asking(what: str, url: str) -> AsyncIterator[Ask]:
    """One of those that are compared, in a process of its own: each with the HTTP client that it takes by itself."""
    settings = {"model": "openai/gpt-4o-mini", "api_base": url, "api_key": "none"}
    if what.startswith("here"):
        from testronaut_llm import LLMManager

        async with LLMManager() as llm:
            yield partial(llm.acomplete, None, cache="off" if "off" in what else "use")
        return
    import litellm

    async def bare(prompt: str) -> Any:
        return await litellm.acompletion(**settings, messages=[{"role": "user", "content": prompt}], max_retries=0)

    router = litellm.Router(model_list=[{"model_name": "m", "litellm_params": settings}], num_retries=0)

    async def routed(prompt: str) -> Any:
        return await router.acompletion(model="m", messages=[{"role": "user", "content": prompt}])

    yield routed if what == "`litellm.Router`" else bare


async def measured(what: str, url: str, options: argparse.Namespace) -> float:
    """Calls a second, once all connections are open."""
    async with asking(what, url) as ask:
        await a_second(ask, options.at_once * 2, options.at_once)
        return await a_second(ask, options.calls, options.at_once)


def process(what: str, url: str) -> float:
    """The same by a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", what, "--url", url]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until the server answers")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(asyncio.run(measured(options.one, options.url, options)))
        return
    with tempfile.TemporaryDirectory() as home, served() as server:
        urlopen(f"{server}/{options.delay}").close()
        file = Path(home, "llm.yaml")
        row = f'{{model: openai/gpt-4o-mini, api_base: "{server}/v1", price: {{input: 1, output: 2}}}}'
        file.write_text(f"models: {{m: {row}}}\ntasks: {{default: {{models: m, max_tokens: 100}}}}\n", "utf-8")
        os.environ |= {"TESTRONAUT_LLM_CONFIG": str(file), "OPENAI_API_KEY": "none"}
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        taken: dict[str, list[float]] = {name: [] for name in NAMES}
        for number in range(options.rounds):
            for name, rates in taken.items():
                os.environ["TESTRONAUT_LLM_HOME"] = f"{home}/{number} {len(name)}"
                rates.append(process(name, f"{server}/v1"))
    found = {name: statistics.median(rates) for name, rates in taken.items()}
    base = found["`litellm.acompletion`"]
    print(f"{options.calls} calls, {options.at_once} at once, {options.delay:g} s a call.\n")
    print("| what | calls a second | beside `litellm.acompletion` |\n| --- | --- | --- |")
    for name, rate in found.items():
        print(f"| {name} | {rate:.0f} | {rate / base:.2f} |")


if __name__ == "__main__":
    main()
