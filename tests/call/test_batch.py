"""Many calls at once: in order, within a limit, and one failure does not stop the others."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import Make, eventually, manager, model, under_way

from testronaut_llm import Answer, InvalidRequestError, LLMError, UnknownTaskError
from testronaut_llm.support.paths import cache_dir
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

each_mode = pytest.mark.parametrize("mode", ["batch", "abatch"])


@pytest.fixture
def llm() -> FakeLLM:
    fake = FakeLLM(tasks=("t",))
    fake.reply(lambda call: f"re: {call.prompt}")
    return fake


async def _batch(llm: Any, mode: str, task: str, prompts: Any, **given: Any) -> list[Any]:
    """Results of either form; both must work where an event loop runs, as in a notebook."""
    found = getattr(llm, mode)(task, prompts, **given)
    return list(await found if mode == "abatch" else found)


@each_mode
async def test_results_come_in_order_and_a_failure_stops_no_other_call(llm: FakeLLM, mode: str) -> None:
    llm.reply(lambda call: FakeAnswer(text="slow", delay=0.05), prompt="^0$")
    llm.reply(InvalidRequestError("no"), prompt="^1$")
    results = await _batch(llm, mode, "t", ["0", "1", "", "3", "4"], concurrency=2)
    assert [one.text if isinstance(one, Answer) else one.code for one in results] == [
        "slow",
        "invalid_request",
        "invalid_request",
        "re: 3",
        "re: 4",
    ]
    assert (len(results[1].attempts), results[1].__traceback__) == (1, None)
    assert await _batch(llm, mode, "t", []) == []


@each_mode
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_are_under_way_than_allowed(llm: FakeLLM, mode: str, concurrency: int) -> None:
    """Prompts are read only as calls end; each result is reported in the caller's thread."""
    open_calls: list[int] = []
    done: list[Any] = []

    def prompts() -> Iterator[str]:
        for number in range(1, 13):
            open_calls.append(number - len(done))
            yield str(number)

    def report(*facts: Any) -> None:
        done.append((*facts[:2], facts[2].text, threading.current_thread()))

    llm.reply(lambda call: FakeAnswer(text="ok", delay=0.01))
    here = threading.current_thread()
    assert len(await _batch(llm, mode, "t", prompts(), concurrency=concurrency, on_progress=report)) == 12
    assert (max(open_calls), done) == (concurrency, [(number, None, "ok", here) for number in range(1, 13)])
    done.clear()
    await _batch(llm, mode, "t", ["a"], on_progress=report)
    assert done == [(1, 1, "ok", here)]


@each_mode
@pytest.mark.parametrize(("given", "kind"), [
    ({"task": "unknown"}, UnknownTaskError),
    ({"prompts": "one text"}, InvalidRequestError),
    ({"concurrency": 0}, InvalidRequestError),
    ({"concurrency": True}, InvalidRequestError),
    ({"temperature": -1}, InvalidRequestError),
], ids=str)  # fmt: skip
async def test_what_is_wrong_for_all_is_said_once(
    llm: FakeLLM, mode: str, given: dict[str, Any], kind: type[LLMError]
) -> None:
    with pytest.raises(kind, match=str(next(iter(given)))):
        await _batch(llm, mode, **{"task": "t", "prompts": ["a"], **given})
    assert llm.calls == []


@each_mode
async def test_an_error_of_the_callers_code_ends_the_batch(llm: FakeLLM, mode: str) -> None:
    llm.reply(lambda call: FakeAnswer(text="never", delay=60), prompt="slow")
    with pytest.raises(ZeroDivisionError):
        await _batch(llm, mode, "t", ["slow", "a", "b"], concurrency=2, on_progress=lambda *_: 1 / 0)
    assert under_way(llm) == 0


async def test_a_cancelled_batch_cancels_its_calls(llm: FakeLLM) -> None:
    llm.reply(FakeAnswer(text="never", delay=600))
    task = asyncio.create_task(llm.abatch("t", ["a", "b"]))
    assert await asyncio.to_thread(eventually, lambda: len(llm.calls) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert under_way(llm) == 0


@pytest.mark.usefixtures("provider_keys")
def test_the_first_batch_of_a_machine_shares_its_requests(api: Make) -> None:
    """The lock of identical calls exists before the first answer is stored, for other processes."""
    folder = cache_dir() / "answers"
    locks: list[bool] = []

    def reply(exchange: Exchange) -> None:
        locks.append((folder / "flights.lock").exists())
        faults.good()(exchange)

    assert not folder.exists()
    with manager({"m": model("openai", api("a", reply))}, cache="use") as llm:
        llm.batch("t", ["hi"])
    assert locks == [True]


@each_mode
async def test_context_variables_reach_the_calls(llm: FakeLLM, mode: str) -> None:
    bound = contextvars.ContextVar("bound", default="nothing")
    seen: list[str] = []
    bound.set("run 7")
    await _batch(llm, mode, "t", ["a", "b"], accept=lambda _: seen.append(bound.get()) is None)
    assert seen == ["run 7", "run 7"]
