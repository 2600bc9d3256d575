"""A program that spends as fast as it can: `ledger_storm.py URL PROCESSES THREADS KILLS`.

The processes have one budget, many threads each, and some are killed. They are forked from one whose manager was used.
A few lines replace LiteLLM, which would take most of the time; the requests are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

from testronaut_llm import LLMConfig, LLMManager
from testronaut_llm.errors import AllModelsFailedError, BudgetExceededError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request
from testronaut_llm.records import Usage

ROOM = 50
"""Calls that the budget holds: each costs its worst case, 100 tokens at 1 USD a million."""


class Post:
    """Replaces the gateway."""

    def load(self) -> None: ...

    async def aclose(self) -> None: ...

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[Reply]:
        exchange.requests += 1
        answer = await asyncio.to_thread(self._post, f"{request.target.api_base}/chat/completions")
        usage = Usage(
            prompt_tokens=answer["usage"]["prompt_tokens"], completion_tokens=answer["usage"]["completion_tokens"]
        )
        yield Reply(text=answer["choices"][0]["message"]["content"], finish_reason="stop", usage=usage)

    def _post(self, url: str) -> Any:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
            return json.load(response)


def main(url: str, processes: int, threads: int, kills: int) -> None:
    model = {"model": "openai/m", "api_base": f"{url}/v1", "price": {"input": 0, "output": 1}, "context_window": 8192}
    llm = LLMManager(
        config=LLMConfig.model_validate(
            {
                "version": 1,
                "models": {"m": model},
                "tasks": {"t": {"models": ["m"], "max_tokens": 100, "retries": 0, "cache": "off"}},
                "budget": {"scope": "storm", "total": f"{ROOM * 100 / 1e6:f}"},
            }
        )
    )
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
        ended: list[bool] = []
        workers = [threading.Thread(target=_spend, args=(llm, ended)) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        llm.close()
        code = 0 if len(ended) == threads else 71
    finally:
        os._exit(code)


def _spend(llm: LLMManager, ended: list[bool]) -> None:
    while True:
        try:
            llm.complete("t", "hi")
        except BudgetExceededError:
            ended.append(True)
            return
        except AllModelsFailedError as error:
            sys.stderr.write(f"{error}\n")
            return


if __name__ == "__main__":
    main(sys.argv[1], *(int(number) for number in sys.argv[2:]))
