"""The store at its edges: rows that go, schemas that differ in little, validators that raise, forks."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import faults
import pytest
from manager_kit import Api, ask, looked_up, manager, model
from pydantic import BaseModel, field_validator

from testronaut_llm.cache.files import CacheFiles
from testronaut_llm.cache.key import parts_of
from testronaut_llm.money.ledger import Ledger

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
        parts = [parts_of(looked_up(llm, schema={"type": "array", "items": one})) for one in (first, second, third)]
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
        assert llm._ledger.standing("")[1] == 0
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
