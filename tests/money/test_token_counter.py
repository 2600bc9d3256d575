"""Tokens of a call before it is sent: counted offline, and corrected by the usage of answers."""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_kit import a_model as model

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.money import token_counter
from testronaut_llm.money.token_counter import KEPT, VOCABULARIES, TokenCounter, count, family_of, memory_key
from testronaut_llm.records import Message, Usage

FRANCE = "What is the capital of France?"
CLAUDE = "anthropic/claude-haiku-4-5"
LISTING = "total 8\ndrwxr-xr-x 2 root root 4096 Jan  1 00:00 bin\n-rw-r--r-- 1 root root  220 Jan  1 00:00 .profile\n"


def prompt(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """Returns a conversation: a user's message, an answer, a user's message, and so on."""
    turns = [Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(texts)]
    return (*([Message(role="system", content=system)] if system else []), *turns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tokens.jsonl"


@pytest.fixture
def counter(path: Path) -> TokenCounter:
    return TokenCounter(path)


# Charged by the providers, as their public documentation and recorded answers show.
@pytest.mark.parametrize(
    ("who", "messages", "charged"),
    [
        (model("openai/gpt-4o"), prompt(FRANCE), 14),
        (model("openai/gpt-3.5-turbo"), prompt(FRANCE, system="You are a helpful assistant."), 24),
        (model("openai/ft:gpt-4o-mini-2024-07-18:acme::x"), prompt(FRANCE), 14),
        (model("openai/text-embedding-3-small"), prompt("hello world"), 2),
        (model("azure/mine", base_model="gpt-5"), prompt(FRANCE), 13),
        (model("azure/mine"), prompt(FRANCE), 14),  # as OpenAI's usual one
        (model(CLAUDE), prompt(FRANCE), 14),
        (model(CLAUDE), prompt(FRANCE, "{"), 15),
        (model(CLAUDE, reasoning="low"), prompt(FRANCE), 14 + 29),
        (model("ollama/llama3.1"), prompt("Hey! How are you?"), 16),
        (model("embedded/smollm2-135m"), prompt("Say hello."), 33),
        (model("embedded/smollm2-135m"), prompt("Say hello.", system="You check command-line tools. Be brief."), 27),
    ],
)
def test_short_prompts_are_counted_to_the_token(counter: TokenCounter, who: Any, messages: Any, charged: int) -> None:
    assert counter.estimate(who, messages) == charged


@pytest.mark.parametrize(
    ("names", "family", "key"),
    [
        ("anthropic/claude-sonnet-4-20250514 anthropic/claude-haiku-4-5", "claude", "anthropic:claude"),
        ("openrouter/anthropic/claude-3.5-sonnet", "claude", "openrouter:claude"),  # a provider has its own framing
        ("anthropic/claude-opus-4-7-20260416 anthropic/claude-sonnet-5-5", "claude-5", "anthropic:claude-5"),
        ("groq/openai/gpt-oss-120b", "gpt-oss", "groq:gpt-oss"), ("openai/gpt-4.1-mini", "openai", "openai:openai"),
        ("ollama/gemma3:1b", "gemma", "ollama:gemma3"),  # a local model has its own chat template
        ("openai/o1 openai/gpt-6-luna", "openai-reasoning", "openai:openai-reasoning"),
        ("mistral/mistral-small-latest", "", "mistral:mistral-small-latest"),
    ],
)  # fmt: skip
def test_names_find_their_family_and_what_it_has_learned(names: str, family: str, key: str) -> None:
    found = {(family_of(one).name, memory_key(one, family_of(one))) for one in map(model, names.split())}
    assert found == {(family, key)}


def test_system_text_and_schema_count(counter: TokenCounter) -> None:
    schema = json.dumps({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})
    for who in map(model, ("openai/gpt-4o", CLAUDE, "anthropic/claude-sonnet-5-5")):
        plain = counter.estimate(who, prompt(FRANCE))
        assert counter.estimate(who, prompt(FRANCE, system="Answer in one word.")) > plain
        assert counter.estimate(who, prompt(FRANCE), schema) > plain + 10
    llama = model("ollama/llama3.1")
    assert counter.estimate(llama, prompt(FRANCE), schema) == counter.estimate(llama, prompt(FRANCE))
    assert counter.estimate(model("ollama/all-minilm"), prompt("hello world"), embedding=True) == 2


def test_vocabularies_are_read_from_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched (a test that tries fails), no tiktoken cache is written, and no variable is set."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    assert all(token_counter._encoding.__wrapped__(name).encode_ordinary("hello") for name in VOCABULARIES)
    assert (before, list(tmp_path.iterdir())) == (dict(os.environ), [])


def test_without_the_vocabularies_tokens_are_guessed_from_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VOCABULARIES, "o200k", {"file": "no-such-file", "pattern": ""})
    monkeypatch.setattr(token_counter, "_encoding", token_counter._encoding.__wrapped__)
    assert [count.__wrapped__("o200k", "x" * length) for length in (36, 0)] == [10, 0]


def test_no_text_breaks_the_tokenizer() -> None:
    """A million spaces, special tokens and broken surrogates are counted (tiktoken alone panics on the first)."""
    for text, least in ((" " * 1_000_000, 1), ("<|endoftext|>", 2), ("\ud800", 1)):
        assert count("o200k", text) >= least


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=400), vocabulary=st.sampled_from([*VOCABULARIES, "p50k-digits"]))
def test_the_upper_bound_holds(text: str, vocabulary: Any) -> None:
    bound = TokenCounter().upper_bound([Message(role="user", content=text)])
    assert count(vocabulary, text) <= bound - 256


