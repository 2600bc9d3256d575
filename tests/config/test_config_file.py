"""Which file rules, what it says, and every fault with its line."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testronaut_llm.calls.options import checked
from testronaut_llm.config.secrets import Filling
from testronaut_llm.config.source import PACKAGED, FoundConfig, find_config, load_config, parse_config, read_text
from testronaut_llm.errors import ConfigError
from testronaut_llm.providers.provider_registry import readiness
from testronaut_llm.support.paths import config_dir, data_dir

ROOT = Path(__file__).parents[2]
ENVIRONMENT_PAGE = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")
GOOD = "models: {a: {model: openai/x}}\ntasks: {default: {models: a}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder two levels below another."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return inner


def written(path: Path, text: str = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def test_one_file_rules_in_the_documented_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument, variable, nearest upwards, the user's own, packaged: each gives way to the one before it."""
    assert find_config() == FoundConfig(path=PACKAGED, how="packaged")
    user = written(config_dir() / "llm.yaml")
    assert find_config() == FoundConfig(path=user, how="user")
    far = written(folder.parent / "llm.yaml")
    assert find_config() == FoundConfig(path=far, how="upwards")
    near = written(folder / "llm.yaml")
    assert find_config() == FoundConfig(path=near, how="upwards")
    named = written(folder / "named.yaml")
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", "named.yaml")
    assert find_config() == FoundConfig(path=named, how="environment")
    given_ = written(folder / "given.yaml")
    assert find_config("given.yaml") == find_config(given_) == FoundConfig(path=given_, how="argument")


