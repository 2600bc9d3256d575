"""`classify` returns the label that fits with its probability, by log-probabilities or by votes."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import faults
import pytest
from manager_kit import manager, model

from testronaut_llm import LLMConfig, LLMManager, errors
from testronaut_llm.errors import AllModelsFailedError, InvalidRequestError, LLMError, ServerError
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request
from testronaut_llm.methods.classify import SAMPLING
from testronaut_llm.methods.labels import labels_of, token_probabilities, vote_probabilities
from testronaut_llm.records import TokenChoice, Usage

LABELS = ["passed", "failed"]


class Outcome(Enum):
    PASSED = "passed"
    FAILED = "failed"


def tokens(*said: tuple[str, dict[str, float]]) -> list[TokenChoice]:
    """Returns the tokens of an answer, each with its alternatives and their probabilities, its own included."""
    logs = [(token, {other: math.log(share) for other, share in others.items()}) for token, others in said]
    return [TokenChoice(token=token, logprob=others[token], others=others) for token, others in logs]


TOKENS: dict[str, tuple[list[str], list[TokenChoice], dict[str, float]]] = {
    "the answer alone": (LABELS, tokens(("passed", {"passed": 0.6, "failed": 0.2})), {"passed": 0.75, "failed": 0.25}),
    "in JSON": (
        LABELS,
        tokens(('{"a":"', {'{"a":"': 1}), ("pass", {"pass": 0.9, "fail": 0.1}), ('ed"', {'ed"': 1})),
        {"passed": 0.9, "failed": 0.1},
    ),
    "what no label begins with does not count": (
        LABELS,
        tokens(("passed", {"The": 0.6, "passed": 0.3, "failed": 0.1})),
        {"passed": 0.75, "failed": 0.25},
    ),
    "a shared first token": (
        ["failed", "faulty"],
        tokens(('"', {'"': 1}), ("fa", {"fa": 1}), ("iled", {"iled": 0.7, "ulty": 0.3}), ('"', {'"': 1})),
        {"failed": 0.7, "faulty": 0.3},
    ),
    "a label that is also a key of the answer": (
        ["error", "result"],
        tokens(('{"result":"', {'{"result":"': 1}), ("error", {"error": 0.9, "result": 0.1}), ('"}', {'"}': 1})),
        {"error": 0.9, "result": 0.1},
    ),
    "one label begins another": (
        ["pass", "passed"],
        tokens(('"', {'"': 1}), ("pass", {"pass": 1}), ('"', {'"': 0.8, "ed": 0.2})),
        {"pass": 0.8, "passed": 0.2},
    ),
    "another way to spell the answer": (
        LABELS,
        tokens(("pass", {"pass": 0.5, "passed": 0.3, "failed": 0.2}), ("ed", {"ed": 1})),
        {"passed": 0.8, "failed": 0.2},
    ),
    "an alternative of two labels": (
        ["yes", "not sure", "no"],
        tokens(("yes", {"yes": 0.6, "no": 0.4})),
        {"yes": 0.6, "not sure": 0.2, "no": 0.2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TOKENS)
def test_a_labels_probability_is_that_of_its_tokens(case: str) -> None:
    """The answer, which is the first label, may be cut into any tokens, with any alternatives."""
    labels, said, expected = TOKENS[case]
    found = token_probabilities(said, labels, labels[0])
    assert found is not None
    assert found == pytest.approx(expected)


def test_tokens_without_a_label_prove_nothing() -> None:
    """If no token is a label, votes are used."""
    assert token_probabilities([], LABELS, "passed") is None
    assert token_probabilities(tokens(("maybe", {"maybe": 1})), LABELS, "passed") is None


def test_votes_become_probabilities() -> None:
    """More votes give a higher probability, and a tie gives equal ones."""
    one, two = (vote_probabilities({"a": votes}, ["a", "b", "c"]) for votes in (1, 2))
    assert 1 / 3 < one["a"] < two["a"] < 1
    assert vote_probabilities({"a": 1, "b": 1}, ["a", "b"]) == pytest.approx({"a": 0.5, "b": 0.5})
    assert sum(two.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["one"], "labels holds 1 label; expected 2 to 26"),
        ([f"l{n}" for n in range(27)], "labels holds 27 labels; expected 2 to 26"),
        (["a", " A"], "hold a duplicate"),
        (["a", ""], "label ''"),
        (["a", 3], "label 3"),
        (["a", "x" * 61], "1 to 60 characters"),
        (["a", "b\nc"], "expected a text"),
        ({"a": "x", "b": 3}, "label 'b' is described by 3"),
        ("ab", "labels is 'ab'; expected texts"),
        (Enum("Number", {"ONE": 1, "TWO": 2}), "label 1"),  # type: ignore[misc]
        ([Outcome.PASSED, "passed "], "hold a duplicate"),
        (None, "labels is None"),
    ],
)
def test_bad_labels_are_refused_before_anything_is_sent(labels: Any, words: str) -> None:
    """The error names what was given and what was expected."""
    with pytest.raises(InvalidRequestError, match=words.replace("(", r"\(")):
        labels_of(labels)


class Judges:
    """A gateway whose models answer as planned: `{alias: [label or error, ...]}`, then repeat the last."""

    def __init__(self, plan: Mapping[str, list[str | LLMError]], shares: Mapping[str, float] | None = None) -> None:
        self._plan = {alias: list(said) for alias, said in plan.items()}
        self._shares = shares or {}
        self.asked: list[tuple[str, float | None]] = []

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[Reply]:
        exchange.requests += 1
        alias = request.target.model.alias
        self.asked.append((alias, request.temperature))
        said = self._plan[alias].pop(0) if len(self._plan[alias]) > 1 else self._plan[alias][0]
        if isinstance(said, LLMError):
            yield Reply(error=said)
            return
        share = self._shares.get(alias)
        other = next(label for label in LABELS if label != said)
        known = tokens((said, {said: share, other: 1 - share})) if share and request.logprobs else []
        usage = Usage(prompt_tokens=100, completion_tokens=1)
        yield Reply(text=said, finish_reason="stop", usage=usage, logprobs=tuple(known))

    async def aclose(self) -> None:
        """There is nothing to close."""

    def load(self) -> None:
        """There is nothing to load."""


def judged(judges: Judges, **task: Any) -> LLMManager:
    """A manager with a weak and a good model, priced 1 and 3; only `openai` gives log-probabilities."""
    rows = {
        "weak": {"model": "openai/weak", "quality": 3, "price": {"input": 1, "output": 1}},
        "good": {"model": "openai/good", "quality": 8, "price": {"input": 3, "output": 3}},
        "mute": {"model": "groq/mute", "quality": 5, "price": {"input": 1, "output": 1}},
    }
    config = {"version": 1, "models": rows, "tasks": {"t": {"models": ["weak", "good"], "retries": 0, **task}}}
    return LLMManager(config=LLMConfig.model_validate(config), gateway=judges, offline=True)


def ask(llm: LLMManager, asynchronous: bool, labels: Any = LABELS, **options: Any) -> Any:
    """Returns one classification, sync or async."""
    if asynchronous:
        return asyncio.run(llm.aclassify("t", "Did it pass?", labels, **options))
    return llm.classify("t", "Did it pass?", labels, **options)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize(
    ("labels", "label"),
    [
        (LABELS, "passed"),
        ({"passed": "as expected", "failed": "not"}, "passed"),
        (Outcome, Outcome.PASSED),
        (Literal["passed", "failed"], "passed"),
        (list(Outcome), Outcome.PASSED),
        ({Outcome.PASSED: "as expected", Outcome.FAILED: ""}, Outcome.PASSED),
        ([" passed", "failed "], " passed"),
    ],
)
def test_one_request_is_enough_where_the_wire_gives_log_probabilities(
    labels: Any, label: Any, asynchronous: bool
) -> None:
    """It uses the task's temperature; the label has the type of those that were given."""
    judges = Judges({"weak": ["passed"]}, {"weak": 0.9})
    with judged(judges) as llm:
        found = ask(llm, asynchronous, labels)
    assert (found.label, found.method, found.model, found.error) == (label, "logprobs", "weak", None)
    assert (found.probabilities[label], found.margin) == (pytest.approx(0.9), pytest.approx(0.8))
    assert (sum(found.votes.values()), len(found.answers), found.cost) == (1, 1, Decimal("0.000101"))
    assert judges.asked == [("weak", 0.0)]


