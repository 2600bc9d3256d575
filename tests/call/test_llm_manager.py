"""Calls of each kind over each wire: the request, the response, and the answer."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import faults
import pytest
from gateway_kit import WIRES
from manager_kit import KEY, MODES, Make, ask, manager, model
from pydantic import BaseModel

from testronaut_llm import errors
from testronaut_llm.records import Usage
from testronaut_llm.testing.cassettes import NetworkGuard

pytestmark = pytest.mark.usefixtures("provider_keys")

TEXT = "Hello from the fault server."


class Person(BaseModel):
    name: str
    age: int


PATHS = {
    "openai": "/v1/chat/completions",
    "azure": "/openai/deployments/my-deployment/chat/completions",
    "azure v1": "/openai/v1/chat/completions",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
async def test_an_answer_has_all_its_facts(api: Make, llm_network: NetworkGuard, wire: str, mode: str) -> None:
    a = api("a", faults.good())
    async with manager({"m": model(wire, a)}) as llm:
        answer = await ask(llm, mode, "Say hello.")
    assert (answer.text, answer.model, answer.task, answer.finish_reason) == (TEXT, "m", "t", "stop")
    assert answer.usage == Usage(prompt_tokens=12, completion_tokens=6)
    assert answer.cost == (Decimal(0) if wire == "ollama" else Decimal("0.000024"))
    assert answer.cost_source
    assert answer.request_id == "req-fault-1"
    assert [(one.model, one.outcome, one.error) for one in answer.attempts] == [("m", "answer", None)]
    assert not answer.cached
    assert [one.path for one in a.asked] == [PATHS[wire]]
    readiness = 1 if wire == "ollama" else 0  # for the models there are, and those that are loaded
    assert len(llm_network.connects) == 1 + readiness


@pytest.mark.parametrize("mode", ["complete", "stream"])
@pytest.mark.parametrize("wire", WIRES)
async def test_the_request_holds_what_the_caller_gave(api: Make, wire: str, mode: str) -> None:
    a = api("a", faults.good())
    words = {"one": "user", "two": "assistant", "three": "user"}
    turns = [{"role": role, "content": word} for word, role in words.items()]
    async with manager({"m": model(wire, a)}, max_tokens=321, stop=["END"], seed=7, system="Be brief.") as llm:
        answer = await ask(llm, mode, turns, temperature=0.25, extra={"top_p": 0.5})
    (body,) = a.bodies
    options, stream = body.get("options", {}), mode == "stream"
    assert [word for word in ("Be brief.", *words) if word not in json.dumps(body)] == []
    assert options.get("num_predict", body.get("max_tokens")) == 321
    assert options.get("temperature", body.get("temperature")) == 0.25
    assert options.get("stop", body.get("stop_sequences", body.get("stop"))) == ["END"]
    assert options.get("top_p", body.get("top_p")) == 0.5
    assert bool(body.get("stream", False)) is stream
    header = {"openai": "authorization", "azure": "api-key", "azure v1": "authorization", "anthropic": "x-api-key"}
    assert wire == "ollama" or a.asked[0].has_key(header[wire], KEY)
    assert sum(name in a.asked[0].headers for name in ("authorization", "api-key", "x-api-key")) == 1
    assert "extra_body" not in body
    assert answer.attempts[0].dropped_params == (("seed",) if wire == "anthropic" else ())
    if wire == "ollama":
        assert body["truncate"] is False
        assert options["num_ctx"] >= 4096
        assert "truncate" not in options
    if wire == "anthropic":
        assert a.asked[0].headers["anthropic-version"] == "2023-06-01"
    if wire == "azure":
        assert a.asked[0].query == {"api-version": "2024-10-21"}
    if stream and wire in ("openai", "azure", "azure v1"):
        assert body["stream_options"] == {"include_usage": True}


COUNTLESS = [(wire, "stream") for wire in WIRES] + [(wire, "complete") for wire in WIRES if wire != "anthropic"]
"""LiteLLM reads no message of Anthropic without its counts."""


@pytest.mark.parametrize(("wire", "mode"), [*COUNTLESS, ("openai", "embed")])
async def test_usage_that_was_not_reported_is_estimated(api: Make, wire: str, mode: str) -> None:
    async with manager({"m": model(wire, api("a", faults.good(usage=None)))}) as llm:
        answer: Any = llm.embed("t", ["one", "two"]) if mode == "embed" else await ask(llm, mode)
    assert answer.usage.estimated
    assert answer.attempts[0].usage == answer.usage
    assert answer.usage.prompt_tokens > 0
    assert (answer.usage.completion_tokens > 0) is (mode != "embed")


def test_each_kind_of_token_has_its_price(api: Make) -> None:
    usage = {"input_tokens": 30, "output_tokens": 20, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 30}
    end = {"content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn", "usage": usage}
    message = json.dumps({"id": "x", "type": "message", "role": "assistant", "model": "m", **end})
    with manager({"m": model("anthropic", api("a", faults.raw(200, message.encode())))}) as llm:
        answer = llm.complete("t", "hi")
    assert answer.usage == Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=40, cache_write_tokens=30)
    assert answer.cost == (30 + Decimal("0.1") * 40 + Decimal("1.25") * 30 + 2 * 20) / 1_000_000


@pytest.mark.parametrize("wire", WIRES)
async def test_a_schema_gives_the_same_value_over_each_wire(api: Make, wire: str) -> None:
    a = api("a", faults.good('{"name": "Ada", "age": 36}'))
    async with manager({"m": model(wire, a)}) as llm:
        answers = [await ask(llm, mode, "Who?", schema=Person) for mode in MODES]
    assert [answer.parsed for answer in answers] == [Person(name="Ada", age=36)] * 4
    for body in a.bodies:
        if wire == "ollama":
            schema = body["format"]
        elif wire == "anthropic":
            schema = (body.get("output_config", {}).get("format") or body["output_format"])["schema"]
        else:
            assert body["response_format"]["json_schema"]["strict"] is True
            schema = body["response_format"]["json_schema"]["schema"]
        assert set(schema["properties"]) == {"name", "age"}


@pytest.mark.parametrize("wire", WIRES)
def test_one_repair_is_asked_for_and_counted(api: Make, wire: str) -> None:
    a = api("a", faults.good('{"name": "Ada"}'), faults.good('{"name": "Ada", "age": 36}'))
    with manager({"m": model(wire, a)}) as llm:
        answer = llm.complete("t", "Who?", schema=Person)
    assert answer.parsed == Person(name="Ada", age=36)
    assert [one.outcome for one in answer.attempts] == ["rejected", "answer"]
    assert isinstance(answer.attempts[0].error, errors.OutputInvalidError)
    assert answer.cost == (Decimal(0) if wire == "ollama" else Decimal("0.000048"))
    assert len(a.asked) == 2
    assert "age" in json.dumps(a.bodies[1]["messages"][-1])


def refused_answer(text: str) -> dict[str, Any]:
    """What Groq sends if the model's text is not the JSON that was asked for."""
    message = "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details."
    facts = {"message": message, "type": "invalid_request_error", "code": "json_validate_failed"}
    return {"error": {**facts, "failed_generation": text}}


