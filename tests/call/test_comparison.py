"""`compare` asks several models the same: their answers, their agreement, and the cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY, stored
from manager_kit import config
from pydantic import BaseModel
from wire_proxy import WireProxy

from testronaut_llm import (
    Answer,
    Comparison,
    ConfigError,
    InvalidRequestError,
    LLMError,
    LLMManager,
    OutputInvalidError,
)
from testronaut_llm.cli.screen import plain
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.local.local_provider import Endpoint
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.methods.agreement import agreement_of, normalised
from testronaut_llm.records import Usage
from testronaut_llm.testing.fake import FakeLLM

each_mode = pytest.mark.parametrize("mode", ["compare", "acompare"])


class Verdict(BaseModel):
    passed: bool
    reason: str


def _row(**fields: Any) -> dict[str, Any]:
    return {"model": "openai/fake", "price": {"input": 1, "output": 2}, **fields}


@pytest.fixture
def llm() -> FakeLLM:
    return FakeLLM(config=config({"a": _row(), "b": _row(), "c": _row()}))


def _compare(llm: Any, mode: str, *args: Any, **given: Any) -> Comparison:
    found: Comparison = llm.compare(*args, **given) if mode == "compare" else asyncio.run(llm.acompare(*args, **given))
    return found


def _answer(text: str) -> Answer[Any]:
    return Answer(text=text, model="m", provider_model="p", response_model="r", task="t", usage=Usage())


@each_mode
def test_each_model_answers_under_its_name(llm: FakeLLM, mode: str) -> None:
    """Results are listed by alias in the listed order, each from its own model."""
    for name in "abc":
        llm.reply(f"I am {name}.", model=name)
    found = _compare(llm, mode, "t", "Who?", models=["c", "a"])
    assert {name: result.text for name, result in found.results.items()} == {"c": "I am c.", "a": "I am a."}  # type: ignore[union-attr]
    assert list(found.results) == ["c", "a"]
    assert (found.task, found.models, found.prompts[0].prompt) == ("t", ("c", "a"), "Who?")
    assert (found.exact, found.normalised, found.json) == (False, False, False)


@each_mode
def test_a_failed_model_stops_no_other(llm: FakeLLM, mode: str) -> None:
    """Its result is its error, and the others are compared."""
    llm.reply("yes")
    llm.reply(InvalidRequestError("no"), model="b")
    found = _compare(llm, mode, "t", "?", models=["a", "b", "c"])
    (row,) = found.prompts
    assert isinstance(row.results["b"], InvalidRequestError)
    assert row.agreement.exact
    assert not found.exact
    assert not found.json
    assert llm.compare("t", "?", models=["a", "b"]).prompts[0].agreement is None
    assert [(one.answered, one.failed) for one in found.totals] == [(1, 0), (0, 1), (1, 0)]


@each_mode
def test_several_prompts_have_a_row_each(llm: FakeLLM, mode: str) -> None:
    """Each prompt of a list is asked, and totals cover all of them."""
    llm.reply(lambda call: f"re: {call.prompt}")
    llm.reply("another", model="b", prompt="two")
    turns = [{"role": "user", "content": "one"}]
    found = _compare(llm, mode, "t", [turns, "two"], models=["a", "b"])
    assert [row.prompt for row in found.prompts] == [turns, "two"]
    assert [row.agreement.exact for row in found.prompts if row.agreement] == [True, False]
    assert not found.exact
    assert [one.answered for one in found.totals] == [2, 2]
    with pytest.raises(LLMError, match=r"\.prompts"):
        _ = found.results


def test_messages_are_one_prompt(llm: FakeLLM) -> None:
    """A list of turns is a conversation, not a list of prompts."""
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    llm.reply("x")
    assert llm.compare("t", turns, models=["a"]).prompts[0].prompt == turns
    assert [message.content for message in llm.calls[0].messages] == ["one", "two"]


def test_cost_and_time_are_summed(llm: FakeLLM) -> None:
    """Totals include failed attempts, and an unknown price makes a total unknown."""
    llm.reply("four words are here")
    found = llm.compare("t", ["p", "q"], models=["a", "b"])
    answers: list[Any] = [row.results["a"] for row in found.prompts]
    assert found.totals[0].cost == sum(one.cost for one in answers) > 0
    assert found.totals[0].latency == sum(one.latency for one in answers)
    unpriced = FakeLLM(config=config({"a": {"model": "openai/nobody-knows-it"}, "b": _row()}))
    unpriced.reply("x")
    assert [one.cost is None for one in unpriced.compare("t", "p", models=["a", "b"]).totals] == [True, False]


def test_validity_is_a_share_of_the_answers_with_a_schema(llm: FakeLLM) -> None:
    """An answer that breaks the schema counts against its model, a server's failure does not."""
    good = {"passed": True, "reason": "ok"}
    llm.reply(good)
    llm.reply(lambda call: "no JSON" if call.messages[0].content == "two" else good, model="b")
    llm.reply(InvalidRequestError("no"), model="c")
    found = llm.compare("t", ["one", "two"], models=["a", "b", "c"], schema=Verdict)
    assert [one.valid for one in found.totals] == [1.0, 0.5, None]
    failed = found.prompts[1].results["b"]
    assert isinstance(getattr(failed, "last", failed), OutputInvalidError)
    spent: list[Any] = [attempt.cost for row in found.prompts for attempt in row.results["b"].attempts]
    assert found.totals[1].cost == sum(spent, Decimal(0)) > 0
    assert found.prompts[0].results["a"].parsed == Verdict(passed=True, reason="ok")  # type: ignore[union-attr]
    llm.reply("x")
    assert llm.compare("t", "?", models=["a"]).totals[0].valid is None


