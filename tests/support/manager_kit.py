"""Managers whose models are endpoints of the fault server, on each wire."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import cache
from typing import Any

import pytest
from fault_server import Endpoint, FaultServer, Received, Reply
from faults import good, raw
from gateway_kit import KEY, MODELS, VERSIONS

from testronaut_llm import Answer, LLMManager
from testronaut_llm.cli import main
from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.options import call_of
from testronaut_llm.records import Call

Make = Callable[..., "Api"]  # the fixture `api`
Run = Callable[..., tuple[int, str, str]]  # the fixture `run`
MODES = ("complete", "acomplete", "stream", "astream")
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "AZURE_API_KEY")
PRICE = {"input": "1", "output": "2", "cache_read": "0.1", "cache_write": "1.25"}
_LISTED = {"name": "qwen3:8b", "model": "qwen3:8b", "digest": "a" * 64, "size": 1, "details": {"context_length": 8192}}


class Api(Endpoint):
    """One endpoint of the fault server. Its plan is for requests to models; it always lists the models of an Ollama."""

    @property
    def bodies(self) -> list[Any]:
        return [one.body for one in self.requests]

    def reply_to(self, request: Received) -> Reply:
        if request.path.endswith("/api/ps"):
            return raw(200, b'{"models": []}')
        if request.method == "GET":
            return raw(200, json.dumps({"models": [_LISTED]}).encode())
        return super().reply_to(request)


@contextmanager
def apis() -> Iterator[Callable[..., Api]]:
    """Yields a function that makes endpoints by name, with their plans: `api("a", good())`."""
    with FaultServer(Api) as server:
        yield server.plan


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture(scope="session")
def _warm() -> None:
    """Makes the first call on each wire, for which LiteLLM loads modules, so that deadlines do not include this."""
    with pytest.MonkeyPatch.context() as patch, apis() as make:
        for name in KEYS:
            patch.setenv(name, KEY)
        server = make("warm", good())
        with manager({wire: model(wire, server) for wire in ("openai", "azure", "anthropic", "ollama")}) as llm:
            for wire in llm.config.models:
                list(llm.stream("t", "hi", model=wire))


@pytest.fixture(scope="module")
def api(_warm: None) -> Iterator[Callable[..., Api]]:
    with apis() as make:
        yield make


@pytest.fixture
def provider_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, KEY)


def program(*arguments: object, timeout: float = 110, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process; returns its exit code, stdout and stderr."""

    def running(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["testronaut-llm", *arguments])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return running


def eventually(condition: Callable[[], bool]) -> bool:
    """True if the condition becomes true within half a minute."""
    until = time.monotonic() + 30
    while not (true := condition()) and time.monotonic() < until:
        time.sleep(0.005)
    return true


def under_way(llm: LLMManager) -> int:
    """Number of calls that run on the manager's event loop."""
    loop = llm._caller.services.loop._loop
    tasks = asyncio.all_tasks(loop) if loop else ()  # LiteLLM has one of its own there
    return sum("LoopTask._run" in getattr(one.get_coro(), "__qualname__", "") for one in tasks)


def used_slots(llm: LLMManager) -> int:
    """Number of requests that hold a slot of `limits` or wait for one."""
    limiter = llm._caller.services.limiter
    return len(limiter.line) + sum(gate.running for gate in limiter.gates.values())


def is_idle(llm: LLMManager) -> bool:
    return eventually(lambda: not under_way(llm) and not used_slots(llm))


def booked(llm: LLMManager) -> tuple[int, int, Decimal]:
    """Attempts in the ledger of `llm`: how many, how many of them are not settled, and their cost in USD."""
    query = "SELECT count(*), total(state < 2), total(amount) FROM attempts WHERE scope = ?"
    scope = llm.config.budget_scope() or ""
    count, unsettled, amount = llm._ledger.file.run(lambda db: db.execute(query, (scope,)).fetchone())
    return count, int(unsettled), Decimal(amount).scaleb(-12)


async def ask(llm: LLMManager, mode: str, prompt: Any = "hi", **given: Any) -> Answer[Any]:
    """Returns the answer of task `t`, by the method `mode`; the pieces of a stream must be its text."""
    if mode == "complete":
        return llm.complete("t", prompt, **given)
    if mode == "acomplete":
        return await llm.acomplete("t", prompt, **given)
    if mode == "stream":
        with llm.stream("t", prompt, **given) as stream:
            assert "".join(stream) == stream.answer.text
            return stream.answer
    async with llm.astream("t", prompt, **given) as pieces:
        assert "".join([piece async for piece in pieces]) == pieces.answer.text
        return pieces.answer


def a_model(reference: str = "openai/gpt", **fields: Any) -> ModelConfig:
    return ModelConfig(alias="mine", model=reference, **fields)


def model(wire: str, api: Api | str, **fields: Any) -> dict[str, Any]:
    url = api if isinstance(api, str) else api.url
    row = {"model": MODELS[wire], "api_base": f"{url}/v1" if wire == "openai" else url, "context_window": 8192}
    version = {"api_version": VERSIONS[wire]} if wire in VERSIONS else {}
    kind = {"local": True} if wire == "ollama" else {"price": PRICE, "max_output": 4096}
    return {**row, **version, **kind, **fields}


def config(models: Any, tasks: Any = None, *, limits: Any = None, budget: Any = None, **task: Any) -> LLMConfig:
    """A configuration whose task `t` lists all these models in their order; `budget` is the file's."""
    settings = {"models": list(models), "strategy": "as_listed", "cache": "off", **task}
    scoped = {"scope": "tests", **budget} if budget else None
    return LLMConfig(models=dict(models), tasks={"t": settings, **(tasks or {})}, limits=limits or {}, budget=scoped)


prices = cache(PriceTable.load)  # read once for all tests


def manager(models: Mapping[str, Any], tasks: Mapping[str, Any] | None = None, **task: Any) -> LLMManager:
    made = LLMManager(config=config(models, tasks, **task))
    made._caller.services.prices = prices()
    return made


def looked_up(llm: LLMManager, task: str = "t", prompt: str = "hi", **given: Any) -> Call:
    return call_of(llm.config, task, prompt, given)  # type: ignore[arg-type]


def build_call(task: TaskConfig, prompt: Any, *, stream: bool = False, **options: Any) -> Call:
    """Returns a call of a task, with any models."""
    rows = {name: {"model": "openai/x"} for name in (*task.models, "m", "n") if "/" not in name}
    made = LLMConfig(models=rows, tasks={task.name: task.model_dump(exclude={"name"}, exclude_unset=True)})
    return call_of(made, task.name, prompt, options, stream=stream)  # type: ignore[arg-type]