@pytest.mark.parametrize(("mode", "status"), [("complete", 400), ("astream", 400), ("complete", 200), ("astream", 200)])
async def test_an_answer_that_the_server_refused_is_repaired_once(api: Make, mode: str, status: int) -> None:
    """`json_validate_failed`, also inside a 200, is the model's failure: one repair, then the next model."""
    body = refused_answer('{"name": "Ada"')
    wrong = faults.raw(status, json.dumps(body).encode())
    if (mode, status) == ("astream", 200):
        wrong = faults.error_in_stream(body=body)
    a, b = api("a", wrong), api("b", faults.good('{"name": "Ada", "age": 36}'))
    async with manager({"a": model("openai", a), "b": model("openai", b)}) as llm:
        answer = await ask(llm, mode, "Who?", schema=Person)
    assert answer.parsed == Person(name="Ada", age=36)
    assert [one.model for one in answer.attempts] == ["a", "a", "b"]
    for failed in answer.attempts[:2]:
        assert isinstance(failed.error, errors.OutputInvalidError)
        assert failed.error.text == '{"name": "Ada"'
        assert status == 200 or failed.cost == Decimal(0)
    assert a.bodies[1]["messages"][-2] == {"role": "assistant", "content": '{"name": "Ada"'}
    assert a.bodies[1]["messages"][-1]["role"] == "user"
    assert len(b.bodies[0]["messages"]) == 1


