"""Reasoning in front of an answer is told from the answer, in one text and in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testronaut_llm.support.reasoning import TAGS, ReasoningFilter, split, tags_for


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Hello", "Hello"),
        ("  Hello\n", "  Hello\n"),
        ("", ""),
        ("\n<think>a</think>\n\nHello\n", "Hello\n"),
        ("<think></think>\n<think>b</think>Hello", "Hello"),
        ("<think>it never ends", ""),
        ("a</think>b</think>c", "b</think>c"),
        ("a < b, <thin> and <think", "a < b, <thin> and <think"),
        ("<thin", "<thin"),
        ("Write <think>a</think> and then b.", "Write <think>a</think> and then b."),
        ('{"a": "</think>"}', '{"a": "</think>"}'),
        ('["</think>"]', '["</think>"]'),
        ('{"a": 1}? No.</think>{"a": 2}', '{"a": 2}'),
        ("\u0130stanbul</think>Hello", "Hello"),
    ],
)
def test_the_answer_follows_the_reasoning(text: str, answer: str) -> None:
    """A closing tag without an opening one ends reasoning; a pair in the middle of a text, or JSON, is text."""
    reasoning, found = split(text)
    assert found == answer
    assert reasoning + found == text


@pytest.mark.parametrize("opening", TAGS)
def test_each_pair_of_tags_is_known(opening: str) -> None:
    """With the opening tag and without it."""
    closing = TAGS[opening]
    assert split(f"{opening}a{closing}\nHello")[1] == "Hello"
    assert split(f"a\n{closing}\nHello")[1] == "Hello"


def test_a_prompt_that_speaks_of_a_tag_keeps_it() -> None:
    """The other tags are looked for as ever."""
    tags = tags_for(["What is </think>?", "hi"])
    assert split("a</think>b", tags)[1] == "a</think>b"
    assert split("a[/THINK]b", tags)[1] == "b"


_TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<thi", "nk>", "[THINK]", "[/THINK]", "a", " ", "\n", "<"]))


@given(_TEXTS)
def test_pieces_and_whole_agree(pieces: list[str]) -> None:
    """However a text is cut into pieces, the same is handed out, and what is split off later is reasoning."""
    text, stream = "".join(pieces), ReasoningFilter(TAGS)
    handed_out = "".join(map(stream.take, pieces)) + stream.end()
    once = ReasoningFilter(TAGS)
    assert handed_out == once.take(text) + once.end()
    assert handed_out.endswith(split(text)[1])
