"""A running process follows its file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from testronaut_llm.config import source as config_source
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.config.source import ConfigSource
from testronaut_llm.config.trust import trust
from testronaut_llm.errors import ConfigError

GOOD = "models: {a: {model: openai/x, quality: 3}, b: {model: openai/y}}\ntasks: {default: {models: [a]}}\n"
OTHER = GOOD.replace("[a]", "[b]")
Log = list[dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration file, old enough for its stamp to be believed."""
    return write(tmp_path / "llm.yaml", GOOD)


def write(path: Path, text: str, *, age: float = 60) -> Path:
    path.write_text(text, "utf-8")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    return path


@pytest.fixture
def log() -> Log:
    """What is logged while the test runs."""
    with structlog.testing.capture_logs() as entries:
        yield entries  # type: ignore[misc]  # a generator, to pytest


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[], int]:
    calls: list[object] = []
    real = getattr(config_source, name)
    monkeypatch.setattr(config_source, name, lambda *args: (calls.append(args), real(*args))[1])
    return lambda: len(calls)


def test_an_edit_takes_effect_at_the_next_call(path: Path) -> None:
    """Switching a model is editing one line."""
    source = ConfigSource.find(path)
    assert source.current().task(None).models == ("a",)
    write(path, OTHER, age=50)
    assert source.current().task(None).models == ("b",)
    assert source.path == source.current().path == path


def test_without_an_edit_the_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call costs one look at the file's date; the same object comes back."""
    source = ConfigSource.find(path)
    first = source.current()
    reads, parses = counted(monkeypatch, "read_text"), counted(monkeypatch, "parse_config")
    assert all(source.current() is first for _ in range(5))
    assert (reads(), parses()) == (0, 0)
    write(path, GOOD, age=40)
    assert source.current() is first
    assert (reads(), parses()) == (1, 0), "a new date on the same text is read, not parsed"


def test_an_edit_within_one_tick_of_the_clock_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, same date, same inode: a fresh file is compared by its text."""
    write(path, GOOD, age=0)
    stamp = path.stat()
    monkeypatch.setattr(config_source.time, "time_ns", lambda: stamp.st_mtime_ns + 1)
    source = ConfigSource.find(path)
    source.current()
    path.write_text(OTHER)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert source.current().task(None).models == ("b",)


def test_an_edit_that_keeps_size_and_date_is_seen(path: Path) -> None:
    """Tools that copy a file with its date, such as `rsync -t` and `git-restore-mtime`, write in place."""
    source = ConfigSource.find(path)
    assert source.current().task(None).models == ("a",)
    stamp = path.stat()
    path.write_text(OTHER)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    assert source.current().task(None).models == ("b",)


def test_a_file_that_is_replaced_is_followed(path: Path, tmp_path: Path) -> None:
    """Editors and `config set` rename a new file over the old one."""
    source = ConfigSource.find(path)
    write(tmp_path / "new", OTHER).replace(path)
    assert source.current().task(None).models == ("b",)


def test_a_broken_edit_keeps_the_last_good_one_and_warns_once(path: Path, log: Log) -> None:
    """One warning for each distinct broken text, with file and line, however many calls are made."""
    source = ConfigSource.find(path)
    good = source.current()
    write(path, GOOD + "bugdet: {}\n", age=50)
    assert all(source.current() is good for _ in range(3))
    assert [(e["event"], e["log_level"], e["file"], e["line"]) for e in log] == [
        ("config_broken", "warning", str(path), 3)
    ]
    assert "did you mean `budget`?" in log[0]["error"]
    write(path, GOOD + "tasks: [\n", age=40)
    assert source.current() is good
    assert len(log) == 2
    write(path, GOOD + "bugdet: {}\n", age=30)
    assert source.current() is good
    assert len(log) == 2, "this one has been told"
    write(path, OTHER, age=20)
    assert source.current().task(None).models == ("b",)
    assert len(log) == 2


def test_a_file_that_goes_away_keeps_the_last_good_one(path: Path, log: Log) -> None:
    """And comes back when it comes back."""
    source = ConfigSource.find(path)
    path.unlink()
    assert all(source.current().task(None).models == ("a",) for _ in range(3))
    assert len(log) == 1
    assert "cannot read" in log[0]["error"]
    write(path, OTHER)
    assert source.current().task(None).models == ("b",)


def test_a_file_that_comes_back_as_it_was_is_good_again(path: Path, log: Log) -> None:
    """The last good text is no broken one."""
    source = ConfigSource.find(path)
    write(path, "broken: [", age=50)
    source.current()
    write(path, GOOD, age=40)
    assert source.current().task(None).models == ("a",)
    assert len(log) == 1


def test_a_variable_that_the_file_refers_to_is_followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setting, changing and unsetting it takes effect without an edit; others cost nothing."""
    write(path, GOOD.replace("quality: 3", "quality: '${T_Q:-3}', api_base: '${T_BASE}'"))
    source = ConfigSource.find(path)
    assert (source.current().model("a").quality, source.current().model("a").unset) == (3, ("T_BASE",))
    monkeypatch.setenv("T_Q", "8")
    monkeypatch.setenv("T_BASE", "http://h")
    model = source.current().model("a")
    assert (model.quality, model.api_base, model.unset) == (8, "http://h", ())
    monkeypatch.delenv("T_Q")
    assert source.current().model("a").quality == 3
    parses = counted(monkeypatch, "parse_config")
    monkeypatch.setenv("T_OTHER", "x")
    source.current()
    assert parses() == 0


