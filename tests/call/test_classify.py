"""`classify` returns the label that fits with its probability, by log-probabilities or by votes."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
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
from testronaut_llm.methods.classify import SAMPLING, labels_of, token_probabilities
from testronaut_llm.records import TokenChoice, Usage
from testronaut_llm.testing.fake import FakeAnswer, FakeGateway

LABELS = ["passed", "failed"]


class Outcome(Enum):
    PASSED = "passed"
    FAILED = "failed"


def tokens(*said: tuple[str, dict[str, float]]) -> list[TokenChoice]:
    """Returns the tokens of an answer, each with its alternatives and their probabilities, its own included."""
    logs = [(token, {other: math.log(share) for other, share in others.items()}) for token, others in said]
    return [TokenChoice(token=token, logprob=others[token], others=others) for token, others in logs]


TOKENS: dict[str, tuple[dict[str, float], list[TokenChoice]]] = {
    "in JSON": ({"passed": 0.9, "failed": 0.1}, tokens(
        ('{"a":"', {'{"a":"': 1}), ("pass", {"pass": 0.9, "fail": 0.1}), ('ed"', {'ed"': 1}))),
    "what no label begins with does not count": ({"passed": 0.75, "failed": 0.25}, tokens(
        ("passed", {"The": 0.6, "passed": 0.3, "failed": 0.1}))),
    "a shared first token": ({"failed": 0.7, "faulty": 0.3}, tokens(
        ('"', {'"': 1}), ("fa", {"fa": 1}), ("iled", {"iled": 0.7, "ulty": 0.3}), ('"', {'"': 1}))),
    "a label that is also a key of the answer": ({"error": 0.9, "result": 0.1}, tokens(
        ('{"result":"', {'{"result":"': 1}), ("error", {"error": 0.9, "result": 0.1}), ('"}', {'"}': 1}))),
    "one label begins another": ({"pass": 0.8, "passed": 0.2}, tokens(
        ('"', {'"': 1}), ("pass", {"pass": 1}), ('"', {'"': 0.8, "ed": 0.2}))),
    "another way to spell the answer": ({"passed": 0.8, "failed": 0.2}, tokens(
        ("pass", {"pass": 0.5, "passed": 0.3, "failed": 0.2}), ("ed", {"ed": 1}))),
    "an alternative of two labels": ({"yes": 0.6, "not sure": 0.2, "no": 0.2}, tokens(
        ("yes", {"yes": 0.6, "no": 0.4}))),
}  # fmt: skip
"""The probability of each label, and the tokens of an answer that is the first one."""


@pytest.mark.parametrize("case", TOKENS)
def test_a_labels_probability_is_that_of_its_tokens(case: str) -> None:
    expected, said = TOKENS[case]
    labels = list(expected)
    assert token_probabilities(said, labels, labels[0]) == pytest.approx(expected)


def test_tokens_without_a_label_prove_nothing() -> None:
    """If no token is a label, votes are used. OpenAI's -9999, for a token that is very unlikely, is a label."""
    assert token_probabilities([], LABELS, "passed") is None
    assert token_probabilities(tokens(("maybe", {"maybe": 1})), LABELS, "passed") is None
    for logprob in (-9999.0, float("-inf")):
        unlikely = [TokenChoice(token="passed", logprob=logprob, others={"The": -0.1})]
        assert token_probabilities(unlikely, LABELS, "passed") == {"passed": 1.0, "failed": 0.0}


