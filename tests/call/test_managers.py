"""Managers share no files, keys, connections, limits, cooldowns, money, log or prices, and their threads end."""

from __future__ import annotations

import gc
import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import faults
import pytest
from manager_kit import Make, model, program

from testronaut_llm import BudgetExceededError, LLMManager, errors
from testronaut_llm.limits.rules import FAILURES
from testronaut_llm.loop import Loop, LoopTask
from testronaut_llm.testing.fake import FakeLLM

pytestmark = pytest.mark.usefixtures("provider_keys")
Open = Callable[..., LLMManager]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens managers, each on an `llm.yaml` of its own with one task `t`."""
    with ExitStack() as managers:

        def opens(name: str, row: dict[str, Any], *, task: dict[str, Any] | None = None, **sections: Any) -> LLMManager:
            file = tmp_path / name / "llm.yaml"
            file.parent.mkdir(exist_ok=True)
            settings = {"models": "m", "cache": "off", "retries": 0, **(task or {})}
            file.write_text(json.dumps({"models": {"m": row}, "tasks": {"t": settings}, **sections}))
            return managers.enter_context(LLMManager(file))

        yield opens


def test_an_alias_is_a_model_of_its_own_file(api: Make, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """LiteLLM's worker moves between their event loops in silence."""
    first, second = (opened(name, model("openai", api(name, faults.good(f"from {name}")))) for name in ("a", "b"))
    for _ in range(5):
        assert (first.complete("t", "hi").text, second.complete("t", "hi").text) == ("from a", "from b")
    first.close()
    assert second.complete("t", "hi").text == "from b"
    second.close()
    gc.collect()
    assert [one.message for one in caplog.records if one.name == "asyncio"] == []


def test_each_reads_its_own_file_again(api: Make, opened: Open, tmp_path: Path) -> None:
    a, b = api("a", faults.good("from a")), api("b", faults.good("from b"))
    first, second = opened("first", model("openai", a)), opened("second", model("openai", a))
    file = tmp_path / "first" / "llm.yaml"
    for text in (file.read_text().replace(a.url, b.url), "tasks: [broken"):
        file.write_text(text)
        assert (first.complete("t", "hi").text, second.complete("t", "hi").text) == ("from b", "from a")
    with pytest.raises(errors.ConfigError, match="one of them"):
        LLMManager(file, config=first.config)


def test_each_has_its_own_key_price_and_log(api: Make, opened: Open, tmp_path: Path) -> None:
    a, managers = api("a", faults.good()), {}
    for number, name in enumerate(("first", "second"), 1):
        key = tmp_path / f"key of {name}"
        key.write_text("k" * 20 * number)
        key.chmod(0o600)
        row = model("openai", a, api_key_file=str(key), price={"input": number, "output": number})
        managers[name] = opened(name, row, log={"file": "calls.jsonl"})
    opened("silent", model("openai", a)).complete("t", "hi")
    costs = [llm.complete("t", "hi", metadata={"who": name}).cost for name, llm in [*managers.items()] * 2]
    assert costs == [Decimal("0.000018"), Decimal("0.000036")] * 2
    sent = [f"<{len('Bearer ') + length} characters>" for length in (20, 40)]
    assert [one.headers["authorization"] for one in a.asked[1:]] == sent * 2
    for name in managers:
        lines = (tmp_path / name / "calls.jsonl").read_text().splitlines()
        assert {json.loads(line)["metadata.who"] for line in lines} == {name}
    assert not (tmp_path / "silent" / "calls.jsonl").exists()


def test_slots_are_not_shared(api: Make, opened: Open) -> None:
    a = api("a", faults.good())
    row = model("openai", a, limits={"concurrency": 1})
    first, second = opened("first", row), opened("second", row)
    with first.stream("t", "hi") as stream:
        next(iter(stream))
        assert second.complete("t", "hi", deadline=5).text
        assert not first.route("t", "hi").candidates[0].reason.endswith("at once")


def test_cooldowns_are_not_shared(api: Make, opened: Open) -> None:
    a = api("a", faults.error("server_error"))
    first, second = opened("first", model("openai", a)), opened("second", model("openai", a))
    for _ in range(FAILURES):
        with pytest.raises(errors.AllModelsFailedError):
            first.complete("t", "hi")
    a.plan(faults.good())
    with pytest.raises(errors.LLMError):
        first.complete("t", "hi", deadline=0.5)
    assert not a.asked
    assert second.complete("t", "hi", deadline=3).text


