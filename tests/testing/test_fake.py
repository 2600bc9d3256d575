"""`FakeLLM` answers by rule, and all code around the answer is real."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from testronaut_llm import ContentFilteredError, LLMTimeoutError, OutputTruncatedError, RateLimitError, Usage
from testronaut_llm.testing.cassettes import NetworkGuard
from testronaut_llm.testing.fake import FakeAnswer, FakeLLM, NoRuleError

CONFIG = """
version: 1
models:
  big:   {model: openai/gpt-a, quality: 9, price: {input: 10, output: 20}}
  small: {model: "ollama/${NOT_SET}", quality: 3, price: {input: 1, output: 2}}
  local: {model: embedded/smollm2-135m}
tasks:
  judge:     {models: [big, small], strategy: as_listed, retries: 1}
  private:   {models: [big, local], private: true}
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


def test_a_text_is_answered_and_the_call_is_kept(llm: FakeLLM, llm_network: NetworkGuard) -> None:
    llm.reply("It lists files.")
    with llm:
        answer = llm.complete("cli_analysis", "What does ls do?", system="Be brief.", max_tokens=50)
    assert (answer.text, answer.model, answer.finish_reason, answer.cost) == ("It lists files.", "fake", "stop", 0)
    [call] = llm.calls
    assert (call.task, call.model, call.prompt, call.max_tokens) == ("cli_analysis", "fake", "What does ls do?", 50)
    assert call.messages[0].content == "Be brief."
    assert llm_network.connects == []
    assert not Path(os.environ["TESTRONAUT_LLM_HOME"]).exists()


def test_the_last_rule_that_fits_goes_first_and_without_one_the_call_stops(llm: FakeLLM) -> None:
    with pytest.raises(NoRuleError, match=r"add one: llm\.reply"):
        llm.complete("cli_analysis", "unexpected")
    assert len(llm.calls) == 1
    llm.reply("general")
    llm.reply("about tar", prompt=r"\btar\b")
    llm.reply("analysis", task="cli_analysis", prompt="git")
    llm.reply("other", model="another-alias")
    assert llm.complete("cli_analysis", "git log").text == "analysis"
    assert llm.complete("default", "git log").text == "general"
    assert llm.complete("cli_analysis", "tar xf").text == "about tar"
    llm.reply("one", lambda call: call.prompt.upper())
    assert [llm.complete(None, "three").text for _ in range(3)] == ["one", "THREE", "THREE"]


def test_an_answer_for_a_schema_is_parsed_and_a_wrong_one_is_repaired_once(llm: FakeLLM) -> None:
    for said, schema in ((LS, Command), ([LS, LS], list[Command])):
        llm.reply(said)
        assert llm.complete(None, "?", schema=schema).parsed == said
    assert all(call.schema for call in llm.calls)
    llm.reply("no json", LS)
    answer = llm.complete(None, "?", schema=Command)
    assert (answer.parsed, len(answer.attempts)) == (LS, 2)


def test_routing_retries_fallback_and_prices_are_real(priced: FakeLLM) -> None:
    priced.reply("here")
    for task, model in {"private": "local", "default": "small"}.items():
        assert priced.complete(task, "?").model == model
    assert [one.alias for one in priced.route("judge", "?").kept] == ["big", "small"]
    priced.reply("from the second", model="small")
    empty = FakeAnswer(text="", usage=Usage(prompt_tokens=1000))
    priced.reply(RateLimitError("slow down", retry_after=0.0), empty, model="big")
    answer = priced.complete("judge", "?")
    assert (answer.text, [one.model for one in answer.attempts]) == ("from the second", ["big", "big", "small"])
    assert answer.attempts[1].cost == Decimal("0.01")


def test_finish_reason_and_delay_can_be_given(priced: FakeLLM) -> None:
    for said, error in (
        (FakeAnswer(text="cut", finish_reason="length"), OutputTruncatedError),
        (FakeAnswer(text="no", finish_reason="content_filter"), ContentFilteredError),
        (FakeAnswer(text="too late", delay=0.6), LLMTimeoutError),
    ):
        priced.reply(said)
        with pytest.raises(error):
            priced.complete("default", "?", deadline=0.1 if said.delay else 9)


async def test_streams_come_in_pieces_and_async_does_the_same(llm: FakeLLM) -> None:
    llm.reply(" one two  three\n")
    with llm.stream(None, "?") as stream:
        assert list(stream) == [" ", "one ", "two  ", "three\n"]
        assert stream.answer.text == " one two  three\n"
    async with llm.astream(None, "?") as pieces:
        assert [piece async for piece in pieces] == [" ", "one ", "two  ", "three\n"]
    assert (await llm.acomplete(None, "?")).text == " one two  three\n"
    assert len(llm.calls) == 3


async def test_embeddings_are_made_from_the_text_or_given(llm: FakeLLM) -> None:
    llm.reply("")
    first, second, again = llm.embed(None, ["list", "remove", "list"]).vectors
    assert first == again != second
    llm.reply(FakeAnswer(vectors=((1.0, 0.0),)))
    assert (await llm.aembed(None, ["list"])).vectors == ((1.0, 0.0),)
    assert llm.calls[-1].prompt == "list"
