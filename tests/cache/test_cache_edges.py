"""The store at its edges: rows that go, schemas that differ in little, validators that raise, forks, many texts."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import faults
import pytest
from manager_kit import Api, ask, manager, model, question_of
from pydantic import BaseModel, field_validator

from testronaut_llm.cache.files import CacheFiles
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.money.ledger import Ledger
from testronaut_llm.support.lazy import lazy

Make = Callable[..., Api]

pytestmark = pytest.mark.usefixtures("provider_keys")


def cached(row: dict[str, Any], **task: Any) -> Any:
    return manager({"m": row}, cache="use", **task)


def test_a_local_model_hits_again_after_all_was_forgotten(api: Make) -> None:
    """The digest that it was seen with is kept beside the answers, and may go before them."""
    with cached(model("ollama", api("a", faults.good()))) as llm:
        assert [llm.complete("t", "hi").cached for _ in range(3)] == [False, True, True]
        CacheFiles(llm.config.cache).clear()
        assert [llm.complete("t", "hi").cached for _ in range(3)] == [False, True, True]


def test_the_order_of_properties_is_another_question(api: Make) -> None:
    """A model that reasons before it judges is not one that judges first; the order of other words is nothing."""
    text = {"type": "string"}
    first = {"type": "object", "properties": {"why": text, "passed": text}, "required": ["passed", "why"]}
    second = {"required": ["passed", "why"], "properties": {"passed": text, "why": text}, "type": "object"}
    third = {**second, "properties": dict(reversed(second["properties"].items()))}  # type: ignore[union-attr]
    with cached(model("openai", api("a", faults.good()))) as llm:
        parts = [question_of(llm, schema={"type": "array", "items": one}).parts for one in (first, second, third)]
    assert parts[0] == parts[2] != parts[1]


class Moody(BaseModel):
    """A caller's own class, whose validator raises what is no refusal."""

    n: int

    @field_validator("n")
    @classmethod
    def _mood(cls, n: int) -> int:
        if MOOD:
            raise KeyError("the caller's own")
        return n


MOOD: list[bool] = []


@pytest.mark.parametrize("mode", ["use", "only"])
def test_a_validator_that_raises_is_no_trouble_of_the_store(api: Make, mode: str) -> None:
    """It raises where a stored answer is read as where a model answers; nobody is asked anew, the store stays open."""
    a = api("a", faults.good('{"n": 1}'))
    with cached(model("openai", a)) as llm:
        llm.complete("t", "hi", schema=Moody)
        MOOD.append(True)
        try:
            with pytest.raises(KeyError, match="the caller's own"):
                llm.complete("t", "hi", schema=Moody, cache=mode)
        finally:
            MOOD.clear()
        assert len(a.asked) == 1
        assert llm.complete("t", "hi", schema=Moody).cached


@pytest.mark.parametrize("mode", ["complete", "acomplete", "stream", "astream"])
async def test_what_was_paid_is_settled_though_a_validator_raises(api: Make, mode: str) -> None:
    """The usage is known, and nothing stays set aside."""
    a = api("a", faults.good('{"n": 1}'))
    with manager({"m": model("openai", a)}) as llm:
        MOOD.append(True)
        try:
            with pytest.raises(KeyError):
                await ask(llm, mode, schema=Moody)
        finally:
            MOOD.clear()
        assert llm._engine.ledger.standing("")[1] == 0
        assert 0 < llm.session.cost < Decimal("0.001")
        assert llm.spend().total.calls == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_books_nothing_of_its_parents(tmp_path: Any) -> None:
    """Hits that the parent has noted and not yet written are the parent's, and written once."""
    ledger = Ledger(tmp_path / "ledger.sqlite3", scope=lambda: "s")
    for _ in range(11):
        ledger.hit("t", "m", Decimal("0.5"))
    for _ in range(2):
        child = os.fork()
        if child == 0:
            ledger.hit("t", "m", Decimal("0.5"))
            ledger.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ledger.close()
    booked = ledger.file.run(lambda db: db.execute("SELECT sum(hits), sum(saved_by_cache) FROM daily").fetchone())
    assert booked == (13, 13 * 5 * 10**11)
    ledger.close()


async def test_many_texts_are_looked_up_away_from_the_event_loop(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few cost microseconds; thousands would hold everybody else up."""
    texts = [f"text {number}" for number in range(300)]
    a = api("a", faults.good())
    with manager({"m": {**model("openai", a), "model": "openai/text-embedding-3-small"}}, cache="use") as llm:
        await llm.aembed("t", texts)
        real, hops = asyncio.to_thread, []

        async def hop(*given: Any) -> Any:
            hops.append(given)
            return await real(*given)

        monkeypatch.setattr(asyncio, "to_thread", hop)
        assert (await llm.aembed("t", texts)).cached
        assert len(hops) == 1
        assert (await llm.aembed("t", texts[:5])).cached
        assert len(hops) == 1


def test_what_may_change_is_not_kept(api: Make) -> None:
    """A view of a mapping has a hash, and shows tomorrow what the mapping holds then."""
    stops = {"first": "END"}
    with manager({"m": model("openai", api("a", faults.good()))}) as llm:
        assert question_of(llm, stop=stops.values()).call.stop == ("END",)
        stops["first"] = "STOP"
        assert question_of(llm, stop=stops.values()).call.stop == ("STOP",)


def test_a_call_without_cache_has_no_key(api: Make) -> None:
    """Not even a part of one is made."""
    with manager({"m": model("openai", api("a", faults.good()))}) as llm:
        assert question_of(llm, cache="off").parts == ()
        assert question_of(llm, cache="use").parts


def test_a_task_that_is_no_name_is_said_so(api: Make) -> None:
    """Nothing of Python's own is raised."""
    with (
        manager({"m": model("openai", api("a", faults.good()))}) as llm,
        pytest.raises(InvalidRequestError, match=r"task is \[1\]; expected a name"),
    ):
        llm.complete([1], "hi")  # type: ignore[arg-type]


def test_what_is_lazy_is_made_once() -> None:
    """Whichever threads ask for it first."""

    class Holder:
        made = 0

        @lazy
        def slow(self) -> object:
            """Takes its time."""
            Holder.made += 1
            time.sleep(0.02)
            return object()

    holder, got = Holder(), []
    threads = [threading.Thread(target=lambda: got.append(holder.slow)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Holder.made, len(set(got))) == (1, 1)
    assert isinstance(Holder.slow, lazy)