def test_home_is_understood_in_given_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` works in the argument and in the variable."""
    path = written(Path.home() / "my.yaml")
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", "~/my.yaml")
    assert find_config().path == find_config("~/my.yaml").path == path


def test_a_given_path_without_a_file_is_an_error_not_a_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in a path never ends with another file's settings."""
    written(folder / "llm.yaml")
    with pytest.raises(ConfigError, match=r"nope\.yaml, given by the argument, is no file: `testronaut-llm init`"):
        find_config("nope.yaml")
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(folder))
    with pytest.raises(ConfigError, match="given by TESTRONAUT_LLM_CONFIG, is a folder"):
        find_config()
    with pytest.raises(ConfigError, match=r"~nobody-of-that-name/llm\.yaml"):
        find_config("~nobody-of-that-name/llm.yaml")


def test_only_a_file_found_upwards_has_to_be_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a path vouches for it."""
    path = written(folder / "llm.yaml")
    assert load_config().trusted is False
    assert load_config(path).trusted is True
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(path))
    assert load_config().trusted is True
    monkeypatch.delenv("TESTRONAUT_LLM_CONFIG")
    path.unlink()
    assert load_config().trusted is True, "the packaged file"


@pytest.mark.parametrize("name", re.findall(r"^\| `(TESTRONAUT_\w+)`", ENVIRONMENT_PAGE, re.MULTILINE))
def test_a_variable_of_ours_that_is_empty_is_not_set(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CI job that blanks a variable out means the default, for each that the reference page names."""

    def seen() -> tuple[object, ...]:
        config = load_config()
        row = config.models["luna"].model_copy(update={"api_base": "http://far.example"})
        cache = checked(config.task(None), {})["cache"]
        return find_config(), config.model_dump(), cache, readiness(row), data_dir().name, config_dir().name

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.delenv(name, raising=False)
    without = seen()
    monkeypatch.setenv(name, "")
    assert seen() == without


def test_a_working_folder_that_is_gone_is_no_failure(folder: Path) -> None:
    """The search goes on with the user's own file."""
    folder.rmdir()
    assert find_config().how == "packaged"


def test_folders_that_cannot_be_looked_into_are_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A permission error on the way up is no error of ours."""
    real = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent == folder:
            raise PermissionError
        return real(path)

    written(folder.parent / "llm.yaml")
    monkeypatch.setattr(Path, "is_file", is_file)
    assert find_config().path == folder.parent / "llm.yaml"


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    """Faults of every kind, in the order of the file, in one error."""
    path = written(
        tmp_path / "llm.yaml",
        """version: 1
models:
  luna: {model: openai/x, qualty: 7}
  other:
    model: openai/y
    price:
      input: -1
      output: .nan
    api_key: abc
    extra:
      user: u
      stream: true
  luna: {model: openai/z}
tasks:
  t:
    models: [lunaa,
      other]
    strategy: cheapst
  u: {models: gpt}
3: x
budget: {per_day: $5, per_month: "${NOT_SET}"}
""",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} has 13 faults:"
    places = [line.strip().removeprefix(f"{path}:").split(": ")[:2] for line in lines[1:]]
    assert places == [
        ["3", "models.luna.qualty"],
        ["7", "models.other.price.input"],
        ["8", "models.other.price.output"],
        ["9", "models.other.api_key"],
        ["12", "models.other.extra.stream"],
        ["13", "models.luna"],
        ["16", "tasks.t.models[0]"],
        ["18", "tasks.t.strategy"],
        ["19", "tasks.u.models"],
        ["20", "has the key '3', a int to YAML"],
        ["20", "3"],
        ["21", "budget.per_day"],
        ["21", "budget.per_month"],
    ]
    assert (caught.value.file, caught.value.line) == (str(path), 3)


def test_a_single_fault_is_one_line(tmp_path: Path) -> None:
    """`file:line: place: what to do`, as compilers and editors know it."""
    path = written(tmp_path / "llm.yaml", GOOD + "bugdet: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}:3: bugdet: unknown key; did you mean `budget`?"


def test_misspelt_models_are_one_fault(tmp_path: Path) -> None:
    """The section's name is the fault, and not each reference to what stands in it."""
    path = written(tmp_path / "llm.yaml", GOOD.replace("models:", "modles:", 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "modles: unknown key; did you mean `models`?" in str(caught.value)
    assert "unknown model" not in str(caught.value)


def test_hundreds_of_faults_are_counted_and_cut_short(tmp_path: Path) -> None:
    """The message stays readable."""
    rows = "".join(f"  m{n}: {{model: x}}\n" for n in range(150))
    with pytest.raises(ConfigError, match="has 150 faults") as caught:
        load_config(written(tmp_path / "llm.yaml", f"models:\n{rows}tasks: {{}}\n"))
    assert len(str(caught.value).splitlines()) == 102
    assert str(caught.value).endswith("and 50 more")


def test_suggestions_are_made_for_the_first_faults_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of unknown names, keys, choices, codes and limits do not mean thousands of searches for a close one."""
    searches: list[object] = []

    def search(name: object, known: Iterable[object], **_: Any) -> list[str]:
        searches.append(name)
        return []

    monkeypatch.setattr("difflib.get_close_matches", search)
    tasks = "".join(
        f"  t{n}: {{models: [luna{n}], strategy: cheapst{n}, fallback_on: [servr{n}], tmeout{n}: 1}}\n"
        for n in range(500)
    )
    limits = "".join(f"  opena{n}: {{rpm: 1}}\n" for n in range(500))
    path = written(tmp_path / "llm.yaml", f"models: {{m: {{model: openai/x}}}}\ntasks:\n{tasks}limits:\n{limits}")
    with pytest.raises(ConfigError, match="2000 faults"):
        load_config(path)
    assert len(searches) < 50


@pytest.mark.parametrize("text", ["${A", "${A:-", "${A}", "${", "$${", "${A${"])
def test_one_text_is_one_fault(tmp_path: Path, text: str) -> None:
    """However many broken or unknown references it holds."""
    filling = Filling({})
    filling.fill({"a": text * 1000})
    assert len(filling.faults) + len(filling.unset) <= 2
    path = written(tmp_path / "llm.yaml", f"tasks: {{t: {{models: a/b, system: '{text * 100_000}'}}}}\n")
    if text == "$${":
        assert load_config(path).task("t").system == "${" * 100_000
        return
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", r":1: is empty: run `testronaut-llm init`"),
        (b"# nothing\n", r":1: is empty"),
        (b"- a\n", "expected a mapping"),
        (b"just text", "expected a mapping"),
        (b"a: 1\nb: \xff\n", ":2: is not UTF-8"),
        (b"#" * 1_000_001, "is larger than 1,000,000 bytes"),
        (b"a: [", "is not valid YAML"),
    ],
)
def test_what_is_no_configuration_is_a_config_error(tmp_path: Path, raw: bytes, words: str) -> None:
    """Whatever the bytes are."""
    path = tmp_path / "llm.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert caught.value.file == str(path)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    """It may go, or be forbidden, between finding and reading."""
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        read_text(tmp_path / "gone.yaml")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Windows editors write one."""
    path = tmp_path / "llm.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_config(path).task(None).models == ("a",)


def test_a_loaded_configuration_knows_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For messages, for the budget's default scope, and for paths that start beside it."""
    text = "models: {a: {model: openai/x, api_key_file: keys/openai}, b: {model: openai/x, api_key_file: ~/k}}\n"
    real = written(tmp_path / "real" / "llm.yaml", text + "tasks: {}\nlog: {file: calls.jsonl, content: true}\n")
    (tmp_path / "link.yaml").symlink_to(real)
    config = load_config(tmp_path / "link.yaml")
    assert (config.path, config.budget_scope()) == (tmp_path / "link.yaml", str(real.resolve()))
    assert config.models["a"].api_key_file == str(tmp_path / "keys" / "openai")
    assert config.models["b"].api_key_file == str(Path.home() / "k")
    assert config.log is not None
    assert (config.log.file, config.log.content) == (str(tmp_path / "calls.jsonl"), True)
    with pytest.raises(ConfigError, match=r"link\.yaml"):
        config.task("nope")


def test_sections_may_be_left_empty(tmp_path: Path) -> None:
    """A heading whose lines are all commented out is as good as absent."""
    config = load_config(
        written(tmp_path / "llm.yaml", "models:\n  # a: ...\ntasks: {t: {models: x/y}}\nbudget:\nlimits:\n")
    )
    assert (config.models, config.budget, config.limits) == ({}, None, {})


def test_anchors_and_merges_may_be_used(tmp_path: Path) -> None:
    """What people know from other YAML files works, in bounds."""
    text = "  t: &base {models: [a], retries: 1}\n  u: {<<: *base, retries: 3}\n  v: *base\n"
    config = load_config(written(tmp_path / "llm.yaml", f"models: {{a: {{model: openai/x}}}}\ntasks:\n{text}"))
    assert [(t.name, t.models, t.retries) for t in config.tasks.values()] == [
        ("t", ("a",), 1), ("u", ("a",), 3), ("v", ("a",), 1),
    ]  # fmt: skip


def test_the_packaged_file_is_the_one_at_the_root() -> None:
    """One text, two places; and it needs no key, server or variable to be valid."""
    assert PACKAGED.read_text("utf-8") == (ROOT / "llm.yaml").read_text("utf-8")
    config = load_config(PACKAGED)
    assert set(config.tasks) == {"cli_analysis", "test_generation", "result_verification", "embedding", "default"}
    assert config.models["azure"].unset == ("AZURE_API_BASE",)


def test_the_packaged_file_keeps_the_toy_model_out_of_real_work() -> None:
    """Every model has a quality, every task a `min_quality`, and no task takes the embedded one unasked."""
    config = load_config(PACKAGED)
    assert all("quality" in model.model_fields_set for model in config.models.values())
    for task in config.tasks.values():
        assert "min_quality" in task.model_fields_set
        assert "embedded" not in task.models or task.min_quality > config.models["embedded"].quality


KEY = "sk-abcdefghijklmnop1234567890"
_WORDS = st.sampled_from(
    ["models", "tasks", "a", "model", "openai/x", "price", "extra", "budget", "cache", "limits", "log", "${X}", "${",
     "&a", "*a", "<<", "!!int", "1", "-1", ".nan", "off", "null", "- ", ": ", "{", "}", "[", "]", ",", "\n", "\n  ",
     "#", "|", "'", '"', "version", "api_key", f" {KEY}", "\t", "? ", "---\n", "\x00", "\u2028", "é", "30d", "$5", "~x"]
)  # fmt: skip


def only_config_errors(text: str) -> None:
    told = "a configuration"
    try:
        parse_config(text, FoundConfig(path=Path("llm.yaml"), how="argument"))
    except ConfigError as error:
        told = str(error)
    assert told
    assert KEY not in told


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_WORDS, max_size=30).map("".join) | st.text(max_size=80) | st.text(string.printable, max_size=80))
def test_any_text_gives_a_configuration_or_a_config_error(text: str) -> None:
    """Nothing else comes out of arbitrary text, and no key in it comes out at all."""
    only_config_errors(text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | _WORDS, inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    ["model", "price", "extra", "quality", "local", "keep_alive", "auto_pull", "limits", "models", "stop", "budget",
     "fallback_on", "temperature", "timeout", "cache", "per_day", "ttl", "size_limit", "file", "version", "api_key_env"]
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "models": st.dictionaries(_WORDS, st.dictionaries(_KEYS, _VALUES, max_size=5) | _VALUES, max_size=2)
            | _VALUES,
            "tasks": st.dictionaries(_WORDS, st.dictionaries(_KEYS, _VALUES, max_size=5) | _VALUES, max_size=2)
            | _VALUES,
            **dict.fromkeys(
                ["budget", "cache", "limits", "log"], st.dictionaries(_KEYS, _VALUES, max_size=2) | _VALUES
            ),
        },
    )
)
def test_any_values_in_the_right_places_give_a_configuration_or_a_config_error(data: dict[str, object]) -> None:
    """The shapes meet every kind of value in every field."""
    import yaml

    only_config_errors(yaml.safe_dump(data, allow_unicode=True))


def test_loading_opens_nothing_but_the_file(tmp_path: Path) -> None:
    """A cold process that only reads loads no provider's library and no round-trip YAML."""
    import subprocess
    import sys

    code = (
        "import sys; from testronaut_llm.config.source import ConfigSource; ConfigSource.find(sys.argv[1]).current();"
        "print({'litellm', 'openai', 'anthropic', 'platformdirs'} & set(sys.modules))"
    )
    path = written(tmp_path / "llm.yaml")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )
    assert (done.stdout.strip(), done.stderr) == ("set()", "")
