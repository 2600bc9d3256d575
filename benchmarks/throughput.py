"""Measures uncached async calls a second, 64 at once, compared with bare LiteLLM and its Router.

    python benchmarks/throughput.py [--calls 1000] [--at-once 64] [--rounds 3]

All ask the same server on loopback, which answers at once. Each runs in a process of its own, with its usual HTTP
client.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from bench import Row, home, options, served, show

Ask = Callable[[str], Awaitable[Any]]
URL, WHO = "BENCH_URL", "BENCH_WHO"
OURS, BARE, ROUTER = ("off", "use"), "bare", "router"
PROMPTS = (f"Say hello, {number}." for number in itertools.count())


async def a_second(ask: Ask, calls: int, at_once: int) -> float:
    """Returns calls a second."""
    jobs = iter([next(PROMPTS) for _ in range(calls)])

    async def worker() -> None:
        for prompt in jobs:
            await ask(prompt)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return calls / (time.perf_counter() - began)


@asynccontextmanager
async def asking(who: str, url: str) -> AsyncIterator[Ask]:
    """Yields the function that asks, for one of the libraries."""
    settings = {"model": "openai/gpt-4o-mini", "api_base": f"{url}/v1", "api_key": "none"}
    if who in OURS:
        from testronaut_llm import LLMManager

        async with LLMManager() as llm:
            yield partial(llm.acomplete, None, cache=who)
        return
    import litellm

    async def bare(prompt: str) -> Any:
        return await litellm.acompletion(**settings, messages=[{"role": "user", "content": prompt}], max_retries=0)

    router = litellm.Router(model_list=[{"model_name": "m", "litellm_params": settings}], num_retries=0)

    async def routed(prompt: str) -> Any:
        return await router.acompletion(model="m", messages=[{"role": "user", "content": prompt}])

    yield routed if who == ROUTER else bare


async def measured(given: argparse.Namespace) -> float:
    """Returns calls a second, after all connections are open."""
    async with asking(os.environ[WHO], os.environ[URL]) as ask:
        await a_second(ask, given.at_once * 2, given.at_once)
        return await a_second(ask, given.calls, given.at_once)


def rate(who: str, url: str) -> float:
    """Returns the same, measured in a process and a folder of its own."""
    with home(url):
        environment = {**os.environ, WHO: who, URL: url}
        command = [sys.executable, __file__, *sys.argv[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Yields three rows: cache off and on compared with bare LiteLLM, and with the Router."""
    with served() as url:
        taken = [{who: rate(who, url) for who in (*OURS, BARE, ROUTER)} for _ in range(given.rounds)]
    found = {who: statistics.median(rates[who] for rates in taken) for who in taken[0]}
    what = f"{given.calls:,} async calls, {given.at_once} at once, cache"
    for mode in OURS:
        target = ">= 1" if mode == "off" else ""
        yield Row(f"{what} `{mode}`, compared with `litellm.acompletion`", found[mode], found[BARE], target, "calls/s")
    yield Row(f"{what} `use`, compared with `litellm.Router`", found["use"], found[ROUTER], ">= 1", "calls/s")


if __name__ == "__main__":
    wanted = options(__doc__, calls=1000, at_once=64, rounds=3)
    if WHO in os.environ:
        print(asyncio.run(measured(wanted)))
    else:
        show(rows(wanted))