def test_budgets_are_not_shared(api: Make, opened: Open) -> None:
    row = model("openai", api("a", faults.good()))
    first, second = (opened(name, row, task={"max_tokens": 10}, budget={"per_day": 0.0005}) for name in ("a1", "b1"))
    while first.route("t", "hi").kept:
        first.complete("t", "hi")
    with pytest.raises(BudgetExceededError):
        first.complete("t", "hi")
    assert second.complete("t", "hi").text
    assert 0 < (second.spend().total.cost or 0) < (first.spend().total.cost or 0)


UNCLOSED = """
import os, sys, threading
from testronaut_llm import LLMManager
from testronaut_llm.testing.fake import FakeGateway
gateway = FakeGateway()
gateway.reply("hi")
kept = LLMManager(gateway=gateway)
def ask():
    assert [kept.complete("t", "p").cached for _ in range(2)][1]
    assert kept.spend().rows is not None
ask()
other = threading.Thread(target=ask)
other.start()
other.join()
LLMManager(gateway=gateway).complete("t", "dropped")
if sys.argv[1] == "fork":
    child = os.fork()
    if child == 0:
        kept.complete("t", "in the child")
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    kept.complete("t", "in the parent")
"""


@pytest.mark.parametrize("way", ["exit", "fork"])
def test_a_manager_that_is_not_closed_warns_of_nothing(tmp_path: Path, way: str) -> None:
    """No SQLite connection is left open by a program, its threads or its forked child."""
    row = {"model": "openai/fake", "price": {"input": 1, "output": 1}}
    (tmp_path / "llm.yaml").write_text(json.dumps({"models": {"m": row}, "tasks": {"t": {"models": ["m"]}}}))
    done = program("-W", "ignore", "-W", "error::ResourceWarning", "-c", UNCLOSED, way, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_thread_starts_with_the_first_call_and_ends_with_its_manager() -> None:
    before, llm = set(threading.enumerate()), FakeLLM()  # managers of other tests may not have been collected yet

    def loops() -> int:
        return sum(one.name == "testronaut-llm-loop" for one in set(threading.enumerate()) - before)

    llm.reply("x")
    assert loops() == 0
    for _ in range(2):
        llm.complete(None, "hi")
        assert loops() == 1
    llm.close()
    assert loops() == 0
    llm.complete(None, "hi")
    assert loops() == 1
    del llm
    gc.collect()
    assert loops() == 0


def test_an_interrupt_while_the_thread_begins_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, loops = threading.Thread.start, list[threading.Thread]()

    def interrupted(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name == "testronaut-llm-loop":
            loops.append(thread)
            signal.raise_signal(signal.SIGINT)

    with FakeLLM() as llm:
        llm.reply("x")
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.complete(None, "hi")
        monkeypatch.undo()
        assert llm.complete(None, "hi").text == "x"
        loops[0].join(20)
        assert [thread.is_alive() for thread in loops] == [False]


def test_system_exit_reaches_the_caller() -> None:
    def leave(_: object) -> bool:
        raise SystemExit(3)

    with FakeLLM() as llm:
        llm.reply("x")
        with pytest.raises(SystemExit):
            llm.complete(None, "hi", accept=leave)
        assert llm.complete(None, "hi").text == "x"


def test_work_cancelled_before_it_starts_ends_with_an_error() -> None:
    loop, begun, blocked = Loop(), threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        blocked.wait(10)

    LoopTask(loop, block).start()
    assert begun.wait(10)
    running = LoopTask(loop, block)
    running.start()
    running.cancel()
    blocked.set()
    with pytest.raises(errors.LLMError, match="closed before the call ended"):
        running.result()
    loop.close()


AT_EXIT = """
import atexit
from testronaut_llm import LLMError
from testronaut_llm.testing.fake import FakeLLM
llm = FakeLLM()
llm.reply("x")
def ask():
    for call in (lambda: llm.complete(None, "hi"), lambda: list(llm.stream(None, "hi"))):
        try:
            call()
        except LLMError as error:
            print(error)
atexit.register(ask)
"""


@pytest.mark.parametrize("before", ["", "llm.complete(None, 'hi')"])
def test_a_call_while_the_program_ends_is_an_error(before: str) -> None:
    """A call from an atexit handler raises an LLMError, since Python starts no thread then."""
    done = program("-c", AT_EXIT + before)
    assert done.stdout.count("the program is ending, so no model can be asked") == 2, done.stderr
    assert "Traceback" not in done.stderr