@pytest.mark.parametrize(("labels", "words"), [
    (["one"], "labels holds 1 label; expected 2 to 26"),
    (["a", " A"], "hold a duplicate"),
    (["a", 3], "label 3"),
    (["a", "b\nc"], "one line of 1 to 60"),
    (["a", "x" * 61], "one line of 1 to 60 characters"),
    ({"a": "x", "b": 3}, "label 'b' is described by 3"),
    ("ab", "labels is 'ab'; expected texts"),
    (None, "labels is None"),
])  # fmt: skip
def test_bad_labels_are_refused(labels: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        labels_of(labels)


class Judges(FakeGateway):
    """Fake models that answer as planned; those with a share also give log-probabilities."""

    def __init__(self, plan: Mapping[str, list[str | LLMError]], shares: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.shares = shares or {}
        usage = Usage(prompt_tokens=100, completion_tokens=1)
        for alias, said in plan.items():
            answers = [FakeAnswer(text=one, usage=usage) if isinstance(one, str) else one for one in said]
            self.reply(*answers, model=alias)

    @property
    def asked(self) -> list[tuple[str, float | None]]:
        return [(call.model, call.temperature) for call in self.calls]

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[str | Reply]:
        async for part in super().send(request, exchange):
            share = self.shares.get(request.target.model.alias)
            if isinstance(part, Reply) and share and request.logprobs:
                other = next(label for label in LABELS if label != part.text)
                part = replace(part, logprobs=tuple(tokens((part.text, {part.text: share, other: 1 - share}))))
            yield part


def judged(judges: Judges, **task: Any) -> LLMManager:
    """A manager with a weak and a good model, priced 1 and 3; only `openai` gives log-probabilities."""
    rows = {
        "weak": {"model": "openai/weak", "quality": 3, "price": {"input": 1, "output": 1}},
        "good": {"model": "openai/good", "quality": 8, "price": {"input": 3, "output": 3}},
        "mute": {"model": "groq/mute", "quality": 5, "price": {"input": 1, "output": 1}},
    }
    config = {"version": 1, "models": rows, "tasks": {"t": {"models": ["weak", "good"], "retries": 0, **task}}}
    return LLMManager(config=LLMConfig.model_validate(config), gateway=judges, offline=True)


def ask(llm: LLMManager, labels: Any = LABELS, **options: Any) -> Any:
    return llm.classify("t", "Did it pass?", labels, **options)


@pytest.mark.parametrize(("labels", "label"), [
    (LABELS, "passed"),
    ({"passed": "as expected", "failed": "not"}, "passed"),
    (Outcome, Outcome.PASSED),
    (Literal["passed", "failed"], "passed"),
    ({Outcome.PASSED: "as expected", Outcome.FAILED: ""}, Outcome.PASSED),
    ([" passed", "failed "], " passed"),
])  # fmt: skip
async def test_one_request_is_enough_where_the_wire_gives_log_probabilities(labels: Any, label: Any) -> None:
    judges = Judges({"weak": ["passed"]}, {"weak": 0.9})
    with judged(judges) as llm:
        found = ask(llm, labels)
        assert (await llm.aclassify("t", "Did it pass?", labels)).probabilities == found.probabilities
    assert (found.label, found.method, found.model, found.error) == (label, "logprobs", "weak", None)
    assert (found.probabilities[label], found.margin) == (pytest.approx(0.9), pytest.approx(0.8))
    assert (sum(found.votes.values()), len(found.answers), found.cost) == (1, 1, Decimal("0.000101"))
    assert judges.asked == [("weak", 0.0)] * 2


@pytest.mark.parametrize(("said", "votes", "label", "requests", "confidence"), [
    (["passed"], 3, "passed", 2, 16 / 17),
    (["passed", "failed", "failed"], 3, "failed", 3, 4 / 5),
    (["failed", "passed"] * 2, 4, "failed", 4, 1 / 2),
])  # fmt: skip
def test_votes_decide_elsewhere(said: list[Any], votes: int, label: str, requests: int, confidence: float) -> None:
    """Votes are sampled, and end when the outcome is settled; in a tie the label that was answered first wins."""
    judges = Judges({"mute": said})
    with judged(judges, models=["mute"]) as llm:
        found = ask(llm, votes=votes)
    assert (found.label, found.method, len(found.answers)) == (label, "votes", requests)
    assert (sum(found.votes.values()), found.confidence) == (requests, pytest.approx(confidence))
    assert judges.asked == [("mute", SAMPLING)] * requests


def test_a_verdict_that_is_not_sure_goes_to_a_better_model() -> None:
    """The result holds all verdicts, the whole cost and the reason; the surest verdict is used."""
    judges = Judges({"weak": ["failed"], "good": ["passed"]}, {"weak": 0.6, "good": 0.95})
    with judged(judges) as llm:
        found = ask(llm, min_confidence=0.8)
        assert ask(llm, min_confidence=0.5).model == "weak"
        assert ask(llm, min_confidence=0.99).model == "good"  # there is no better one
        assert ask(llm, min_confidence=0.99, model="weak").model == "weak"
    assert [(one.model, one.label) for one in found.verdicts] == [("weak", "failed"), ("good", "passed")]
    assert (found.label, found.model, found.cost) == ("passed", "good", 4 * Decimal("0.000101"))
    (attempt,) = found.answers[0].attempts
    assert attempt.reason == "weak was 60% sure, below min_confidence 0.8"


def test_a_better_model_that_fails_or_costs_too_much_leaves_what_is_known() -> None:
    refused = errors.AuthenticationError("no", status=401)
    with judged(Judges({"weak": ["failed", refused], "good": [refused]}, {"weak": 0.6})) as llm:
        found = ask(llm, min_confidence=0.8)
        assert (found.label, isinstance(found.error, AllModelsFailedError)) == ("failed", True)
        with pytest.raises(AllModelsFailedError):
            ask(llm)
    with judged(Judges({"weak": ["failed"], "good": ["passed"]}, {"weak": 0.6}), max_tokens=10) as llm:
        found = ask(llm, min_confidence=0.8, max_cost="0.0029", deadline=60)
    assert (len(found.verdicts), "max_cost" in str(found.error)) == (1, True)


def test_requests_that_failed_count_for_cost_and_limit() -> None:
    """The second vote fails twice; what is left is too little for the better model."""
    judges = Judges({"mute": ["passed", "no label"], "good": ["passed"]})
    with judged(judges, models=["mute", "good"], max_tokens=10) as llm:
        found = ask(llm, min_confidence=0.999, max_cost="0.003")
        assert isinstance(found.error, LLMError)
        assert "max_cost" in str(found.error)
        assert [model for model, _ in judges.asked] == ["mute"] * 3
        assert found.cost == llm.session.cost == Decimal("0.000303")


@pytest.mark.parametrize(
    ("name", "given"), [("votes", 0), ("min_confidence", 1.1), ("vote", 3), ("schema", int), ("prompt", "  ")]
)
def test_what_is_wrong_is_named_and_not_paid(name: str, given: Any) -> None:
    """An empty prompt is an error, although the instruction with the labels has text."""
    judges = Judges({"weak": ["passed"]})
    with judged(judges) as llm, pytest.raises(InvalidRequestError, match=name):
        llm.classify("t", **{"prompt": "Did it pass?", "labels": LABELS, name: given})
    assert not judges.asked


@pytest.mark.usefixtures("provider_keys")
@pytest.mark.parametrize("wire", ["openai", "azure", "ollama"])
def test_log_probabilities_come_from_what_was_received(api: Any, wire: str) -> None:
    share = [{"token": one, "logprob": math.log(p)} for one, p in (("failed", 0.9), ("passed", 0.1))]
    quote = [{"token": '"', "logprob": 0.0, "top_logprobs": [{"token": '"', "logprob": 0.0}]}]
    content = [*quote, {"token": "failed", "logprob": math.log(0.9), "top_logprobs": share}, *quote]
    message = {"role": "assistant", "content": '"failed"' if wire == "ollama" else '{"result":"failed"}'}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    if wire == "ollama":
        body = {"message": message, "done": True, "done_reason": "stop", "logprobs": content}
    a = api("a", faults.raw(200, json.dumps(body).encode()))
    with manager({"a": model(wire, a)}, cache="use") as llm:
        found = [llm.classify("t", "Did it pass?", LABELS) for _ in range(2)]
    assert [(one.label, one.method) for one in found] == [("failed", "logprobs")] * 2
    assert [one.answers[0].cached for one in found] == [False, True]
    assert found[0].probabilities == found[1].probabilities == pytest.approx({"failed": 0.9, "passed": 0.1})
    (sent,) = a.bodies
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 20)


@pytest.mark.usefixtures("provider_keys")
def test_a_model_that_refuses_log_probabilities_is_asked_without(api: Any) -> None:
    words = {"error": {"message": "You are not allowed to request logprobs from this model.", "code": None}}
    a = api("a", faults.raw(403, json.dumps(words).encode()), faults.good('{"result": "passed"}'))
    with manager({"a": model("openai", a)}) as llm:
        found = llm.classify("t", "Did it pass?", LABELS)
    assert (found.label, found.method) == ("passed", "votes")
    assert ["logprobs" in body for body in a.bodies][:2] == [True, False]


def test_a_vote_that_fails_ends_the_voting() -> None:
    """The first request, which asks for log-probabilities, counts as a vote; the others are sampled."""
    judges = Judges({"weak": ["passed", ServerError("down")]})
    with judged(judges, models=["weak"]) as llm:
        found = ask(llm)
    assert (found.label, found.method, found.votes) == ("passed", "votes", {"passed": 1, "failed": 0})
    assert "down" in str(found.error)
    assert judges.asked == [("weak", 0.0), ("weak", SAMPLING)]
