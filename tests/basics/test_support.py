"""Small helpers: atomic writes, and reasoning split from the answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testronaut_llm.support.paths import write_atomically
from testronaut_llm.support.reasoning import TAGS, ReasoningFilter, split, tags_for


def test_a_new_file_is_private_and_an_old_one_keeps_its_mode(tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "link"
    write_atomically(path, "a\r\nb\né")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == ("a\r\nb\né".encode(), 0o600)
    path.chmod(0o644)
    link.symlink_to(path)
    write_atomically(link, "two")
    assert (link.is_symlink(), path.read_text(), path.stat().st_mode & 0o777) == (True, "two", 0o644)
    write_atomically(path, "three", mode=0o640)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Hello", "Hello"),
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