WRONG: list[tuple[dict[str, Any], type[LLMError], str]] = [
    ({"models": ["a", "bb"]}, ConfigError, "bb"),
    ({"models": []}, InvalidRequestError, "models"),
    ({"models": "a"}, InvalidRequestError, "models"),
    ({"models": ["a", "a"]}, InvalidRequestError, "models"),
    ({"models": ["a", 3]}, InvalidRequestError, "models"),
    ({"prompt": []}, InvalidRequestError, "prompt"),
    ({"prompt": 3}, InvalidRequestError, "prompt"),
    ({"prompt": b"x"}, InvalidRequestError, "prompt"),
    ({"task": "unknown"}, ConfigError, "unknown"),
    ({"concurrency": 0}, InvalidRequestError, "concurrency"),
    ({"max_tokens": 0}, InvalidRequestError, "max_tokens"),
]


@each_mode
@pytest.mark.parametrize(("given", "kind", "says"), WRONG, ids=str)
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    llm: FakeLLM, mode: str, given: dict[str, Any], kind: type[LLMError], says: str
) -> None:
    """A wrong argument is an error of the call, not of one model."""
    with pytest.raises(kind, match=says):
        _compare(llm, mode, **{"task": "t", "prompt": "?", "models": ["a", "b"], **given})
    assert llm.calls == []


def test_a_comparison_can_be_written_as_json(llm: FakeLLM) -> None:
    """Answers, errors and money are JSON for a program to read."""
    llm.reply("yes")
    llm.reply(InvalidRequestError("no"), model="b")
    shown = json.loads(json.dumps(plain(llm.compare("t", "?", models=["a", "b"]))))
    assert shown["prompts"][0]["results"]["a"]["text"] == "yes"
    assert shown["prompts"][0]["results"]["b"]["code"] == "invalid_request"
    assert [one["model"] for one in shown["totals"]] == ["a", "b"]


NORMALISED = [
    ("Yes,  it DOES.\n", "yes it does", True),
    ("\uff59\uff45\uff53", "yes", True),
    ("- one\n- two", "* one\n* two", True),
    ("“smart” quotes", '"smart" quotes', True),
    ("it is 3.14", "it is 314", False),
    ("it is -5", "it is 5", False),
    ("C++", "C", False),
    ("?", "!", False),
    ("", "", True),
]