@pytest.mark.parametrize(
    ("said", "label", "requests"),
    [
        (["passed"], "passed", 2),
        (["passed", "failed", "failed"], "failed", 3),
        (["failed", "passed", "failed"], "failed", 3),
    ],
)
def test_votes_decide_elsewhere(said: list[str | LLMError], label: str, requests: int, asynchronous: bool) -> None:
    """Votes use a temperature above 0, and end as soon as the outcome is settled."""
    judges = Judges({"mute": said})
    with judged(judges, models=["mute"]) as llm:
        found = ask(llm, asynchronous)
    assert (found.label, found.method, len(found.answers), sum(found.votes.values())) == (
        label,
        "votes",
        requests,
        requests,
    )
    assert judges.asked == [("mute", 0.7)] * requests
    assert 0.5 < found.confidence < 1


@pytest.mark.parametrize("votes", [1, 2, 3, 4])
def test_no_model_gets_more_requests_than_votes(votes: int, asynchronous: bool) -> None:
    """This holds for alternating answers, too; a tie gives the first answered label with probability one half."""
    judges = Judges({"mute": ["failed", "passed"] * 4})
    with judged(judges, models=["mute"]) as llm:
        found = ask(llm, asynchronous, votes=votes)
    assert (len(judges.asked), len(found.answers), found.label) == (votes, votes, "failed")
    assert (found.confidence == pytest.approx(0.5)) == (votes % 2 == 0)


