"""A program that spends as fast as it can: `ledger_storm.py URL PROCESSES THREADS KILLS`.

The processes have one budget, many threads each, and some are killed. They are forked from one whose manager was used.
`Post` replaces LiteLLM, which would take most of the time; the requests are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
import traceback
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from testronaut_llm import LLMConfig, LLMManager
from testronaut_llm.errors import BudgetExceededError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request
from testronaut_llm.records import Usage

ROOM = 50
"""Calls that the budget holds: each costs its worst case, 100 tokens at 1 USD a million."""


class Post:
    def load(self) -> None: ...

    async def aclose(self) -> None: ...

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[Reply]:
        exchange.requests += 1
        await asyncio.to_thread(_post, f"{request.target.api_base}/chat/completions")
        yield Reply(text="fine", finish_reason="stop", usage=Usage(prompt_tokens=10, completion_tokens=100))


def _post(url: str) -> None:
    with urllib.request.urlopen(url, b"{}") as response:
        response.read()


def main(url: str, processes: int, threads: int, kills: int) -> None:
    model = {"model": "openai/m", "api_base": f"{url}/v1", "price": {"input": 0, "output": 1}, "context_window": 8192}
    settings = {
        "models": {"m": model},
        "tasks": {"t": {"models": ["m"], "max_tokens": 100, "retries": 0, "cache": "off"}},
        "budget": {"scope": "storm", "total": f"{ROOM * 100 / 1e6:f}"},
    }
    llm = LLMManager(config=LLMConfig.model_validate(settings))
    llm._caller.services.gateway = Post()
    with contextlib.suppress(BudgetExceededError):  # loads what every call needs
        llm.complete("t", "hi", max_cost="0.000001")
    llm._ledger.hit("storm", "t", "m", None)
    llm._ledger.flush()  # a connection is open now, and must not go along
    children = [_forked(llm, threads) for _ in range(processes)]
    for child in random.sample(children, kills):
        time.sleep(random.uniform(0.0, 0.04))
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(codes) <= {0, -signal.SIGKILL}, codes  # one may have ended before it was to be killed


def _forked(llm: LLMManager, threads: int) -> int:
    if child := os.fork():
        return child
    code = 70
    try:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(_spend, [llm] * threads))
        llm.close()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def _spend(llm: LLMManager) -> None:
    with contextlib.suppress(BudgetExceededError):
        while True:
            llm.complete("t", "hi")


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:]))
