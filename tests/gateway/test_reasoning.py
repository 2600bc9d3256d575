"""Reasoning in tags is split from the answer."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testronaut_llm.support.text import TAGS, ReasoningFilter, split, tags_for


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\n<think>a</think>\n\nHello\n", "Hello\n"),
        ("<think></think>\n<think>b</think>Hello", "Hello"),
        ("<think>it never ends", ""),
        ("a</think>b</think>c", "b</think>c"),
        ("a < b, <thin> and <think", "a < b, <thin> and <think"),
        ("Write <think>a</think> and then b.", "Write <think>a</think> and then b."),
        ('{"a": "</think>"}', '{"a": "</think>"}'),
        ('{"a": 1}? No.</think>{"a": 2}', '{"a": 2}'),
        ("\u0130stanbul</think>Hello", "Hello"),
    ],
)
def test_the_answer_follows_the_reasoning(text: str, answer: str) -> None:
    """A closing tag without an opening one ends reasoning; a pair inside a text, or JSON, is text."""
    reasoning, found = split(text)
    assert found == answer
    assert reasoning + found == text


def test_each_pair_of_tags_is_known_unless_the_prompt_holds_it() -> None:
    """Each pair is split off, with the opening tag and without it; a tag of the prompt is text."""
    for opening, closing in TAGS.items():
        assert split(f"{opening}a{closing}\nHello")[1] == split(f"a\n{closing}\nHello")[1] == "Hello"
    tags = tags_for(["What is </think>?", "hi"])
    assert split("a</think>b", tags)[1] == "a</think>b"
    assert split("a[/THINK]b", tags)[1] == "b"


_TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<thi", "nk>", "[THINK]", "[/THINK]", "a", " ", "\n", "<"]))


@given(_TEXTS)
@example(["<thi", "nk>", "a", "</think>", "b"])
def test_reasoning_is_split_off_however_a_text_is_cut(pieces: list[str]) -> None:
    text, stream = "".join(pieces), ReasoningFilter(TAGS)
    handed_out = "".join(map(stream.take, pieces)) + stream.end()
    once = ReasoningFilter(TAGS)
    assert handed_out == once.take(text) + once.end()
    assert handed_out.endswith(split(text)[1])
