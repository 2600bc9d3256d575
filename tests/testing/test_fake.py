"""`FakeLLM` answers by rule, and everything around the answer is the real thing."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from testronaut_llm import (
    AllModelsFailedError,
    ContentFilteredError,
    LLMTimeoutError,
    OutputInvalidError,
    OutputTruncatedError,
    RateLimitError,
    UnknownTaskError,
    Usage,
)
from testronaut_llm.testing.fake import FakeLLM
from testronaut_llm.testing.fake_rules import FakeAnswer, FakeCall, NoRuleError
from testronaut_llm.testing.network import NetworkGuard

CONFIG = """
version: 1
models:
  big:   {model: openai/gpt-a, quality: 9, price: {input: 10, output: 20}}
  small: {model: "ollama/${NOT_SET}", quality: 3, price: {input: 1, output: 2}}
  cloud: {model: azure/dep, api_base: "${AZURE_API_BASE}", api_version: v1, price: {input: 1, output: 2}}
  local: {model: embedded/smollm2-135m}
tasks:
  judge:     {models: [big, small], strategy: as_listed, retries: 1}
  private:   {models: [big, local], private: true}
  anywhere:  {models: [cloud]}
  embedding: {models: [big]}
  default:   {models: [small]}
"""


class Command(BaseModel):
    name: str
    options: list[str]


LS = Command(name="ls", options=["-l", "-a"])


@pytest.fixture
def llm() -> FakeLLM:
    return FakeLLM(tasks=("cli_analysis",))


@pytest.fixture
def priced(tmp_path: Path) -> FakeLLM:
    (tmp_path / "llm.yaml").write_text(CONFIG)
    return FakeLLM(tmp_path / "llm.yaml")


def test_a_text_is_answered_and_the_call_is_kept(llm: FakeLLM, network: NetworkGuard) -> None:
    """The rule's text comes back as an Answer, and the test can look at what was asked."""
    llm.reply("It lists files.")
    answer = llm.complete("cli_analysis", "What does ls do?", system="Be brief.", max_tokens=50)
    assert (answer.text, answer.model, answer.finish_reason, answer.cost) == ("It lists files.", "fake", "stop", 0)
    [call] = llm.calls
    assert (call.task, call.model, call.prompt, call.max_tokens) == ("cli_analysis", "fake", "What does ls do?", 50)
    assert call.messages[0].content == "Be brief."
    assert network.connects == []


def test_the_last_rule_that_fits_goes_first(llm: FakeLLM) -> None:
    """Rules for a task, a model or a prompt stand before the general ones that were there."""
    llm.reply("general")
    llm.reply("about tar", prompt=r"\btar\b")
    llm.reply("analysis", task="cli_analysis", prompt="git")
    assert llm.complete("cli_analysis", "git log").text == "analysis"
    assert llm.complete("default", "git log").text == "general"
    assert llm.complete("cli_analysis", "tar xf").text == "about tar"
    llm.reply("other", model="another-alias")
    assert llm.complete("cli_analysis", "start").text == "general"


def test_answers_come_in_order_and_the_last_repeats(llm: FakeLLM) -> None:
    """A sequence is played once, then its end stays."""
    llm.reply("one", "two")
    assert [llm.complete(None, "?").text for _ in range(4)] == ["one", "two", "two", "two"]


def test_a_function_sees_the_call(llm: FakeLLM) -> None:
    """A rule may compute its answer from what was asked."""

    def shout(call: FakeCall) -> str:
        return call.prompt.upper()

    llm.reply(shout)
    assert llm.complete(None, "quiet").text == "QUIET"


def test_an_instance_of_the_schema_is_parsed_back(llm: FakeLLM) -> None:
    """An instance, and a list of them behind a wrapped schema, arrive as `.parsed`; the schema is on the call."""
    llm.reply(LS)
    assert llm.complete(None, "?", schema=Command).parsed == LS
    llm.reply([LS, LS])
    assert llm.complete(None, "?", schema=list[Command]).parsed == [LS, LS]
    llm.reply({"name": "tar", "options": []})
    assert llm.complete(None, "?", schema=Command).parsed == Command(name="tar", options=[])
    assert all(call.schema for call in llm.calls)


def test_a_wrong_answer_is_repaired_once(llm: FakeLLM) -> None:
    """The schema check and its repair are real: the second answer counts, and a second wrong one fails."""
    llm.reply("no json", LS)
    answer = llm.complete(None, "?", schema=Command)
    assert (answer.parsed, len(answer.attempts)) == (LS, 2)
    llm.reply("never json")
    with pytest.raises(AllModelsFailedError) as failed:
        llm.complete(None, "?", schema=Command)
    assert isinstance(failed.value.last, OutputInvalidError)