def test_a_verdict_that_is_not_sure_goes_to_a_better_model(asynchronous: bool) -> None:
    """The result holds all verdicts and the whole cost; the surest verdict is used."""
    judges = Judges({"weak": ["failed"], "good": ["passed"]}, {"weak": 0.6, "good": 0.95})
    with judged(judges) as llm:
        found = ask(llm, asynchronous, min_confidence=0.8)
        assert ask(llm, asynchronous, min_confidence=0.5).model == "weak"
        assert ask(llm, asynchronous, min_confidence=0.99).model == "good"  # there is no better one
        assert ask(llm, asynchronous, min_confidence=0.99, model="weak").model == "weak"
    assert [(one.model, one.label) for one in found.verdicts] == [("weak", "failed"), ("good", "passed")]
    assert (found.label, found.model, found.cost) == ("passed", "good", 4 * Decimal("0.000101"))


def test_a_better_model_that_fails_leaves_what_is_known(asynchronous: bool) -> None:
    """The first verdict is used, with the reason; a failure of the first model fails the call."""
    refused = errors.AuthenticationError("no", status=401)
    with judged(Judges({"weak": ["failed"], "good": [refused]}, {"weak": 0.6})) as llm:
        found = ask(llm, asynchronous, min_confidence=0.8)
        assert (found.label, isinstance(found.error, AllModelsFailedError)) == ("failed", True)
    with judged(Judges({"weak": [refused], "good": [refused]})) as llm, pytest.raises(AllModelsFailedError):
        ask(llm, asynchronous)


def test_max_cost_and_deadline_hold_for_all_requests() -> None:
    """The cost of the first request is subtracted for the next."""
    judges = Judges({"weak": ["failed"], "good": ["passed"]}, {"weak": 0.6, "good": 0.95})
    with judged(judges, max_tokens=10) as llm:
        found = ask(llm, False, min_confidence=0.8, max_cost="0.0029", deadline=60)
    assert len(found.verdicts) == 1
    assert "max_cost" in str(found.error)


@pytest.mark.parametrize(
    "wrong",
    [
        {"votes": 0},
        {"votes": True},
        {"min_confidence": 1.1},
        {"min_confidence": "0.8"},
        {"vote": 3},
        {"schema": int},
        {"sample": "a"},
        {"sample": None},
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any]) -> None:
    """They are errors before anything is sent."""
    judges = Judges({"weak": ["passed"]})
    with judged(judges) as llm, pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        ask(llm, False, **wrong)
    assert not judges.asked


@pytest.mark.parametrize("prompt", ["", "  ", None, 5, []])
def test_a_prompt_that_is_none_is_not_paid(prompt: Any) -> None:
    """An empty prompt is an error, although the instruction with the labels has text."""
    judges = Judges({"weak": ["passed"]})
    with judged(judges) as llm, pytest.raises(InvalidRequestError, match="the prompt is"):
        llm.classify("t", prompt, LABELS)
    assert not judges.asked