def test_estimates_never_exceed_the_bound(counter: TokenCounter) -> None:
    """This holds for any family, with thinking and a schema, and for characters that become eighteen."""
    schema = json.dumps({"type": "object", "properties": {f"field_{n}": {"type": "string"} for n in range(20)}})
    messages = prompt(LISTING, "A listing.", FRANCE, system="Be brief.")
    for name in ("openai/gpt-4o", CLAUDE):
        assert counter.estimate(model(name, reasoning="high"), messages, schema) < counter.upper_bound(messages, schema)
    assert counter.upper_bound(prompt("\ufdfa" * 100)) > 100 * len("\ufdfa".encode())
    names = ("openai/gpt-4o", "anthropic/claude-sonnet-5", "xai/grok-9")
    assert [counter.cautious(model(name), 1000) for name in names] == [1020, 1150, 1300]  # larger for a guess


@pytest.mark.parametrize(("slope", "offset"), [(1.4, 30), (0.8, 10)])
def test_an_unknown_family_is_learned_in_a_few_calls(counter: TokenCounter, slope: float, offset: float) -> None:
    who, errors = model("xai/grok-9"), []
    for repeated in (30, 6, 50, 2, 20, 90, 4):
        messages = prompt("analyse the output of this command and list every flag " * repeated)
        charged = round(offset + slope * count(family_of(who).vocabulary, messages[0].content))
        estimate = counter.estimate(who, messages)
        counter.observe("cli_analysis", who, estimate, Usage(prompt_tokens=charged, completion_tokens=20))
        errors.append(abs(estimate - charged) / charged)
    assert max(errors[:3]) > 0.1
    assert max(errors[4:]) < 0.05


def test_outliers_do_not_move_the_estimate(counter: TokenCounter) -> None:
    """One prompt in six with uncounted content does not change the estimates of the others."""
    who = model(CLAUDE)
    before = {n: counter.estimate(who, prompt(LISTING * n)) for n in range(1, 25)}
    for n, charged in before.items():
        estimate = counter.estimate(who, prompt(LISTING * n))
        counter.observe("t", who, estimate, Usage(prompt_tokens=charged + (2000 if n % 6 == 0 else 0)))
    assert abs(counter.estimate(who, prompt(LISTING * 5)) - before[5]) / before[5] < 0.04
    exact = model("openai/gpt-4o")
    for charged in (5, 500, 500, 500, 500, 500):
        counter.observe("t", exact, counter.estimate(exact, prompt(LISTING)), Usage(prompt_tokens=charged))
    assert counter.estimate(exact, prompt(FRANCE)) == 14  # where the tokenizer is the provider's own


def test_only_reported_usage_of_our_own_estimates_teaches(path: Path, counter: TokenCounter) -> None:
    who = model("xai/grok-9")
    estimate = counter.estimate(who, prompt(FRANCE))
    counter.observe("t", who, estimate, Usage(prompt_tokens=900, completion_tokens=900, estimated=True))
    counter.observe("t", who, estimate, Usage())
    counter.observe("t", who, estimate + 7777, Usage(prompt_tokens=900))
    assert not path.exists()


