"""YAML with the line of each value, refused constructs, and edits of one value only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from testronaut_llm.config import source as config_source
from testronaut_llm.config.source import load_config, set_value
from testronaut_llm.config.trust import is_trusted, trust
from testronaut_llm.config.yaml_text import MAX_DEPTH, edited, read_yaml
from testronaut_llm.errors import ConfigError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_plain_documents_read_as_pyyaml_reads_them() -> None:
    text = """
a: {b: [1, 2.5, "x", 'y'], c: null}
d: &d
  e: |
    two
    lines
  f: text
g: *d
h: {<<: *d, f: own}
l: {<<: [{m: 1, n: 1}, {n: 2, o: 2}]}
"""
    assert read_yaml(text).data == yaml.safe_load(text)
    assert [read_yaml(empty).data for empty in ("", "# only\n", "\n---\n")] == [None] * 3
    assert read_yaml("1: x\ntrue: '2'\noff: {50256: -1}\n").data == {"1": "x", "true": "2", "off": {"50256": -1}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [\n", 3, "is not valid YAML"),
        ("a: 1\nb: 'x\x00'\n", 2, "not allowed in YAML"),
        ("a: \ud800\n", 1, "not allowed in YAML"),
        ("a: 1\n---\nb: 2\n", 2, "is not valid YAML: expected a single document in the stream, but found"),
        ("x: 1\na: !!python/object/apply:os.system ['true']\n", 2, "has the tag"),
        ("a: *nowhere\n", 1, "found undefined alias"),
        ("a: &a [*a]\n", 1, f"more than {MAX_DEPTH} levels"),
        ("x: 1\n? [a, b]\n: c\n", 2, "not plain text"),
        ("!t a: 2\n", 1, "not plain text"),
        ("<<: 3\n", 1, "is not a mapping"),
        (BOMB, 1, "more than 10,000 values"),
        ("{a: " * 200_000, 1, f"more than {MAX_DEPTH} levels|maximum nesting depth"),  # the latter is PyYAML 6.0.4's
        ("- x\n" * 25_000, 10_000, "more than 10,000 values"),
        ("#" * 1_000_001, None, "larger than 1,000,000"),
    ],
)
def test_what_has_no_place_in_a_configuration_is_refused_with_its_line(text: str, line: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_yaml(text, Path("llm.yaml"))
    assert (caught.value.file, caught.value.line) == ("llm.yaml", line)
    assert len(str(caught.value)) < 300


TEXT = """\
# my models é 😀
models:
  luna:   {model: openai/x, quality: 7}   # the good one
  "gpt-5.6": {model: openai/y}
  qwen:
    model: ollama/qwen3:8b      # local
    # between
    num_ctx: 16384
tasks:
  # first
  default:  {models: [luna, qwen], max_tokens: 100}   # why
  listed:
    models:          # in order
      - luna
      - qwen         # slow
    system: |
      Be brief.

  # last
  u: {models: luna}
budget:
# the end"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "llm.yaml"
    file.write_text(TEXT, "utf-8")
    return file


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("tasks.default.models", "[qwen]", "[luna, qwen], max", "[qwen], max"),
        ("models.luna.quality", "9", "quality: 7", "quality: 9"),
        ("models.gpt-5.6", "{model: a/b, quality: 8}", "{model: openai/y}", "{model: a/b, quality: 8}"),
        ("models.qwen.num_ctx", "8192", "num_ctx: 16384\n", "num_ctx: 8192\n"),
        ("tasks.listed.models.1", "gpt-5.6", "- qwen  ", "- gpt-5.6  "),
        ("tasks.listed.system", "Be kind.", "|\n      Be brief.\n", "Be kind.\n"),
        ("tasks.u.models", "- luna\n- qwen\n", "u: {models: luna}", 'u: {models: ["luna", "qwen"]}'),
        ("tasks.u.models", "openai/a, b", "u: {models: luna}", 'u: {models: "openai/a, b"}'),
        ("budget", "{per_day: 5}", "budget:\n", "budget: {per_day: 5}\n"),
    ],
)
def test_one_value_changes_and_nothing_around_it(path: Path, key: str, value: str, old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    for newline in ("\n", "\r\n"):
        path.write_bytes(TEXT.replace("\n", newline).encode())
        config = set_value(path, key, value)
        assert path.read_bytes() == TEXT.replace(old, new).replace("\n", newline).encode()
        assert config == load_config(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tasks.default.models", "[lunaa]", r"unknown model 'lunaa'; did you mean `luna`"),
        ("tasks.default.modles", "luna", r"tasks.default has no 'modles'; did you mean `models`\?; to add a key, edit"),
        ("models.luna", "{model: openai/x, api_key: abc}", r"api_key_env: OPENAI_API_KEY"),
        ("models.luna.quality", "[", r"models.luna.quality: the new value is not valid YAML: .* \(given: '\['\)"),
        ("models.luna.quality.x", "1", r"models.luna.quality has no 'x'"),
        ("tasks.listed.models", "[luna]", r"llm.yaml:13: tasks.listed.models: is written over several lines"),
        ("", "1", r"name the value to set, such as"),
        ("tasks.default.max_tokens", "# nothing", r"tasks.default.max_tokens: expected a whole number"),
    ],
)
def test_a_refused_edit_leaves_the_file_untouched(path: Path, key: str, value: str, words: str) -> None:
    inode = path.stat().st_ino
    with pytest.raises(ConfigError, match=words):
        set_value(path, key, value)
    assert (path.read_text("utf-8"), path.stat().st_ino) == (TEXT, inode)
    assert list(path.parent.iterdir()) == [path]


def test_what_others_refer_to_is_left_to_a_person() -> None:
    text = "models: {a: {model: x/y}}\ntasks:\n  t: &t {models: &m [a]}\n  u: {models: *m}\n  v: *t\n  w: {<<: *t}\n"
    for key in ("tasks.t.models", "tasks.u.models", "tasks.v", "tasks.w.models"):
        with pytest.raises(ConfigError, match="edit the file by hand"):
            edited(text, key, "3", Path("llm.yaml"))


def test_a_broken_value_can_be_fixed(path: Path) -> None:
    path.write_text(TEXT.replace("quality: 7", "quality: 77"))
    set_value(path, "models.luna.quality", "7")
    assert path.read_text() == TEXT


def test_link_mode_and_trust_stay(path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "sub" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    set_value(link, "models.luna.quality", "1")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert not is_trusted(path, path.read_text())
    trust(path)
    set_value(path, "models.luna.quality", "3")
    assert is_trusted(path, path.read_text())


def test_an_edit_by_someone_else_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = config_source.parse_config

    def slow(*args: Any) -> Any:
        path.write_text(TEXT + "\n# theirs\n")
        return real(*args)

    monkeypatch.setattr(config_source, "parse_config", slow)
    with pytest.raises(ConfigError, match="changed by another program"):
        set_value(path, "models.luna.quality", "1")
    assert path.read_text().endswith("# theirs\n")
