"""`compare` asks several models the same: their answers, their agreement, and the cost."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY, stored
from manager_kit import config

from testronaut_llm import Answer, ConfigError, InvalidRequestError, LLMError, LLMManager, OutputInvalidError
from testronaut_llm.local.local_provider import Endpoint
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.methods.compare import agreement_of, normalised
from testronaut_llm.records import Usage
from testronaut_llm.testing.fake import FakeLLM

ROW = {"model": "openai/fake", "price": {"input": 1, "output": 2}}


@pytest.fixture
def llm() -> FakeLLM:
    return FakeLLM(config=config(dict.fromkeys("abc", ROW)))


async def test_each_model_answers_under_its_name(llm: FakeLLM) -> None:
    for name in "abc":
        llm.reply(f"I am {name}.", model=name)
    found = llm.compare("t", "Who?", models=["c", "a"])
    assert {name: result.text for name, result in found.results.items()} == {"c": "I am c.", "a": "I am a."}  # type: ignore[union-attr]
    assert list(found.results) == ["c", "a"]
    assert (found.task, found.models, found.prompts[0].prompt) == ("t", ("c", "a"), "Who?")
    assert (found.exact, found.normalised, found.json) == (False, False, False)
    again = await llm.acompare("t", "Who?", models=["c", "a"])
    assert [result.text for result in again.results.values()] == ["I am c.", "I am a."]  # type: ignore[union-attr]


def test_a_failed_model_stops_no_other(llm: FakeLLM) -> None:
    llm.reply("yes")
    llm.reply(InvalidRequestError("no"), model="b")
    found = llm.compare("t", "?", models=["a", "b", "c"])
    (row,) = found.prompts
    assert isinstance(row.results["b"], InvalidRequestError)
    assert row.agreement.exact
    assert (found.exact, found.json) == (False, False)
    assert llm.compare("t", "?", models=["a", "b"]).prompts[0].agreement is None
    assert [(one.answered, one.failed) for one in found.totals] == [(1, 0), (0, 1), (1, 0)]


def test_several_prompts_have_a_row_each(llm: FakeLLM) -> None:
    llm.reply(lambda call: f"re: {call.prompt}")
    llm.reply("another", model="b", prompt="two")
    turns = [{"role": "user", "content": "one"}]
    found = llm.compare("t", [turns, "two"], models=["a", "b"])
    assert [row.prompt for row in found.prompts] == [turns, "two"]
    assert [row.agreement.exact for row in found.prompts if row.agreement] == [True, False]
    assert not found.exact
    assert [one.answered for one in found.totals] == [2, 2]
    with pytest.raises(LLMError, match=r"\.prompts"):
        _ = found.results
    conversation = [*turns, {"role": "assistant", "content": "two"}]
    assert [row.prompt for row in llm.compare("t", conversation, models=["a"]).prompts] == [conversation]


def test_cost_and_time_are_summed(llm: FakeLLM) -> None:
    """Totals include failed attempts, and an unknown price makes a total unknown."""
    llm.reply("four words are here")
    found = llm.compare("t", ["p", "q"], models=["a", "b"])
    answers: list[Any] = [row.results["a"] for row in found.prompts]
    assert found.totals[0].cost == sum(one.cost for one in answers) > 0
    assert found.totals[0].latency == sum(one.latency for one in answers)
    unpriced = FakeLLM(config=config({"a": {"model": "openai/nobody-knows-it"}, "b": ROW}))
    unpriced.reply("x")
    assert [one.cost is None for one in unpriced.compare("t", "p", models=["a", "b"]).totals] == [True, False]


def test_validity_is_a_share_of_the_answers_with_a_schema(llm: FakeLLM) -> None:
    """An answer that breaks the schema counts against its model, a server's failure does not."""
    good = {"passed": True}
    schema = {"type": "object", "properties": {"passed": {"type": "boolean"}}, "required": ["passed"]}
    llm.reply(good)
    llm.reply(lambda call: "no JSON" if call.messages[0].content == "two" else good, model="b")
    llm.reply(InvalidRequestError("no"), model="c")
    found = llm.compare("t", ["one", "two"], models=["a", "b", "c"], schema=schema)
    assert [one.valid for one in found.totals] == [1.0, 0.5, None]
    failed = found.prompts[1].results["b"]
    assert isinstance(getattr(failed, "last", failed), OutputInvalidError)
    spent: list[Any] = [attempt.cost for row in found.prompts for attempt in row.results["b"].attempts]
    assert found.totals[1].cost == sum(spent, Decimal(0)) > 0
    assert found.prompts[0].results["a"].parsed == good  # type: ignore[union-attr]
    llm.reply("x")
    assert llm.compare("t", "?", models=["a"]).totals[0].valid is None


