"""YAML with places, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from testronaut_llm.config.yaml_reader import MAX_DEPTH, read_yaml
from testronaut_llm.errors import ConfigError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_plain_documents_read_as_pyyaml_reads_them() -> None:
    """Block and flow style, quotes, literal text, aliases and merges."""
    text = """
a: {b: [1, 2.5, "x", 'y'], c: null}
d: &d
  e: |
    two
    lines
  f: >-
    folded
    text
g: *d
h: {<<: *d, f: own}
i: [{j: 1}, [2]]
l: {<<: [{m: 1, n: 1}, {n: 2, o: 2}]}
"""
    assert read_yaml(text).data == yaml.safe_load(text)


def test_every_value_has_its_line() -> None:
    """The line is that of the key, or of the list item."""
    document = read_yaml("a: 1\nb:\n  c: [x,\n    y]\n  d:\n    - 1\n    - 2\n")
    wanted = {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 1): 4, ("b", "d", 1): 7}
    assert {where: document.line_of(where) for where in wanted} == wanted
    assert document.line_of(("b", "missing", "deeper")) == 2
    assert read_yaml("").line_of(("a",)) is None


def test_places_hold_the_exact_text() -> None:
    """Characters are counted, not bytes, and a block ends with its last value."""
    text = "é: '😀'  # c\nb:\n  - x\n  - yy   # note\n# end\nc: {k: v}\n"
    places = read_yaml(text).places
    cut = {where: text[place.start : place.end] for where, place in places.items()}
    assert cut["é",] == "'😀'"
    assert cut["b",] == "- x\n  - yy"
    assert cut["c",] == "{k: v}"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [\n", 3, "is not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "is not valid YAML"),
        ("a: 1\nb: 'x\x00'\n", 2, "no YAML text may hold"),
        ("a: \ud800\n", 1, "no YAML text may hold"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("x: 1\na: !!python/object/apply:os.system ['true']\n", 2, "has the tag"),
        ("a: !env KEY\n", 1, "has the tag"),
        ("a: *nowhere\n", 1, "not defined above it"),
        ("a: &a [*a]\n", 1, "not defined above it"),
        ("x: 1\n? [a, b]\n: c\n", 2, "not plain text"),
        ("{a: 1}: 2\n", 1, "not plain text"),
        ("&k key: 1\n", 1, "not plain text"),
        ("<<: 3\n", 1, "is not a mapping"),
        (BOMB, 4, "more than 10,000 values"),
        ("[" * 500, 1, f"more than {MAX_DEPTH} levels"),
        ("[" * 10_000, 1, f"more than {MAX_DEPTH} levels|maximum nesting depth"),  # the latter is PyYAML 6.0.4's
        ("- " * 10_000, 1, f"more than {MAX_DEPTH} levels"),
        ("{a: " * 10_000, 1, f"more than {MAX_DEPTH} levels"),
        ("- x\n" * 25_000, 10_000, "more than 10,000 values"),
        ("#" * 1_000_001, None, "larger than 1,000,000"),
    ],
)
def test_what_has_no_place_in_a_configuration_is_refused_with_its_line(text: str, line: int | None, words: str) -> None:
    """Bombs, tags, strange keys and broken text each end in one clear error."""
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(text, "llm.yaml")
    assert (caught.value.file, caught.value.line) == ("llm.yaml", line)
    assert len(str(caught.value)) < 300


def test_faults_that_leave_the_text_readable_are_noted() -> None:
    """A key given twice and keys that are no text are faults among others; the first value stands."""
    document = read_yaml("a: 1\nb: {c: 1, c: [2]}\n1: x\ntrue: y\n'2': z\n")
    assert [(fault.where, fault.line) for fault in document.faults] == [(("b", "c"), 2), ((), 3), ((), 4)]
    assert "line 2" in document.faults[0].message
    assert document.data["b"] == {"c": 1}
    assert document.data["2"] == "z"


def test_empty_texts_are_nothing() -> None:
    """An empty file and one of comments read as None."""
    assert read_yaml("").data is None
    assert read_yaml("# only\n").data is None
    assert read_yaml("\n---\n").data is None


def test_without_the_c_library_it_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyYAML built without libyaml gives the same data and places."""
    text = "a: &x {b: [1, 'two']}\nc: *x\nd: |\n  text\n"
    fast = read_yaml(text)
    monkeypatch.delattr(yaml, "CSafeLoader")
    slow = read_yaml(text)
    assert (fast.data, fast.places) == (slow.data, slow.places)
    with pytest.raises(ConfigError, match="no YAML text may hold"):
        read_yaml("a: \x00")
