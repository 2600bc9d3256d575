"""LiteLLM gets a light form of a large body, and the answer is whole."""

from __future__ import annotations

import itertools
import json
from typing import Any

import faults
import pytest
from fault_server import Exchange as Served
from gateway_kit import WIRES
from good_answers import Good, answer
from manager_kit import MODES, Make, ask, manager, model
from schema_table import STRING, closed

from testronaut_llm import errors
from testronaut_llm.gateway.exchange import MOST_BYTES_BESIDE_TEXTS, LightBody
from testronaut_llm.support.http_body import BodyError

pytestmark = pytest.mark.usefixtures("provider_keys")
LONG = 'line "one"\n\\ \U0001f600 é\t' * 3000


def large(document: Any) -> bytes:
    """A body of this document with a long text beside it."""
    return json.dumps({**document, "beside": "x" * 20_000}).encode()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_long_answer_is_whole(api: Make, wire: str, mode: str) -> None:
    """Also if one event of a stream is large, and if the text begins with reasoning in tags."""
    a = api("a", faults.good(f"<think>{LONG}</think>{LONG}.", pieces=2), faults.good(f"{LONG}.", reasoning=LONG))
    with manager({"m": model(wire, a)}) as llm:
        assert [(await ask(llm, mode)).text for _ in range(2)] == [f"{LONG}."] * 2


@pytest.mark.parametrize("mode", ["complete", "stream"])
async def test_long_reasoning_is_counted(api: Make, mode: str) -> None:
    """In the estimate of the tokens of an answer without usage."""
    a = api("a", *[faults.good(LONG, reasoning=reasoning, usage=None) for reasoning in ("", LONG)])
    with manager({"m": model("openai", a, context_window=10**6, max_output=10**5)}, max_tokens=10**5) as llm:
        plain, reasoned = [(await ask(llm, mode)).usage.completion_tokens for _ in range(2)]
    assert reasoned > 1.9 * plain


@pytest.mark.parametrize("wire", ["openai", "azure", "ollama"])
def test_long_vectors_are_whole(api: Make, wire: str) -> None:
    """Of texts in any order, and beside short ones."""
    vectors = (tuple(number / 7 for number in range(16_000)), (1.5, 2.0), tuple(map(float, range(2000))))
    with manager({"m": model(wire, api("a", faults.good(vectors=vectors)))}) as llm:
        assert llm.embed("t", ["a", "b", "c"]).vectors == vectors


@pytest.mark.parametrize("name", ["claude-haiku-4-5", "claude-3-haiku-20240307"])
def test_long_texts_of_a_schema_are_whole(api: Make, name: str) -> None:
    """LiteLLM asks older models of Anthropic for a call of a tool, and writes its arguments as JSON."""
    a = api("a", faults.good(json.dumps({"text": LONG})))
    with manager({"m": model("anthropic", a, model=f"anthropic/{name}")}) as llm:
        assert llm.complete("t", "hi", schema=closed(text=STRING)).parsed == {"text": LONG}
    assert ("tools" in a.bodies[0]) == ("claude-3" in name)


def with_field(place: str, value: Any) -> faults.Reply:
    """A good answer with another value at a place such as `choices.0.message`."""

    def reply(served: Served) -> None:
        kind, pieces = answer(served.request.wire, served.request.path, served.request.body, Good())
        document = holder = json.loads(pieces[0])
        *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
        for step in path:
            holder = holder[step]
        holder[last] = value
        served.respond(200, kind, json.dumps(document).encode())

    return reply


@pytest.mark.parametrize("wire", WIRES)
def test_an_odd_name_of_the_model_spoils_no_answer(api: Make, wire: str) -> None:
    """It is not shown if it is not a text; LiteLLM takes minutes for a name of megabytes."""
    for value in (1.5, [[[]]], {"a": None}, "x" * 100_000, ["x" * 100_000]):
        with manager({"m": model(wire, api("a", with_field("model", value)))}) as llm:
            found = llm.complete("t", "hi")
        assert found.text == Good.text
        assert len(found.response_model) <= 256


PLACES = ("choices", "choices.0", "choices.0.message", "choices.0.message.role")


@pytest.mark.parametrize("wire", ["openai", "azure"])
def test_what_litellm_cannot_read_is_no_answer(api: Make, wire: str) -> None:
    for place, value in (
        *itertools.product(PLACES, ("x" * 100_000, ["x" * 100_000], [1] * 9000, {"x" * 100_000: 1})),
        *itertools.product(["data.0.embedding"], ("12345", "1" * 100_000, {"1": 2}, 5)),
    ):
        with manager({"m": model(wire, api("a", with_field(place, value)))}, retries=0) as llm:
            with pytest.raises(errors.AllModelsFailedError) as caught:
                llm.embed("t", "hi") if "embedding" in place else llm.complete("t", "hi")
            assert isinstance(caught.value.last, errors.BadResponseError)
        assert len(str(caught.value)) < 1000


def test_a_large_body_becomes_small_and_a_small_one_stays() -> None:
    for body, most in (
        (large({"error": {"message": "x" * 10**6}}), 200),
        (large({"model": "m" * 10**6, "choices": [{"logprobs": {"content": [{"token": "a"}] * 9000}}]}), 200),
        (large({"x" * 10**6: 1, "y": ["z" * 100] * 100}), 6000),
        (b"data: " + large({"choices": [{"delta": {"content": "x" * 10**6}}]}) + b"\n", 200),
        (b": " + b"x" * 10**6 + b"\n", 1100),
        (large({})[:-1] + b"[" * 2000, 1100),
        (b'{"a":' * 900 + large({}) + b"}" * 900, 7000),
    ):
        light = LightBody().of(body)
        assert 0 < len(light) < most
        assert light.endswith(b"\n") == body.endswith(b"\n")
    with pytest.raises(BodyError, match="more than 262,144 bytes beside its texts"):
        LightBody().of(large({"more": [{}] * MOST_BYTES_BESIDE_TEXTS}))
    for body in (b'{"text": "%s"}' % (b"x" * 9000), b": here\n", b'data: {"content": [}\n', b""):
        assert LightBody().of(body) == body