def test_a_refused_answer_without_a_text_is_asked_for_again(api: Make) -> None:
    refused = faults.raw(400, json.dumps(refused_answer("")).encode())
    a, b = api("a", refused, faults.good('{"name": "Ada", "age": 36}')), api("b", faults.good())
    with manager({"a": model("openai", a), "b": model("openai", b)}) as llm:
        assert llm.complete("t", "Who?", schema=Person).model == "a"
        assert [one["role"] for one in a.bodies[1]["messages"]] == ["user", "user"]
        a.plan(refused)
        answer = llm.complete("t", "Who?")
    assert [one.model for one in answer.attempts] == ["a", "b"]


def test_one_that_stays_wrong_keeps_its_text_and_a_stream_is_not_repaired(api: Make) -> None:
    a = api("a", faults.good("no json"))
    with manager({"m": model("openai", a)}) as llm:
        with pytest.raises(errors.AllModelsFailedError) as failed:
            llm.complete("t", "Who?", schema=Person)
        assert isinstance(failed.value.last, errors.OutputInvalidError)
        assert failed.value.last.text == "no json"
        assert len(a.asked) == len(failed.value.attempts) == 2
        with pytest.raises(errors.OutputInvalidError) as caught:
            list(llm.stream("t", "Who?", schema=Person))
    assert caught.value.text == "no json"
    assert len(a.asked) == 3


@pytest.mark.parametrize("wire", WIRES)
def test_a_cut_answer_is_asked_for_with_a_doubled_cap(api: Make, wire: str) -> None:
    a = api("a", faults.good("Hel", finish="length"), faults.good())
    with manager({"m": model(wire, a)}, max_tokens=50) as llm:
        answer = llm.complete("t", "hi")
    caps = [body.get("options", {}).get("num_predict", body.get("max_tokens")) for body in a.bodies]
    assert caps == [50, 100]
    assert [one.finish_reason for one in answer.attempts] == ["length", "stop"]
    assert isinstance(answer.attempts[0].error, errors.OutputTruncatedError)


def test_blanks_up_to_the_cap_are_an_answer_to_repair(api: Make) -> None:
    """Constrained decoding can write blanks without end; a longer answer would not help."""
    blanks = faults.good('{"name": "a"' + " " * 1000, finish="length")
    a = api("a", blanks, faults.good('{"name": "a"}'))
    with manager({"a": model("openai", a)}, max_tokens=50) as llm:
        answer = llm.complete("t", "hi", schema=dict[str, str])
    assert (answer.parsed, type(answer.attempts[0].error)) == ({"name": "a"}, errors.OutputInvalidError)


def test_an_answer_that_stays_cut_is_an_error_with_its_text(api: Make) -> None:
    """OutputTruncatedError ends the call; the cap is not doubled if model or budget forbid it, or in a stream."""
    a, b = api("a", faults.good("Hel", finish="length")), api("b", faults.good())
    with manager({"a": model("openai", a), "b": model("openai", b)}, max_tokens=1000) as llm:
        for times, given in ((2, {"max_tokens": 10}), (1, {"max_tokens": 4000}), (1, {"max_cost": "0.0025"})):
            a.asked.clear()
            with pytest.raises(errors.OutputTruncatedError) as caught:
                llm.complete("t", "hi", **given)
            assert (caught.value.text, len(caught.value.attempts), len(a.asked)) == ("Hel", times, times)
        with pytest.raises(errors.OutputTruncatedError):
            list(llm.stream("t", "hi", max_tokens=10))
    assert (len(a.asked), len(b.asked)) == (2, 0)
    a.plan(faults.good("", finish="length"))
    with manager({"a": model("openai", a)}, allow_truncated=True) as llm, pytest.raises(errors.OutputTruncatedError):
        llm.complete("t", "hi")  # an empty text is no answer, even if the task allows cut ones