@pytest.mark.parametrize(("one", "other", "same"), NORMALISED)
def test_texts_are_compared_without_their_form(one: str, other: str, same: bool) -> None:
    """Case, white space and punctuation are ignored; words, signs and numbers are compared."""
    assert (normalised(one) == normalised(other)) is same


FIELDS: list[tuple[list[str], bool | None, tuple[str, ...], tuple[str, ...]]] = [
    (['{"a": 1, "b": [2, 3]}', '{"b":[2,3],"a":1.0}'], True, ("$.a", "$.b[0]", "$.b[1]"), ()),
    (['{"a": 1, "b": 2}', '{"a": 1, "b": 3}'], False, ("$.a",), ("$.b",)),
    (['{"a": 1}', '{"a": 1, "b": null}'], False, ("$.a",), ("$.b",)),
    (['{"a": 1}', '{"a": true}'], False, (), ("$.a",)),
    (['{"a": 1}', '{"a": "1"}'], False, (), ("$.a",)),
    (['{"a": []}', '{"a": {}}'], False, (), ("$.a",)),
    (['{"a": {}}', '{"a": {}}'], True, ("$.a",), ()),
    (["[1]", "[1, 2]"], False, ("$[0]",), ("$[1]",)),
    (['{"a": 1}', '{"a": 1}', '{"a": 2}'], False, (), ("$.a",)),
    (['```json\n{"a": 1}\n```', '{"a": 1}'], True, ("$.a",), ()),
    (['{"a": 1}', "prose"], None, (), ()),
]


@pytest.mark.parametrize(("texts", "json_agrees", "same", "different"), FIELDS)
def test_json_agrees_field_by_field(
    texts: list[str], json_agrees: bool | None, same: tuple[str, ...], different: tuple[str, ...]
) -> None:
    """Paths list the values that are the same and those that differ, however the JSON is written."""
    found = agreement_of([_answer(text) for text in texts])
    assert (found.json, found.same, found.different) == (json_agrees, same, different)


@pytest.fixture
def every_wire(embedded_server: Endpoint, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLMManager]:
    """A manager that reaches the same weights over each wire of one real server, and as `embedded/`."""
    store = ModelStore()
    store.folder.parent.mkdir(parents=True)
    stored(store, tiny_gguf)
    monkeypatch.setenv("SERVER_TOKEN", embedded_server.token)
    base = embedded_server.api_base
    with WireProxy(base) as azure:
        rows: dict[str, dict[str, Any]] = {
            "openai": {"model": f"openai/{TINY}", "api_base": base},
            "anthropic": {"model": f"anthropic/{TINY}", "api_base": base.removesuffix("/v1")},
            "azure": {"model": f"azure/{TINY}", "api_base": azure.url, "api_version": "2024-10-21"},
            "azure-v1": {"model": f"azure/{TINY}", "api_base": azure.url, "api_version": "v1"},
        }
        served = {"api_key_env": "SERVER_TOKEN", "context_window": 4096, "max_output": 1024}
        models = {name: {**row, **served} for name, row in rows.items()} | {"embedded": {"model": f"embedded/{TINY}"}}
        settings = {"models": list(models), "max_tokens": 400, "temperature": 0, "cache": "off"}
        with LLMManager(config=LLMConfig.model_validate({"models": models, "tasks": {"t": settings}})) as llm:
            yield llm


PROMPTS = ["list files", "What is a test plan?", "one two three"]


@each_mode
def test_the_same_weights_agree_behind_every_wire(every_wire: LLMManager, mode: str) -> None:
    """The same weights give the same text over the OpenAI, Anthropic and both Azure wires, and as `embedded/`."""
    names = ["openai", "anthropic", "azure", "azure-v1", "embedded"]
    found = _compare(every_wire, mode, "t", PROMPTS, models=names, concurrency=2)
    assert [error for row in found.prompts for error in row.results.values() if isinstance(error, LLMError)] == []
    assert found.exact
    assert found.normalised
    assert len({row.results["openai"].text for row in found.prompts}) > 1  # type: ignore[union-attr]