def test_the_override_is_followed(path: Path, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    """`TESTRONAUT_LLM_MODEL` set to a wrong name is a broken edit like any other."""
    source = ConfigSource.find(path)
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "b")
    assert source.current().task(None).models == ("b",)
    monkeypatch.setenv("TESTRONAUT_LLM_MODEL", "bb")
    assert source.current().task(None).models == ("b",)
    assert ["TESTRONAUT_LLM_MODEL names an unknown model" in entry["error"] for entry in log] == [True]


def test_trust_is_followed_in_both_directions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust` in another terminal counts at the next call, and so does the edit that ends it."""
    monkeypatch.chdir(path.parent)
    source = ConfigSource.find()
    assert source.current().trusted is False
    trust(path)
    assert source.current().trusted is True
    write(path, OTHER, age=50)
    assert source.current().trusted is False
    assert source.current().task(None).models == ("b",)


def test_a_file_with_faults_is_refused_at_the_start(path: Path) -> None:
    """There is no last good one to keep."""
    write(path, "tasks: [")
    with pytest.raises(ConfigError):
        ConfigSource.find(path)


def test_a_configuration_made_in_python_stays_as_it_is() -> None:
    """It has no file to follow."""
    config = LLMConfig(tasks={"default": {"models": "a/b"}})
    source = ConfigSource.of(config)
    assert source.current() is config
    assert (source.path, source.found) == (None, None)


def test_no_value_of_a_variable_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source compares a hash."""
    monkeypatch.setenv("T_SECRET", "canary-value")
    write(path, GOOD.replace("quality: 3", "extra: {k: '${T_SECRET}'}"))
    source = ConfigSource.find(path)
    source.current()
    assert "canary-value" not in repr({k: v for k, v in vars(source).items() if k != "_config"})
    assert "canary-value" not in repr(source.current())


def test_threads_see_whole_configurations_while_the_file_is_edited(path: Path, log: Log) -> None:
    """Whoever asks gets one of the good texts, and all get the last one in the end."""
    source = ConfigSource.find(path)
    stop = threading.Event()
    seen: set[tuple[str, ...]] = set()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                seen.add(source.current().task(None).models)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        new = path.with_name("new")
        new.write_text(OTHER if turn % 2 else GOOD)
        new.replace(path)
    write(path.with_name("new"), OTHER, age=0).replace(path)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen <= {("a",), ("b",)}
    assert source.current().task(None).models == ("b",)
    assert log == []