@pytest.mark.parametrize(("name", "given", "named"), [
    ("models", ["a", "bb"], "bb"),
    ("models", [], "models"),
    ("models", "a", "models"),
    ("models", ["a", "a"], "models"),
    ("models", ["a", 3], "models"),
    ("prompt", [], "prompt"),
    ("prompt", 3, "prompt"),
    ("concurrency", 0, "concurrency"),
    ("model", "a", "`compare` asks each of `models`"),
])  # fmt: skip
def test_a_wrong_argument_is_refused_before_anything_is_sent(llm: FakeLLM, name: str, given: Any, named: str) -> None:
    with pytest.raises((ConfigError, InvalidRequestError), match=named):
        llm.compare(**{"task": "t", "prompt": "?", "models": ["a", "b"], name: given})
    assert llm.calls == []


@pytest.mark.parametrize(("one", "other", "same"), [
    ("Yes,  it DOES.\n", "yes it does", True),
    ("\uff59\uff45\uff53", "yes", True),
    ("- one\n- two", "* one\n* two", True),
    ("it is 3.14", "it is 314", False),
    ("it is -5", "it is 5", False),
    ("C++", "C", False),
    ("?", "!", False),
])  # fmt: skip
def test_texts_are_compared_without_their_form(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same


@pytest.mark.parametrize(("texts", "expected"), [
    (['{"a": 1, "b": [2, 3]}', '{"b":[2,3],"a":1.0}'], (True, ("$.a", "$.b[0]", "$.b[1]"), ())),
    (['{"a": 1, "b": 2}', '{"a": 1, "b": 3}'], (False, ("$.a",), ("$.b",))),
    (['{"a": 1}', '{"a": 1, "b": null}'], (False, ("$.a",), ("$.b",))),
    (['{"a": 1}', '{"a": true}'], (False, (), ("$.a",))),
    (['{"a": []}', '{"a": {}}'], (False, (), ("$.a",))),
    (["[1]", "[1, 2]"], (False, ("$[0]",), ("$[1]",))),
    (['```json\n{"a": 1}\n```', '{"a": 1}'], (True, ("$.a",), ())),
    (['{"a": 1}', "prose"], (None, (), ())),
])  # fmt: skip
def test_json_agrees_field_by_field(texts: list[str], expected: tuple[Any, ...]) -> None:
    """Expects whether all is equal, the equal fields and the different ones."""
    facts: Any = {"model": "m", "provider_model": "p", "response_model": "r", "task": "t", "usage": Usage()}
    found = agreement_of([Answer(text=text, **facts) for text in texts])
    assert (found.json, found.same, found.different) == expected


@pytest.mark.parametrize(("parsed", "other", "agree"), [
    ("passed", "passed", True), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), (Decimal("1.0"), Decimal("2"), False),
])  # fmt: skip
def test_answers_to_a_schema_agree_by_their_values(parsed: Any, other: Any, agree: bool) -> None:
    """Wires have different forms for the same value."""
    facts: Any = {"model": "m", "provider_model": "p", "response_model": "r", "task": "t", "usage": Usage()}
    answers = [Answer(text='{"result": 0}', parsed=parsed, **facts), Answer(text='"0"', parsed=other, **facts)]
    assert agreement_of(answers).json is agree


def test_the_same_weights_agree_behind_every_wire(
    embedded_server: Endpoint, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one real server, and of `embedded/`, which starts another; `test_wires.py` has recordings of Azure's wires."""
    store, base = ModelStore(), embedded_server.api_base
    store.folder.parent.mkdir(parents=True)
    stored(store, tiny_gguf)
    monkeypatch.setenv("SERVER_TOKEN", embedded_server.token)
    served = {"api_key_env": "SERVER_TOKEN", "context_window": 4096, "max_output": 1024}
    models: dict[str, dict[str, Any]] = {
        "openai": {"model": f"openai/{TINY}", "api_base": base, **served},
        "anthropic": {"model": f"anthropic/{TINY}", "api_base": base.removesuffix("/v1"), **served},
        "embedded": {"model": f"embedded/{TINY}"},
    }
    with LLMManager(config=config(models, max_tokens=400, temperature=0)) as llm:
        found = llm.compare("t", ["list files", "What is a test plan?"], models=list(models), concurrency=2)
    assert [error for row in found.prompts for error in row.results.values() if isinstance(error, LLMError)] == []
    assert (found.exact, found.normalised) == (True, True)
    assert len({row.results["openai"].text for row in found.prompts}) > 1  # type: ignore[union-attr]
