"""Changing one value, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from testronaut_llm.config import edit as config_edit
from testronaut_llm.config.edit import edited, set_value
from testronaut_llm.config.file import PACKAGED, FoundConfig, load_config
from testronaut_llm.config.trust import is_trusted, trust
from testronaut_llm.errors import ConfigError

TEXT = """\
# my models
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
    """A configuration file with comments in every corner."""
    file = tmp_path / "llm.yaml"
    file.write_text(TEXT, "utf-8")
    return file


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("tasks.default.models", "[qwen]", "[luna, qwen], max", "[qwen], max"),
        ("tasks.default.models", "qwen", "[luna, qwen], max", "qwen, max"),
        ("models.luna.quality", "9", "quality: 7", "quality: 9"),
        ("models.qwen.num_ctx", "8192", "num_ctx: 16384", "num_ctx: 8192"),
        ("models.gpt-5.6.quality", "8", "{model: openai/y}", "{model: openai/y, quality: 8}"),
        ('models."gpt-5.6".model', "a/b", "{model: openai/y}", "{model: a/b}"),
        ("models.qwen.quality", "4", "    num_ctx: 16384\n", "    num_ctx: 16384\n    quality: 4\n"),
        ("tasks.listed.models.1", "gpt-5.6", "- qwen  ", "- gpt-5.6  "),
        ("tasks.listed.system", "Be kind.", "|\n      Be brief.\n", "Be kind.\n"),
        ("tasks.u.models", "[luna, 'gpt-5.6']", "u: {models: luna}", "u: {models: [luna, 'gpt-5.6']}"),
        ("tasks.u.budget.per_day", "2", "u: {models: luna}", "u: {models: luna, budget: {per_day: 2}}"),
        ("tasks.u.system", "a, b", "u: {models: luna}", 'u: {models: luna, system: "a, b"}'),
        ("tasks.new.models", "[luna]", "  u: {models: luna}\n", "  u: {models: luna}\n  new: {models: [luna]}\n"),
        ("budget.per_day", "5", "budget:\n", "budget: {per_day: 5}\n"),
        ("cache.ttl", "12h", "budget:\n", "budget:\ncache: {ttl: 12h}\n"),
        (
            "models.n.model",
            "openai/${NAME}",
            "    num_ctx: 16384\n",
            '    num_ctx: 16384\n  n: {model: "openai/${NAME}"}\n',
        ),
        ("tasks.default.seed", "null", "max_tokens: 100", "max_tokens: 100, seed: null"),
    ],
)
def test_one_value_changes_and_not_one_character_around_it(
    path: Path, key: str, value: str, old: str, new: str
) -> None:
    """Comments, order, quotes and alignment stay."""
    assert TEXT.count(old) == 1
    config = set_value(path, key, value)
    assert path.read_text("utf-8") == TEXT.replace(old, new)
    assert config == load_config(path)


def test_a_block_that_is_replaced_moves_up_to_its_key(path: Path) -> None:
    """What stood inside it, comments included, goes with it; where a comment follows the key, it stays below."""
    set_value(path, "tasks.listed.models", "[luna]")
    text = path.read_text()
    assert "    models:          # in order\n      [luna]         # slow\n    system: |\n" in text
    assert yaml.safe_load(text)["tasks"]["listed"]["models"] == ["luna"]
    path.write_text(TEXT.replace("          # in order", ""))
    set_value(path, "tasks.listed.models", "[luna]")
    assert "    models: [luna]         # slow\n    system: |\n" in path.read_text()


def test_lists_may_be_set_over_several_lines(path: Path) -> None:
    """A value in block style is written in flow style."""
    set_value(path, "tasks.u.models", "- luna\n- qwen\n")
    assert '  u: {models: ["luna", "qwen"]}\n' in path.read_text()


def test_line_ends_stay_what_they_are(path: Path) -> None:
    """A file from Windows gets a new line like its others."""
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    set_value(path, "models.qwen.quality", "4")
    assert path.read_bytes() == TEXT.replace("16384\n", "16384\n    quality: 4\n").replace("\n", "\r\n").encode()


def test_the_packaged_file_can_be_edited_everywhere() -> None:
    """Each value that is there can be set to what it is, and the text stays as it is."""
    text = PACKAGED.read_text("utf-8")
    found = FoundConfig(path=PACKAGED, how="argument")
    assert edited(text, "models.luna.quality", "7", found) == text
    new = edited(text, "tasks.cli_analysis.models", "[qwen]", found)
    assert new == text.replace("[luna, sonnet, azure, qwen, embedded]", "[qwen]")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tasks.default.models", "[lunaa]", r"unknown model 'lunaa'; did you mean `luna`"),
        ("tasks.default.stratgy", "cheapest", r"did you mean `strategy`"),
        ("models.luna.api_key", "abc", r"api_key_env: OPENAI_API_KEY"),
        ("models.luna.quality", "11", r"less than or equal to 10"),
        ("models.luna.quality", "[", r"is not valid YAML"),
        ("models.luna.quality", "!!int 3", r"has the tag"),
        ("models.luna.quality", "a\x00", r"no YAML text may hold"),
        ("models.luna.quality.x", "1", r"models.luna.quality has no keys to set"),
        ("tasks.listed.models.5", "luna", r"tasks.listed.models has no item '5' \(0 to 1\)"),
        ("tasks.listed.models.x", "luna", r"has no item 'x'"),
        ("", "1", r"name the value to set, such as"),
        ("tasks.default.max_tokens", "# nothing", r"tasks.default.max_tokens: expected a whole number"),
        ("version", ".nan", r"version: expected 1"),
        ("models..x", "1", r"models"),
    ],
)
def test_a_refused_edit_leaves_the_file_untouched(path: Path, key: str, value: str, words: str) -> None:
    """The whole result is checked before anything is written."""
    before = path.stat()
    with pytest.raises(ConfigError, match=words):
        set_value(path, key, value)
    assert path.read_text("utf-8") == TEXT
    assert path.stat().st_ino == before.st_ino
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".tmp"] == []