def test_models_with_equal_estimates_learn_apart(counter: TokenCounter) -> None:
    first, second = [ModelConfig(alias=name, model=f"{name}/grok-9") for name in ("xai", "groq")]
    estimate, same = [counter.estimate(one, prompt(FRANCE)) for one in (first, second)]
    assert estimate == same
    counter.observe("t", first, estimate, Usage(prompt_tokens=90))
    assert [len(counter._points[f"{name}:grok-9"]) for name in ("xai", "groq")] == [1, 0]


def test_an_answers_length_is_the_mean_of_earlier_ones(counter: TokenCounter) -> None:
    """First an eighth of max_tokens, then the mean of the task, then that of task and model."""
    mine, other = model("openai/gpt-4o"), model("openai/gpt-4o-mini")
    assert [counter.answer_length("cli_analysis", mine, most) for most in (4096, 4)] == [512, 1]
    for length in (40, 50, 6000):
        counter.observe("cli_analysis", other, 0, Usage(prompt_tokens=1, completion_tokens=length))
    assert counter.answer_length("cli_analysis", mine, 4096) == round((40 + 50 + 4096) / 3)  # as long as it may be
    counter.observe("cli_analysis", mine, 0, Usage(prompt_tokens=1, completion_tokens=300))
    assert [counter.answer_length("cli_analysis", mine, most) for most in (4096, 200)] == [300, 200]
    assert counter.answer_length("test_generation", mine, 4096) == 512


def learn(counter: TokenCounter, *charged: int) -> None:
    who = model("xai/grok-9")
    for number in charged:
        estimate = counter.estimate(who, prompt(LISTING))
        counter.observe("t", who, estimate, Usage(prompt_tokens=number, completion_tokens=3))


def points(path: Path, who: str = "xai:grok-9") -> list[int]:
    """Returns what a new process knows of the charges of a model."""
    counter = TokenCounter(path)
    counter.answer_length("t", model("xai/grok-9"), 9)
    return [charged + 5 for _, charged in counter._points[who]]  # beyond the framing


def test_what_was_learned_survives_the_process(path: Path, counter: TokenCounter) -> None:
    who = model("xai/grok-9")
    before = counter.estimate(who, prompt(LISTING))
    learn(counter, *[2 * before] * 5)
    assert path.read_text().count("\n") == 5
    again = TokenCounter(path)
    assert again.estimate(who, prompt(LISTING)) == counter.estimate(who, prompt(LISTING)) == 2 * before
    assert again.answer_length("t", who, 800) == 3
    others = [again, TokenCounter(path), TokenCounter(path)]  # of processes that write at once
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: learn(others[n % 3], n), range(100, 130)))
    assert sorted(points(path)[2:]) == list(range(100, 130))


def test_memory_and_file_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file is shortened when it is read; estimates whose answers never arrive are forgotten."""
    learn(TokenCounter(path), *range(100, 109 + KEPT))
    assert points(path) == list(range(109, 109 + KEPT))
    size = path.stat().st_size
    monkeypatch.setattr(token_counter, "_LARGEST_FILE", size // 2)
    assert points(path) == list(range(120, 109 + KEPT))
    assert path.stat().st_size < size * 0.6
    monkeypatch.setattr(token_counter, "_ESTIMATES", 2)
    counter = TokenCounter(path)
    for n in range(9):
        counter.estimate(model("openai/gpt-4o"), prompt("x " * n))
    assert len(counter._estimates) == 2


def test_a_damaged_line_is_skipped(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learn(TokenCounter(path), 70)
    with path.open("ab") as file:
        file.write(b"[" * 99_999 + b'\n{\n[]\n3\n["xai:grok-9", "x", 1, "t", "m", 2]\n[[], 1, 1, "t", "m", 2]\n\xff\n')
    learn(TokenCounter(path), 80)
    assert points(path) == [70, 80]
    assert caplog.text.count("token_memory_unreadable") == 2  # one for each counter


def test_a_folder_that_cannot_be_used_costs_no_call(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_text("")
    counter = TokenCounter(path / "tokens.jsonl")
    learn(counter, 70, 80)
    assert len(counter._points["xai:grok-9"]) == 2
    assert len(caplog.messages) == 1
