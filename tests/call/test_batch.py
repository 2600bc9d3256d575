"""Many prompts are calls in order and within a limit; many texts to embed are requests of one call."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import Api, Make, booked, eventually, manager, model, under_way

from testronaut_llm import Answer, InvalidRequestError, UnknownTaskError, errors
from testronaut_llm.support.paths import cache_dir
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM

pytestmark = pytest.mark.usefixtures("provider_keys")
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
async def test_what_is_wrong_for_all_is_said_once(llm: FakeLLM, mode: str, given: dict[str, Any], kind: Any) -> None:
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


MOST = {"openai": 2048, "azure": 2048, "azure v1": 2048, "ollama": 96}


def by_length(exchange: Exchange) -> None:
    vectors = tuple((float(len(text)), 1.0) for text in exchange.request.body["input"])
    faults.good(vectors=vectors, usage=(10 * len(vectors), 0))(exchange)


def texts(count: int) -> list[str]:
    return [f"{'x' * (number % 50)}{number:05}" for number in range(count)]


def counts(api: Api) -> list[int]:
    return [len(body["input"]) for body in api.bodies]


@pytest.mark.parametrize("cache", ["use", "off"])
@pytest.mark.parametrize("wire", MOST)
async def test_texts_are_sent_in_requests_that_the_server_takes(api: Make, wire: str, cache: str) -> None:
    a, most, given = api("a", by_length), MOST[wire], texts(MOST[wire] + 2)
    with manager({"m": model(wire, a)}, cache=cache) as llm:
        found = await llm.aembed("t", iter(given))
        assert (counts(a), found.vectors) == ([most, 2], tuple((float(len(one)), 1.0) for one in given))
        assert found.usage.prompt_tokens == 10 * len(given)
        assert found.cost == sum(one.cost or 0 for one in found.attempts)
        assert booked(llm) == (2, 0, found.cost)
        again = llm.embed("t", [*given, "one more"])
        assert (again.vectors, counts(a)[2:]) == ((*found.vectors, (8.0, 1.0)), [1] if cache == "use" else [most, 3])
        assert (again.saved is not None) == (cache == "use")
    assert (found.model, found.usage.estimated) == ("m", False)
    assert wire != "ollama" or (a.asked[0].path, a.bodies[0]["truncate"]) == ("/api/embed", False)


def test_a_request_has_only_so_many_bytes(api: Make) -> None:
    a = api("a", by_length)
    with manager({"m": model("openai", a, context_window=10**6)}) as llm:
        llm.embed("t", ["é" * 150_000, "x" * 300_000, "y", "z" * 700_000, "u"])
    assert counts(a) == [2, 1, 1, 1]


def test_a_failure_forgets_no_request_before_it(api: Make) -> None:
    """The error tells of all attempts of the call; what was paid is stored, and is not sent again."""
    a, given = api("a", by_length, faults.error("authentication"), by_length), texts(98)
    with manager({"m": model("ollama", a)}, cache="use") as llm:
        with pytest.raises(errors.AllModelsFailedError) as caught:
            llm.embed("t", given)
        assert [one.outcome for one in caught.value.attempts] == ["answer", "error"]
        assert booked(llm)[0] == 2
        assert len(llm.embed("t", given).vectors) == 98
    assert counts(a) == [96, 2, 2]


@pytest.mark.parametrize("limits", [{"per_call": 5}, {"per_day": 5}])
def test_a_budget_holds_for_all_requests(api: Make, limits: dict[str, int]) -> None:
    """Each costs $0.96, and $4.55 at most."""
    a = api("a", by_length)
    row = model("ollama", a, price={"input": 1000, "output": 0})
    with manager({"m": row}, budget=limits) as llm, pytest.raises(errors.BudgetExceededError) as caught:
        llm.embed("t", texts(192))
    assert [one.outcome for one in caught.value.attempts] == ["answer"]
    assert counts(a) == [96]


@pytest.mark.parametrize("vectors", [((1.0,),), ((1.0,), ()), ((1.0,), (2.0,), (3.0,))])
@pytest.mark.parametrize("wire", ["openai", "ollama"])
def test_a_missing_vector_is_no_answer(api: Make, wire: str, vectors: tuple[tuple[float, ...], ...]) -> None:
    a = api("a", faults.good(vectors=vectors))
    with manager({"m": model(wire, a)}) as llm, pytest.raises(errors.AllModelsFailedError) as caught:
        llm.embed("t", ["one", "two"])
    assert isinstance(caught.value.last, errors.BadResponseError)
    assert len(a.asked) == 1


def test_embeddings_keep_to_one_vector_space(api: Make) -> None:
    a, b, c = api("a", faults.error("authentication")), api("b", faults.good()), api("c", faults.good())
    models = {
        "a": model("openai", a, dimensions=3),
        "b": model("openai", b),
        "c": model("azure", c, base_model="gpt-4o-mini", dimensions=3),
    }
    with manager(models) as llm:
        assert llm.embed("t", "x").model == "c"
    assert not b.asked