def test_what_cannot_be_changed_safely_is_left_to_a_person(path: Path) -> None:
    """A value that others refer to, or that an alias stands for."""
    text = "models: {a: {model: x/y}}\ntasks:\n  t: &t {models: &m [a]}\n  u: {models: *m}\n  v: *t\n"
    path.write_text(text)
    for key in ("tasks.t.models", "tasks.v.seed"):
        with pytest.raises(ConfigError, match="edit the file by hand"):
            set_value(path, key, "3")
    assert path.read_text() == text
    set_value(path, "tasks.v", "{models: a}")
    assert path.read_text().endswith("  v: {models: a}\n")


def test_a_broken_value_can_be_mended(path: Path) -> None:
    """Only the result has to be valid."""
    path.write_text(TEXT.replace("quality: 7", "quality: 77"))
    set_value(path, "models.luna.quality", "7")
    assert path.read_text() == TEXT


def test_a_link_stays_a_link_and_the_mode_stays(path: Path, tmp_path: Path) -> None:
    """Dotfile managers link configuration files."""
    path.chmod(0o640)
    link = tmp_path / "sub" / "link.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    set_value(link, "models.luna.quality", "1")
    assert link.is_symlink()
    assert (path.read_text(), path.stat().st_mode & 0o777) == (TEXT.replace("quality: 7", "quality: 1"), 0o640)


def test_a_trusted_file_stays_trusted_through_its_owners_edit(path: Path) -> None:
    """And a file that was not trusted does not become so."""
    set_value(path, "models.luna.quality", "2")
    assert not is_trusted(path, path.read_text())
    trust(path)
    set_value(path, "models.luna.quality", "3")
    assert is_trusted(path, path.read_text())


def test_an_edit_by_someone_else_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed between reading and writing wins."""
    real = config_edit.parse_config

    def slow(*args: Any) -> Any:
        path.write_text(TEXT + "\n# theirs\n")
        return real(*args)

    monkeypatch.setattr(config_edit, "parse_config", slow)
    with pytest.raises(ConfigError, match="changed by someone else"):
        set_value(path, "models.luna.quality", "1")
    assert path.read_text().endswith("# theirs\n")


def test_a_full_disk_or_a_folder_without_permission_is_a_config_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays as it is."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(config_edit, "write_atomically", full)
    with pytest.raises(ConfigError, match=r"cannot write .*llm\.yaml: No space left"):
        set_value(path, "models.luna.quality", "1")
    assert path.read_text() == TEXT


def test_a_lock_that_cannot_be_had_is_a_config_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held by another process, or in a folder that cannot be made."""
    import filelock

    monkeypatch.setattr(config_edit, "_PATIENCE_SECONDS", 0)
    lock = config_edit.data_dir() / "locks" / f"config-{config_edit.record_of(path).stem}.lock"
    lock.parent.mkdir(parents=True)
    with filelock.FileLock(lock), pytest.raises(ConfigError, match="being edited by another process"):
        set_value(path, "models.luna.quality", "1")
    home = Path(os.environ["TESTRONAUT_LLM_HOME"])
    (home.parent / "file").write_text("")
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(home.parent / "file"))
    with pytest.raises(ConfigError, match="cannot lock"):
        set_value(path, "models.luna.quality", "1")


def _set_many(path: Path, key: str) -> None:
    for value in range(1, 4):
        set_value(path, key, str(value))


def test_processes_that_edit_together_lose_nothing(path: Path) -> None:
    """Each edit is made on the other's result."""
    context = multiprocessing.get_context("spawn")
    keys = ["models.luna.quality", "models.qwen.quality"]
    workers = [context.Process(target=_set_many, args=(path, key)) for key in keys]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    config = load_config(path)
    assert (config.model("luna").quality, config.model("qwen").quality) == (3, 3)


_NAMES = st.sampled_from(["a", "b", "c.d", "e-f", "é", "1"])
_DATA = st.recursive(
    st.integers(-9, 9) | st.booleans() | st.none() | st.text("ab :#{}[],'\"\\$\n-", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_NAMES, _DATA, min_size=1, max_size=4), st.data(), st.booleans())
def test_any_value_can_be_set_anywhere_or_the_edit_is_refused(
    data: dict[str, Any], draw: st.DataObject, flow: bool
) -> None:
    """The result reads as the old data with that one change, in any style; every old comment line is still there."""
    text = "# head\n" + yaml.safe_dump(data, allow_unicode=True, default_flow_style=flow, sort_keys=False) + "# tail\n"
    name = draw.draw(st.sampled_from(sorted(data)) | _NAMES)
    value = draw.draw(_DATA)
    key = f'"{name}"'
    new = edited(text, key, yaml.safe_dump(value, allow_unicode=True), FoundConfig(path=Path("f"), how="argument"))
    assert yaml.safe_load(new) == {**data, name: value}
    assert new.startswith("# head\n")
    assert "# tail\n" in new
