"""The file that is used, its problems with their lines, and edits while a process runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from source_tree import ROOT
from structlog.testing import capture_logs

from testronaut_llm.config import source as config_source
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.source import PACKAGED, ConfigSource, FoundConfig, find_config, load_config
from testronaut_llm.config.trust import trust
from testronaut_llm.config.yaml_text import edited
from testronaut_llm.errors import ConfigError
from testronaut_llm.local.readiness import readiness
from testronaut_llm.options import call_of
from testronaut_llm.support.paths import config_dir, data_dir

ENVIRONMENT_PAGE = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")
GOOD = "models: {a: {model: openai/x, quality: 3}, b: {model: openai/y}}\ntasks: {default: {models: [a]}}\n"
OTHER = GOOD.replace("[a]", "[b]")


def write(path: Path, text: str = GOOD, *, age: float = 60) -> Path:
    """Writes a file with a date old enough for its stamp to be used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return inner


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "llm.yaml")


def test_one_file_is_used_in_the_documented_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config() == FoundConfig(path=PACKAGED, how="packaged")
    assert FoundConfig(path=write(config_dir() / "llm.yaml"), how="user") == find_config()
    assert load_config().trusted
    for upwards in (folder.parent, folder):
        assert FoundConfig(path=write(upwards / "llm.yaml"), how="upwards") == find_config()
    assert (load_config().trusted, load_config("llm.yaml").trusted) == (False, True)
    named = write(folder / "named.yaml")
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", "named.yaml")
    assert find_config() == FoundConfig(path=named, how="environment")
    assert load_config().trusted
    given_ = write(folder / "given.yaml")
    assert find_config("given.yaml") == find_config(given_) == FoundConfig(path=given_, how="argument")


