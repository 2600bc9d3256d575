"""Files are read as UTF-8 and written at once, and folders are found without a HOME."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from manager_kit import Run

from testronaut_llm import LLMManager
from testronaut_llm.cache.files import CacheFiles
from testronaut_llm.cli.batch import keyed
from testronaut_llm.cli.options import prompts_of, read_prompt, read_schema
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.config.source import load_config, set_value
from testronaut_llm.config.trust import is_trusted, trust
from testronaut_llm.errors import ConfigError
from testronaut_llm.money.price_rows import update_prices
from testronaut_llm.providers.credentials import read_file
from testronaut_llm.support.paths import cache_dir, config_dir, data_dir, user_path, write_atomically

MARK = b"\xef\xbb\xbf"
YAML = b"version: 1\ntasks:\n  t: {models: [openai/gpt-x]}\n"
PRICES = b'{"gpt-x": {"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}}'


READERS: dict[str, tuple[Callable[[Path], object], bytes]] = {
    "llm.yaml": (lambda file: load_config(file).model_dump(), YAML),
    "--schema": (read_schema, b'{"type": "object"}'),
    "--file": (lambda file: read_prompt(None, file), "caf\u00e9".encode()),
    "--batch": (lambda file: list(keyed(file, "")), b'"one"\n"two"\n'),
    "compare --file": (lambda file: list(prompts_of(file)), b'"one"\n'),
    "a key file": (lambda file: file.chmod(0o600) or read_file(str(file)), b"sk-0123456789\n"),
    "cache import": (lambda file: CacheFiles(CacheConfig()).load(file), b""),
    "prices update": (lambda file: update_prices(str(file)).models, PRICES),
}


@pytest.mark.parametrize("what", READERS)
def test_a_mark_is_dropped_and_bad_bytes_are_named(tmp_path: Path, what: str) -> None:
    """A file with a mark reads like one without; invalid bytes are named, except of a key."""
    read, content = READERS[what]
    (tmp_path / "plain").write_bytes(content)
    plain = read(tmp_path / "plain")
    (tmp_path / "marked").write_bytes(MARK + content)
    assert read(tmp_path / "marked") == plain
    if what != "a key file":
        (tmp_path / "bad").write_bytes(b"\n\n  \xff")
        with pytest.raises(ConfigError, match=r"bad:3: is not UTF-8 text: .*\(byte 3 of the line is 0xff\)"):
            read(tmp_path / "bad")


def test_a_marked_file_can_be_trusted_and_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "llm.yaml"
    file.write_bytes(MARK + YAML)
    trust(file)
    monkeypatch.chdir(tmp_path)
    assert load_config().trusted
    set_value(file, "tasks.t.models", "openai/gpt-y")
    assert load_config().trusted
    assert not is_trusted(file, YAML.decode())


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without HOME and without an entry in the passwd file, as in some containers."""

    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "TESTRONAUT_LLM_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("llm.yaml").write_bytes(YAML)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    "use",
    [
        *(config_dir, data_dir, cache_dir, LLMManager),
        lambda: LLMManager("llm.yaml").complete("t", "hi"),
        lambda: trust("llm.yaml"),
        lambda: update_prices("~/prices.json"),
    ],
)
def test_without_a_home_folder_one_error_says_what_to_set(use: Callable[[], object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set HOME, or TESTRONAUT_LLM_HOME"):
        use()
    assert [file.name for file in tmp_path.iterdir()] == ["llm.yaml"]


@pytest.mark.usefixtures("homeless")
def test_a_command_without_a_home_folder_prints_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """TESTRONAUT_LLM_HOME is enough; the path of an unknown user is unchanged."""
    for words in ("run t hi", "models pull embedded/smollm2-135m", "cache stats", "trust llm.yaml"):
        code, out, err = run(*words.split())
        assert (code, out, err.count("\n"), "set HOME, or TESTRONAUT_LLM_HOME" in err) == (2, "", 1, True), err
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", "here")
    assert (config_dir(), data_dir()) == (Path("here/config"), Path("here/data"))
    assert user_path("~nobody-here/x") == Path("~nobody-here/x")
    assert run("config", "show", "version")[0] == 0


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
    link.unlink()
    link.symlink_to(link)
    write_atomically(link, "four")
    assert link.read_text() == "four"


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
