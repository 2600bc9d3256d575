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
from manager_kit import Make, manager, model, under_way

from testronaut_llm import Answer, InvalidRequestError, LLMError, UnknownTaskError
from testronaut_llm.support.paths import cache_dir
from testronaut_llm.testing.fake import FakeAnswer, FakeCall, FakeLLM

each_mode = pytest.mark.parametrize("mode", ["batch", "abatch"])


@pytest.fixture
def llm() -> FakeLLM:
    fake = FakeLLM(tasks=("t",))
    fake.reply(lambda call: f"re: {call.prompt}")
    return fake


async def _batch(llm: Any, mode: str, task: str, prompts: Any, **given: Any) -> list[Any]:
    """Results of either form; both must work where an event loop runs, as in a notebook."""
    results: list[Any] = (
        await llm.abatch(task, prompts, **given) if mode == "abatch" else llm.batch(task, prompts, **given)
    )
    return results


def _texts(results: list[Any]) -> list[str]:
    return [result.text if isinstance(result, Answer) else result.code for result in results]


@each_mode
async def test_results_come_in_order_and_a_failure_stops_no_other_call(llm: FakeLLM, mode: str) -> None:
    """Results are in the order of the prompts, whichever call ends first; that of a failed call is its error."""
    llm.reply(lambda call: FakeAnswer(text="slow", delay=0.05), prompt="^0$")
    llm.reply(InvalidRequestError("no"), prompt="^1$")
    results = await _batch(llm, mode, "t", ["0", "1", "", "3", "4"], concurrency=2)
    assert _texts(results) == ["slow", "invalid_request", "invalid_request", "re: 3", "re: 4"]
    assert results[1].attempts
    assert results[1].__traceback__ is None
    assert await _batch(llm, mode, "t", []) == []


@each_mode
@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_are_under_way_than_allowed(llm: FakeLLM, mode: str, concurrency: int) -> None:
    most = 0
    drawn: list[str] = []
    done: list[int] = []

    def prompts() -> Iterator[str]:
        nonlocal most
        for number in range(12):
            drawn.append(str(number))
            most = max(most, len(drawn) - len(done))
            yield drawn[-1]

    def report(number: int, _total: int | None, _result: Any) -> None:
        done.append(number)

    llm.reply(lambda call: FakeAnswer(text="ok", delay=0.01))
    results = await _batch(llm, mode, "t", prompts(), concurrency=concurrency, on_progress=report)
    assert (len(results), most, done) == (12, concurrency, list(range(1, 13)))


@each_mode
async def test_progress_tells_how_far_it_is(llm: FakeLLM, mode: str) -> None:
    seen: list[Any] = []

    def report(done: int, total: int | None, result: Any) -> None:
        seen.append((done, total, result.text, threading.current_thread()))

    await _batch(llm, mode, "t", ["a"], on_progress=report)
    await _batch(llm, mode, "t", iter(["b"]), on_progress=report)
    here = threading.current_thread()
    assert seen == [(1, 1, "re: a", here), (1, None, "re: b", here)]


WRONG: list[tuple[dict[str, Any], type[LLMError]]] = [
    ({"task": "unknown"}, UnknownTaskError),
    ({"prompts": "one text"}, InvalidRequestError),
    ({"prompts": 3}, InvalidRequestError),
    ({"prompts": {"role": "user"}}, InvalidRequestError),
    ({"concurrency": 0}, InvalidRequestError),
    ({"concurrency": True}, InvalidRequestError),
    ({"concurrency": 2.0}, InvalidRequestError),
    ({"temperature": -1}, InvalidRequestError),
]


@each_mode
@pytest.mark.parametrize(("given", "kind"), WRONG, ids=str)
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
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def answer(_call: FakeCall) -> FakeAnswer:
        loop.call_soon_threadsafe(begun.set)
        return FakeAnswer(text="never", delay=600)

    llm.reply(answer)
    task = asyncio.create_task(llm.abatch("t", ["a", "b"]))
    await begun.wait()
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
        assert _texts(llm.batch("t", ["hi"])) != []
    assert locks == [True]


@each_mode
async def test_context_variables_reach_the_calls(llm: FakeLLM, mode: str) -> None:
    bound = contextvars.ContextVar("bound", default="nothing")
    seen: list[str] = []

    def accept(_answer: Answer[Any]) -> bool:
        seen.append(bound.get())
        return True

    bound.set("run 7")
    await _batch(llm, mode, "t", ["a", "b"], accept=accept)
    assert seen == ["run 7", "run 7"]
