"""Calls of each kind over each wire: the request, the response, and the answer."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import faults
import pytest
from gateway_kit import WIRES
from manager_kit import KEY, MODES, Make, ask, config, manager, model
from pydantic import BaseModel

from testronaut_llm import LLMManager, errors
from testronaut_llm.records import Usage
from testronaut_llm.testing.network import NetworkGuard

pytestmark = pytest.mark.usefixtures("provider_keys")

TEXT = "Hello from the fault server."
EMBEDS = [wire for wire in WIRES if wire != "anthropic"]


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
async def test_an_answer_has_all_its_facts(api: Make, network: NetworkGuard, wire: str, mode: str) -> None:
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
    assert len(network.connects) == 1 + readiness


@pytest.mark.parametrize("mode", ["complete", "stream"])
@pytest.mark.parametrize("wire", WIRES)
async def test_the_request_holds_what_the_caller_gave(api: Make, wire: str, mode: str) -> None:
    a = api("a", faults.good())
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
             {"role": "user", "content": "three"}]  # fmt: skip
    async with manager({"m": model(wire, a)}, max_tokens=321, stop=["END"], seed=7, system="Be brief.") as llm:
        answer = await ask(llm, mode, turns, temperature=0.25, extra={"top_p": 0.5})
    (body,) = a.bodies
    options = body.get("options", {})
    stream = mode == "stream"
    said = json.dumps(body)
    assert [word for word in ("Be brief.", "one", "two", "three") if word not in said] == []
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


@pytest.mark.parametrize("mode", ["complete", "stream"])
@pytest.mark.parametrize("wire", WIRES)
async def test_usage_that_was_not_reported_is_estimated(api: Make, wire: str, mode: str) -> None:
    a = api("a", faults.good(usage=None))
    async with manager({"m": model(wire, a)}) as llm:
        if (wire, mode) == ("anthropic", "complete"):
            with pytest.raises(errors.AllModelsFailedError) as caught:
                llm.complete("t", "hi")
            assert isinstance(caught.value.last, errors.BadResponseError)
            return
        answer = await ask(llm, mode, "Say hello.")
    assert answer.usage.estimated
    assert answer.attempts[0].usage == answer.usage
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0


def test_usage_of_vectors_that_was_not_reported_is_estimated(api: Make) -> None:
    """LiteLLM reads no vectors of Ollama without their counts: then there is no answer."""
    a = api("a", faults.good(usage=None))
    with manager({"m": model("openai", a), "n": model("ollama", a)}) as llm:
        usage = llm.embed("t", ["one", "two"], model="m").usage
        assert usage.estimated
        assert usage.prompt_tokens > 0
        with pytest.raises(errors.AllModelsFailedError) as caught:
            llm.embed("t", "hi", model="n")
    assert isinstance(caught.value.last, errors.BadResponseError)


MESSAGES: dict[str, tuple[dict[str, Any], dict[str, Any], Usage]] = {
    "openai": (
        {"object": "chat.completion", "created": 1,
         "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]},
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
         "prompt_tokens_details": {"cached_tokens": 40}, "completion_tokens_details": {"reasoning_tokens": 8}},
        Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=40, reasoning_tokens=8),
    ),
    "anthropic": (
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "x"}], "stop_reason": "end_turn"},
        {"input_tokens": 30, "output_tokens": 20, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 30},
        Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=40, cache_write_tokens=30),
    ),
}  # fmt: skip


@pytest.mark.parametrize("wire", MESSAGES)
def test_cached_written_and_reasoning_tokens_are_distinguished(api: Make, wire: str) -> None:
    message, reported, expected = MESSAGES[wire]
    a = api("a", faults.raw(200, json.dumps({"id": "x", "model": "m", **message, "usage": reported}).encode()))
    with manager({"m": model(wire, a)}) as llm:
        answer = llm.complete("t", "hi")
    assert answer.usage == expected
    cost = expected.uncached_tokens + Decimal("0.1") * 40 + Decimal("1.25") * expected.cache_write_tokens + 2 * 20
    assert answer.cost == cost / 1_000_000


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


def test_an_answer_that_stays_wrong_keeps_its_text(api: Make) -> None:
    """After one repair the error holds the text; a stream is not repaired after its pieces."""
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


def test_allow_truncated_takes_a_cut_answer(api: Make) -> None:
    a = api("a", faults.good("Hel", finish="length"))
    with manager({"a": model("openai", a)}, allow_truncated=True) as llm:
        answer = llm.complete("t", "hi")
        assert (answer.text, answer.finish_reason, len(a.asked)) == ("Hel", "length", 1)
        a.plan(faults.good("", finish="length"))
        with pytest.raises(errors.OutputTruncatedError):
            llm.complete("t", "hi")


def test_accept_has_the_last_word(api: Make) -> None:
    """An answer that `accept` refuses is paid and reported, not repaired, and the next model is asked."""
    a, b = api("a", faults.good("bad")), api("b", faults.good("fine"))
    with manager({"a": model("openai", a), "b": model("anthropic", b)}) as llm:
        answer = llm.complete("t", "hi", accept=lambda one: one.text == "fine")
    assert (answer.text, answer.model, len(a.asked), len(b.asked)) == ("fine", "b", 1, 1)
    assert [(one.model, one.outcome) for one in answer.attempts] == [("a", "rejected"), ("b", "answer")]
    assert answer.cost == Decimal("0.000048")


@pytest.mark.parametrize("wire", EMBEDS)
async def test_vectors_come_in_order(api: Make, wire: str) -> None:
    a = api("a", faults.good())
    async with manager({"m": model(wire, a)}) as llm:
        here, there = llm.embed("t", ["one", "two"]), await llm.aembed("t", ["one", "two"])
    assert here.vectors == there.vectors == ((1.0, 0.5, -0.25), (2.0, 0.5, -0.25))
    assert (here.model, here.usage.prompt_tokens, here.usage.estimated) == ("m", 12, False)
    assert len(a.asked) == 2
    if wire == "ollama":
        assert a.bodies[0]["truncate"] is False
        assert a.asked[0].path == "/api/embed"


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


def test_a_config_edit_holds_from_the_next_call(api: Make, tmp_path: Path) -> None:
    rows = {name: model("openai", api(name, faults.good(f"from {name}"))) for name in ("a", "b")}
    file = tmp_path / "llm.yaml"
    with pytest.raises(errors.ConfigError, match="one of them"):
        LLMManager(file, config=config(rows))
    file.write_text(json.dumps({"models": rows, "tasks": {"t": {"models": "a", "cache": "off"}}}))
    with LLMManager(file) as llm:
        assert llm.complete("t", "hi").text == "from a"
        file.write_text(json.dumps({"models": rows, "tasks": {"t": {"models": ["b"], "cache": "off"}}}))
        assert llm.complete("t", "hi").text == "from b"
        file.write_text("tasks: [broken")
        assert llm.complete("t", "hi").text == "from b"


def test_nothing_ready_lists_each_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with manager({"a": {"model": "openai/gpt-4o"}, "b": {"model": "anthropic/claude-haiku-4-5"}}) as llm:
        with pytest.raises(errors.NoReadyModelError) as caught:
            llm.complete("t", "hi")
        assert "export OPENAI_API_KEY" in str(caught.value)
        assert "export ANTHROPIC_API_KEY" in str(caught.value)
        with pytest.raises(errors.NoReadyModelError):
            llm.complete("t", "hi", model="b")


def test_an_error_can_be_pickled(api: Make) -> None:
    a = api("a", faults.error("rate_limit", retry_after="2"))
    with manager({"a": model("openai", a)}, retries=0) as llm, pytest.raises(errors.AllModelsFailedError) as caught:
        llm.complete("t", "hi")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.status) == (str(caught.value), 429)
    assert error.attempts[0].error.retry_after == 2.0
    assert isinstance(error.last, errors.RateLimitError)


def test_route_sends_nothing(api: Make) -> None:
    a = api("a", faults.good())
    with manager({"a": model("openai", a), "b": model("anthropic", a)}) as llm:
        route = llm.route("t", "Say hello.", schema=Person)
        assert [one.alias for one in route.kept] == ["a", "b"]
        assert all(one.est_cost for one in route.kept)
        assert llm.dropped_params("b") == ("seed",)
    assert not a.asked
