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

MODES = ("batch", "abatch")
each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def llm() -> FakeLLM:
    fake = FakeLLM(tasks=("t",))
    fake.reply(lambda call: f"re: {call.prompt}")
    return fake


def _batch(llm: Any, mode: str, *args: Any, **given: Any) -> list[Any]:
    if mode == "batch":
        return llm.batch(*args, **given)  # type: ignore[no-any-return]
    return asyncio.run(llm.abatch(*args, **given))


def _texts(results: list[Any]) -> list[str]:
    return [result.text if isinstance(result, Answer) else result.code for result in results]


@each_mode
def test_results_come_in_order(llm: FakeLLM, mode: str) -> None:
    """Results are in the order of the prompts, whichever call ends first."""
    llm.reply(lambda call: FakeAnswer(text="slow", delay=0.05), prompt="^0$")
    results = _batch(llm, mode, "t", [str(n) for n in range(20)], concurrency=4)
    assert _texts(results) == ["slow", *(f"re: {n}" for n in range(1, 20))]


@each_mode
def test_a_failure_stops_no_other_call(llm: FakeLLM, mode: str) -> None:
    """The result of a failed call is its error, and the other calls continue."""
    llm.reply(InvalidRequestError("no"), prompt="^1$")
    assert _batch(llm, mode, "t", []) == []
    results = _batch(llm, mode, "t", ["0", "1", "", "3"], concurrency=2)
    assert _texts(results) == ["re: 0", "invalid_request", "invalid_request", "re: 3"]
    assert results[1].attempts
    assert results[1].__traceback__ is None


@each_mode
@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_are_under_way_than_allowed(llm: FakeLLM, mode: str, concurrency: int) -> None:
    """At most `concurrency` calls run at once, and prompts are read only as calls end."""
    drawn, most = 0, 0
    done: list[int] = []

    def prompts() -> Iterator[str]:
        nonlocal drawn, most
        for number in range(12):
            drawn += 1
            most = max(most, drawn - len(done))
            yield str(number)

    llm.reply(lambda call: FakeAnswer(text="ok", delay=0.01))
    results = _batch(
        llm, mode, "t", prompts(), concurrency=concurrency, on_progress=lambda n, total, result: done.append(n)
    )
    assert len(results) == 12
    assert most == concurrency
    assert done == list(range(1, 13))


@each_mode
def test_progress_tells_how_far_it_is(llm: FakeLLM, mode: str) -> None:
    """Each result is reported in the caller's thread, with the total if it is known."""
    seen: list[Any] = []

    def report(done: int, total: int | None, result: Any) -> None:
        seen.append((done, total, result.text, threading.current_thread()))

    _batch(llm, mode, "t", ["a"], on_progress=report)
    _batch(llm, mode, "t", iter(["b"]), on_progress=report)
    here = threading.current_thread()
    assert seen == [(1, 1, "re: a", here), (1, None, "re: b", here)]


WRONG = [
    ({"task": "unknown"}, UnknownTaskError),
    ({"prompts": "one text"}, InvalidRequestError),
    ({"prompts": 3}, InvalidRequestError),
    ({"prompts": {"role": "user"}}, InvalidRequestError),
    ({"concurrency": 0}, InvalidRequestError),
    ({"concurrency": True}, InvalidRequestError),
    ({"concurrency": 2.0}, InvalidRequestError),
    ({"temperature": -1}, InvalidRequestError),
    ({"schema": {"type": "nonsense"}}, InvalidRequestError),
]


@each_mode
@pytest.mark.parametrize(("given", "kind"), WRONG, ids=str)
def test_what_is_wrong_for_all_is_said_once(
    llm: FakeLLM, mode: str, given: dict[str, Any], kind: type[LLMError]
) -> None:
    """An argument that is wrong for every call is one error, before anything is sent."""
    with pytest.raises(kind, match=str(next(iter(given)))):
        _batch(llm, mode, **{"task": "t", "prompts": ["a"], **given})
    assert llm.calls == []


@each_mode
def test_a_fault_of_the_callers_code_ends_the_batch(llm: FakeLLM, mode: str) -> None:
    """Errors of the caller's functions are raised unchanged, and all calls end."""
    llm.reply(lambda call: FakeAnswer(text="never", delay=60), prompt="slow")
    with pytest.raises(ZeroDivisionError):
        _batch(llm, mode, "t", ["slow", "a", "b"], concurrency=2, on_progress=lambda *_: 1 / 0)
    assert under_way(llm) == 0


async def test_a_cancelled_batch_cancels_its_calls(llm: FakeLLM) -> None:
    """Cancelling the task of a batch cancels all its tasks."""
    under_way, loop = asyncio.Event(), asyncio.get_running_loop()

    def answer(_call: FakeCall) -> FakeAnswer:
        loop.call_soon_threadsafe(under_way.set)
        return FakeAnswer(text="never", delay=600)

    llm.reply(answer)
    task = asyncio.create_task(llm.abatch("t", ["a", "b"]))
    await under_way.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_sync_form_works_where_a_loop_runs(llm: FakeLLM) -> None:
    """`batch` works in a notebook, whose thread already has an event loop."""
    assert _texts(llm.batch("t", ["a"])) == ["re: a"]


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
def test_context_variables_reach_the_calls(llm: FakeLLM, mode: str) -> None:
    """Context variables of the caller are set in each call."""
    bound = contextvars.ContextVar("bound", default="nothing")
    seen: list[str] = []

    def accept(_answer: Answer[Any]) -> bool:
        seen.append(bound.get())
        return True

    bound.set("run 7")
    _batch(llm, mode, "t", ["a", "b"], accept=accept)
    assert seen == ["run 7", "run 7"]