ANSWERS = {
    "openai": {
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": '{"result":"failed"}'}}]
    },
    "ollama": {"message": {"role": "assistant", "content": '"failed"'}, "done": True, "done_reason": "stop"},
}


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("wire", ["openai", "azure", "ollama"])
def test_log_probabilities_come_from_what_was_received(api: Any, wire: str) -> None:
    """The most alternatives are requested; they are read from the body and kept with the answer."""
    share = [{"token": one, "logprob": math.log(p)} for one, p in (("failed", 0.9), ("passed", 0.1))]
    quote = [{"token": '"', "logprob": 0.0, "top_logprobs": [{"token": '"', "logprob": 0.0}]}]
    content = [*quote, {"token": "failed", "logprob": math.log(0.9), "top_logprobs": share}, *quote]
    body: dict[str, Any] = {**ANSWERS["ollama" if wire == "ollama" else "openai"]}
    if wire == "ollama":
        body["logprobs"] = content
    else:
        body["choices"] = [{**body["choices"][0], "index": 0, "logprobs": {"content": content}}]
        body |= {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    a = api("a", faults.raw(200, json.dumps(body).encode()))
    with manager({"a": model(wire, a)}, cache="use") as llm:
        found = [llm.classify("t", "Did it pass?", LABELS) for _ in range(2)]
    assert [(one.label, one.method, one.answers[0].cached) for one in found] == [
        ("failed", "logprobs", False),
        ("failed", "logprobs", True),
    ]
    assert found[0].probabilities == found[1].probabilities == pytest.approx({"failed": 0.9, "passed": 0.1})
    (sent,) = a.bodies
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)


@pytest.mark.usefixtures("provider_keys")
def test_a_model_that_refuses_log_probabilities_is_asked_without(api: Any) -> None:
    """Votes are used for it."""
    words = {"error": {"message": "You are not allowed to request logprobs from this model.", "code": None}}
    a = api("a", faults.raw(403, json.dumps(words).encode()), faults.good('{"result": "passed"}'))
    with manager({"a": model("openai", a)}) as llm:
        found = llm.classify("t", "Did it pass?", LABELS)
    assert (found.label, found.method) == ("passed", "votes")
    assert ["logprobs" in body for body in a.bodies][:2] == [True, False]


@pytest.mark.parametrize("logprob", [-9999.0, -800.0, float("-inf")])
def test_a_label_of_hardly_any_probability_is_a_label(logprob: float) -> None:
    """OpenAI reports -9999 for a token that is very unlikely."""
    tokens = [TokenChoice(token="passed", logprob=logprob, others={"The": -0.1})]
    assert token_probabilities(tokens, ["passed", "failed"], "passed") == {"passed": 1.0, "failed": 0.0}


def test_a_vote_that_fails_ends_the_voting(asynchronous: bool) -> None:
    """The votes before it count, and its error is in the result."""
    judges = Judges({"mute": ["passed", ServerError("down")]})
    with judged(judges, models=["mute"]) as llm:
        found = ask(llm, asynchronous, votes=3)
    assert (found.label, len(found.answers), found.votes) == ("passed", 1, {"passed": 1, "failed": 0})
    assert found.error is not None
    assert "down" in str(found.error)


def test_votes_can_differ_if_a_server_leaves_log_probabilities_out(asynchronous: bool) -> None:
    """The first request counts as a vote; the others are sampled."""
    judges = Judges({"weak": ["passed"]})
    with judged(judges, models=["weak"]) as llm:
        assert ask(llm, asynchronous).method == "votes"
    assert [temperature for _, temperature in judges.asked] == [0.0, SAMPLING]


def test_the_trace_says_why_a_better_model_was_asked(asynchronous: bool) -> None:
    """Its attempts have the reason."""
    judges = Judges({"weak": ["passed"], "good": ["failed"]}, {"weak": 0.6, "good": 0.9})
    with judged(judges) as llm:
        found = ask(llm, asynchronous, min_confidence=0.8)
    (attempt,) = found.answers[0].attempts
    assert attempt.reason == "weak was 60% sure, below min_confidence 0.8"