def test_a_given_path_is_no_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "llm.yaml")
    own = write(Path.home() / "my.yaml")
    assert find_config("~/my.yaml").path == own
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(folder))
    for given_, words in (
        ("nope.yaml", r"nope\.yaml, given by the argument, is not a file: `testronaut-llm init`"),
        ("x" * 9999, "is not a file"),
        ("~nobody-of-that-name/llm.yaml", r"~nobody-of-that-name/llm\.yaml"),
        (None, "given by TESTRONAUT_LLM_CONFIG, is a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            find_config(given_)


@pytest.mark.parametrize("name", re.findall(r"^\| `(TESTRONAUT_\w+)`", ENVIRONMENT_PAGE, re.MULTILINE))
def test_an_own_variable_that_is_empty_is_not_set(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> tuple[object, ...]:
        config = load_config()
        row = config.models["luna"].model_copy(update={"api_base": "http://far.example"})
        cache = call_of(config, None, "hi", {}).cache
        return find_config(), config.model_dump(), cache, readiness(row), data_dir().name, config_dir().name

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    monkeypatch.delenv(name, raising=False)
    without = seen()
    monkeypatch.setenv(name, "")
    assert seen() == without


def test_the_search_goes_on_past_folders_that_are_gone_or_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder.parent / "llm.yaml")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", None)  # it raises for a folder that is closed to us
        assert find_config().path == folder.parent / "llm.yaml"
    folder.rmdir()
    assert find_config().how == "packaged"


def test_every_problem_is_reported_at_once_with_its_line(tmp_path: Path) -> None:
    text = """models:
  luna: {model: openai/x, qualty: 7}
  other:
    model: openai/y
    price: {input: -1}
    extra: {user: u,
      stream: true}
  luna: {model: openai/z}
tasks:
  t:
    models: [lunaa,
      other]
3: x
budget: {per_day: $5, per_month: "${NOT_SET}"}
"""
    path = write(tmp_path / "llm.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} has 9 problems:"
    places = [line.strip().removeprefix(f"{path}:").split(": ")[:2] for line in lines[1:]]
    assert places == [
        ["2", "models.luna.qualty"], ["5", "models.other.price.input"], ["5", "models.other.price.output"],
        ["7", "models.other.extra.stream"], ["8", "models.luna"], ["11", "tasks.t.models[0]"], ["13", "3"],
        ["14", "budget.per_day"], ["14", "budget.per_month"],
    ]  # fmt: skip
    assert lines[5].endswith("models.luna: is given twice; the first is on line 2")
    assert (caught.value.file, caught.value.line) == (str(path), 2)


def test_hundreds_of_problems_are_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first hundred are listed, and close names are searched for a few of them only, since that takes time."""
    searches: list[object] = []
    monkeypatch.setattr("difflib.get_close_matches", lambda *given, **_: searches.append(given) or [])
    tasks = "".join(f"  t{n}: {{models: luna{n}, strategy: cheapst{n}, tmeout{n}: 1}}\n" for n in range(500))
    with pytest.raises(ConfigError, match="1500 problems") as caught:
        load_config(write(tmp_path / "llm.yaml", f"models: {{m: {{model: openai/x}}}}\ntasks:\n{tasks}"))
    assert len(str(caught.value).splitlines()) == 102
    assert str(caught.value).endswith("and 1400 more")
    assert len(searches) < 50


def test_what_is_no_configuration_is_a_config_error(path: Path) -> None:
    for raw, words in (
        (b"", r":1: is empty: run `testronaut-llm init`"),
        (b"- a\n", "expected a mapping"),
        (b"#" * 1_000_001, "is larger than 1,000,000 bytes"),
    ):
        path.write_bytes(raw)
        with pytest.raises(ConfigError, match=words) as caught:
            load_config(path)
        assert caught.value.file == str(path)


def test_a_loaded_configuration_knows_its_file(tmp_path: Path) -> None:
    text = "tasks: {}\nmodels: {a: {model: x/y, api_key_file: keys/openai}, b: {model: x/y, api_key_file: ~/k}}\n"
    real = write(tmp_path / "real" / "llm.yaml", text + "log: {file: calls.jsonl, content: true}\nbudget:\nlimits:\n")
    (tmp_path / "link.yaml").symlink_to(real)
    config = load_config(tmp_path / "link.yaml")
    assert (config.path, config.budget_scope()) == (tmp_path / "link.yaml", str(real.resolve()))
    assert config.models["a"].api_key_file == str(tmp_path / "keys" / "openai")
    assert config.models["b"].api_key_file == str(Path.home() / "k")
    assert (config.log.file, config.log.content) == (str(tmp_path / "calls.jsonl"), True)
    assert (config.budget, config.limits) == (None, {}), "sections without a value"
    with pytest.raises(ConfigError, match=r"link\.yaml"):
        config.task("nope")


def test_the_packaged_file_is_valid_rates_its_models_and_can_be_edited() -> None:
    config = load_config(PACKAGED)
    assert set(config.tasks) == {"cli_analysis", "test_generation", "result_verification", "embedding", "default"}
    assert config.models["azure"].unset == ("AZURE_API_BASE",)
    assert all("quality" in model.model_fields_set for model in config.models.values())
    for task in config.tasks.values():
        assert "min_quality" in task.model_fields_set
        assert "embedded" not in task.models or task.min_quality > config.models["embedded"].quality
    text = PACKAGED.read_text("utf-8")
    new = edited(text, "tasks.cli_analysis.models", "[qwen]", PACKAGED)
    assert new == text.replace("[luna, sonnet, azure, qwen, embedded]", "[qwen]")


def test_without_an_edit_the_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ConfigSource.find(path)
    first = source.current()
    monkeypatch.setattr(config_source, "parse_config", None)
    write(path, GOOD, age=40)
    monkeypatch.setenv("T_OTHER", "x")
    assert source.current() is first, "a new date on the same text is read, not parsed"
    monkeypatch.setattr(config_source, "read_text", None)
    assert source.current() is first


@pytest.mark.parametrize("age", [0, 60], ids=["fresh", "old"])
def test_an_edit_that_keeps_size_and_date_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch, age: int) -> None:
    """This covers edits within one tick of the clock, and tools that keep the date and write in place."""
    write(path, GOOD, age=age)
    stamp = path.stat()
    if not age:
        monkeypatch.setattr(config_source.time, "time_ns", lambda: stamp.st_mtime_ns + 1)
        monkeypatch.setattr(config_source, "_stamp_of", lambda _: (stamp.st_mtime_ns,))
    source = ConfigSource.find(path)
    source.current()
    path.write_text(OTHER)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    assert source.current().task(None).models == ("b",)


def test_a_broken_or_deleted_file_keeps_the_last_good_one_and_warns_once(path: Path) -> None:
    source = ConfigSource.find(path)
    good = source.current()
    with capture_logs() as log:
        write(path, GOOD + "bugdet: {}\n", age=0)
        assert source.current() is source.current() is good
        write(path, GOOD.replace("models:", "modles:", 1), age=40)
        assert source.current() is good
        write(path, GOOD, age=20)
        assert source.current() == good, "the last good text is no broken one"
        path.unlink()
        assert source.current() is source.current() == good
        write(path, OTHER, age=10)
        assert source.current().task(None).models == ("b",)
    assert {(one["event"], one["log_level"], one["file"]) for one in log} == {("config_broken", "warning", str(path))}
    assert [(one["line"], one["error"]) for one in log] == [
        (3, f"{path}:3: bugdet: unknown key; did you mean `budget`?"),
        (1, f"{path}:1: modles: unknown key; did you mean `models`?"),
        (None, f"cannot read {path}: No such file or directory"),
    ]


def test_variables_are_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, GOOD.replace("quality: 3", "quality: '${T_Q:-3}', api_base: '${T_BASE}', extra: {k: '${T_SECRET:-}'}"))
    source = ConfigSource.find(path)
    assert (source.current().model("a").quality, source.current().model("a").unset) == (3, ("T_BASE",))
    for name, value in {"T_Q": "8", "T_BASE": "http://h", "T_SECRET": "canary-value"}.items():
        monkeypatch.setenv(name, value)
    model = source.current().model("a")
    assert (model.quality, model.api_base, model.extra, model.unset) == (8, "http://h", {"k": "canary-value"}, ())
    assert "canary-value" not in repr(source.current()) + repr({k: v for k, v in vars(source).items() if k != "last"})
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "b")
    assert source.current().task(None).models == ("b",)
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "bb")
    with capture_logs() as log:
        assert source.current().task(None).models == ("b",)
    (entry,) = log
    assert "TESTRONAUT_LLM_MODEL names an unknown model" in entry["error"]


def test_edits_and_trust_take_effect_at_the_next_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    source = ConfigSource.find()
    assert source.path == source.current().path == path
    assert source.current().trusted is False
    trust(path)
    assert source.current().trusted is True
    write(path, OTHER, age=50)
    assert (source.current().trusted, source.current().task(None).models) == (False, ("b",))
    write(path.with_name("new"), GOOD).replace(path)
    assert (source.current().trusted, source.current().task(None).models) == (True, ("a",))


def test_a_configuration_made_in_python_stays_unchanged() -> None:
    config = LLMConfig(tasks={"default": {"models": "a/b"}})
    source = ConfigSource.of(config)
    assert (source.current() is config, source.path) == (True, None)
    own = {"t": {"models": "a/b", "budget": {"per_day": 1}}}
    for made in (LLMConfig(tasks={}, budget={"per_day": 1}), LLMConfig(tasks=own)):
        with pytest.raises(ConfigError, match="config= has a budget without `scope`"):
            ConfigSource.of(made)