def test_an_error_is_retried_and_falls_back_with_its_price(priced: FakeLLM) -> None:
    """Retries, fallback, attempts and cost are those of the user's own llm.yaml."""
    priced.reply("from the second", model="small")
    priced.reply(FakeAnswer(text="", finish_reason="stop", usage=Usage(prompt_tokens=1000)), model="big")
    answer = priced.complete("judge", "?")
    assert (answer.text, answer.model, [attempt.model for attempt in answer.attempts]) == (
        "from the second",
        "small",
        ["big", "small"],
    )
    assert answer.attempts[0].cost == Decimal("0.01")
    priced.reply(RateLimitError("slow down", retry_after=0.0), "after a moment", model="big")
    answer = priced.complete("judge", "?")
    assert (answer.text, len(answer.attempts)) == ("after a moment", 2)


def test_all_rules_of_routing_hold(priced: FakeLLM) -> None:
    """No model needs a key or a server, and yet a private task stays local and an unknown one is an error."""
    priced.reply("here")
    assert priced.complete("private", "?").model == "local"
    assert priced.complete("anywhere", "?").model == "cloud"
    assert priced.complete("default", "?").model == "small"
    with pytest.raises(UnknownTaskError, match="judge"):
        priced.complete("juge", "?")
    assert [one.alias for one in priced.route("judge", "?").kept] == ["big", "small"]


def test_finish_and_usage_can_be_given(priced: FakeLLM) -> None:
    """A cut answer is truncation, a withheld one a filter; given usage is what is charged."""
    priced.reply(FakeAnswer(text="cut", finish_reason="length"))
    with pytest.raises(OutputTruncatedError) as cut:
        priced.complete("default", "?")
    assert cut.value.text == "cut"
    priced.reply(FakeAnswer(text="no", finish_reason="content_filter"))
    with pytest.raises(ContentFilteredError):
        priced.complete("default", "?")
    priced.reply(FakeAnswer(text="yes", usage=Usage(prompt_tokens=1_000_000, completion_tokens=1_000_000)))
    assert priced.complete("default", "?").cost == Decimal(3)


def test_no_rule_stops_with_the_line_to_add(llm: FakeLLM) -> None:
    """A question that no rule answers is an error of the test, not an outage to fall back from."""
    with pytest.raises(NoRuleError, match=r"add one: llm\.reply"):
        llm.complete("cli_analysis", "unexpected")
    assert len(llm.calls) == 1


def test_streams_come_in_pieces(llm: FakeLLM) -> None:
    """A stream hands out the text in words; the answer stands at its end."""
    llm.reply("one two  three\n")
    with llm.stream(None, "?") as stream:
        assert list(stream) == ["one ", "two  ", "three\n"]
        assert stream.answer.text == "one two  three\n"


async def test_async_does_the_same(llm: FakeLLM) -> None:
    """Every call has its async form, with the same rules."""
    llm.reply("a b")
    assert (await llm.acomplete(None, "?")).text == "a b"
    async with llm.astream(None, "?") as stream:
        assert [piece async for piece in stream] == ["a ", "b"]
    assert (await llm.aembed(None, ["x"])).vectors == llm.embed(None, ["x"]).vectors
    assert len(llm.calls) == 4


def test_embeddings_are_made_from_the_text_or_given(llm: FakeLLM) -> None:
    """The same text has the same vector, another one another; a rule may give its own."""
    llm.reply("")
    first, second, again = llm.embed(None, ["list", "remove", "list"]).vectors
    assert first == again != second
    llm.reply(FakeAnswer(vectors=((1.0, 0.0),)))
    assert llm.embed(None, ["list"]).vectors == ((1.0, 0.0),)
    assert llm.calls[-1].prompt == "list"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_late_answer_meets_the_time_out(llm: FakeLLM, asynchronous: bool) -> None:
    """A delay longer than the attempt's time-out is one, sync and async; the deadline is a real one."""
    llm.reply(FakeAnswer(text="too late", delay=0.6))
    with pytest.raises(LLMTimeoutError):
        _ask(llm, asynchronous=asynchronous)
    llm.reply(FakeAnswer(text="in time", delay=0.01))
    assert llm.complete(None, "?").text == "in time"


def _ask(llm: FakeLLM, *, asynchronous: bool) -> None:
    if asynchronous:
        asyncio.run(llm.acomplete(None, "?", deadline=0.1))
    else:
        llm.complete(None, "?", deadline=0.1)


def test_nothing_is_written(llm: FakeLLM) -> None:
    """A fake leaves no answer, no spend and no calibration behind."""
    llm.reply("x")
    with llm:
        llm.complete(None, "?")
    assert not Path(os.environ["TESTRONAUT_LLM_HOME"]).exists()
