"""The store of answers holds only text with a checksum on each row, and its errors never fail a call."""

from __future__ import annotations

import hashlib
import os
import pickle
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from testronaut_llm.cache import files
from testronaut_llm.cache.answer_cache import AnswerCache
from testronaut_llm.cache.entry import sealed
from testronaut_llm.cache.files import opened
from testronaut_llm.config.sections import CacheConfig

KEY = "ab" * 32
SETTINGS = CacheConfig()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    with closing(AnswerCache(tmp_path / "answers")) as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("testronaut_llm.cache.answer_cache.time.monotonic", lambda: now[0])
    return now


def same(value: Any) -> Any:
    return value


def write(cache: AnswerCache, value: Any, key: str = KEY, settings: CacheConfig = SETTINGS) -> None:
    cache.write(key, value, settings, task="t")


def rows(cache: AnswerCache, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(cache.folder / "cache.db", isolation_level=None)) as db:
        return db.execute(statement, values).fetchall()


def test_what_was_stored_comes_back(cache: AnswerCache) -> None:
    cache.close()
    assert not cache.is_open
    assert not cache.folder.exists()
    cache.folder.mkdir(mode=0o755)
    assert cache.read(KEY, same) is None
    write(cache, {"text": "héllo\n"})
    for one in (cache, AnswerCache(cache.folder)):
        assert one.read(KEY, same) == {"text": "héllo\n"}
    cache.drop([KEY])
    assert cache.read(KEY, same) is None
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((cache.folder / "cache.db").stat().st_mode) == 0o600


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


DEEP = "[" * 100_000
POISONS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "pickled": ("mode = 4, value = ?", lambda mark: pickle.dumps(Bomb(mark))),
    "pickled file": ("mode = 4, value = NULL, filename = ?", lambda mark: mark.with_name("bomb").name),
    "outside": ("mode = 3, value = NULL, filename = ?", lambda _: "../outside"),
    "bytes": ("value = ?", lambda _: sealed(KEY, "bytes").encode()),
    "changed": ("value = replace(value, 'good', ?)", lambda _: "evil"),
    "of another key": ("value = ?", lambda _: sealed("cd" * 32, "good")),
    "deep": ("value = ?", lambda _: hashlib.sha256(f"{KEY}\n{DEEP}".encode()).hexdigest()[:16] + DEEP),
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_row_is_a_miss_and_one_warning(cache: AnswerCache, tmp_path: Path, poison: str) -> None:
    """No code is run, no other file is read or deleted, and the next answer replaces the row; CVE-2025-69872."""
    write(cache, "good")
    mark, victim = tmp_path / "ran", tmp_path / "outside"
    victim.write_text(sealed(KEY, "stolen"))
    (cache.folder / "bomb").write_bytes(pickle.dumps(Bomb(mark)))
    change, value = POISONS[poison]
    rows(cache, f"UPDATE Cache SET {change}", value(mark))
    with capture_logs() as logs:
        assert [cache.read(KEY, same) for _ in range(3)] == [None, None, None]
    assert [entry["event"] for entry in logs] == ["cache_trouble"]
    assert "mv " in logs[0]["fix"]
    write(cache, "new")
    assert cache.read(KEY, same) == "new"
    cache.drop([KEY])
    assert victim.exists()
    assert not mark.exists()


def test_a_pickled_key_is_refused(cache: AnswerCache, tmp_path: Path) -> None:
    write(cache, "good")
    rows(cache, "UPDATE Cache SET raw = 0, key = ?", pickle.dumps(Bomb(tmp_path / "ran")))
    assert cache.read(KEY, same) is None
    with closing(opened(cache.folder)) as store:
        with pytest.raises(ValueError, match="pickled key"):
            list(store)
        for key, value in ((KEY, 1), (("a", "tuple"), "text")):
            with pytest.raises(ValueError, match="instead of text"):
                store.set(key, value)
    assert not (tmp_path / "ran").exists()


def test_no_setting_is_taken_from_the_file(cache: AnswerCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diskcache would set any attribute from the file, such as its folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    write(cache, "good")
    cache.close()
    texts = {"_file": "elsewhere/cache.db", "_directory": "elsewhere", "get": "x", "eviction_policy": "none"}
    numbers = {"sqlite_user_version": 7, "statistics": 1, "disk_min_file_size": 0, "size_limit": 0, "cull_limit": 1000}
    for setting in (texts | numbers).items():
        rows(cache, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", *setting)
    assert cache.read(KEY, same) == "good"
    assert rows(cache, "SELECT value FROM Settings WHERE key = 'hits'") == [(0,)]  # a read writes nothing
    write(cache, "x" * 50_000)
    assert rows(cache, "SELECT mode, filename FROM Cache") == [(1, None)]
    assert rows(cache, "PRAGMA user_version") == [(0,)]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("garbage", [b"This is no database. " * 400, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_garbage_file_is_moved_aside(cache: AnswerCache, garbage: bytes) -> None:
    cache.folder.mkdir(parents=True)
    (cache.folder / "cache.db").write_bytes(garbage)
    with capture_logs():
        write(cache, "good")
        assert cache.read(KEY, same) == "good"
    assert not garbage or (cache.folder / "cache.db.broken").read_bytes() == garbage


def test_a_file_that_breaks_while_it_is_open_is_replaced(cache: AnswerCache) -> None:
    for number in range(50):
        write(cache, "x" * 1000, f"{number:064x}")
    cache.close()
    file = cache.folder / "cache.db"
    file.write_bytes(file.read_bytes()[:8192] + b"\xee" * (file.stat().st_size - 8192))
    with capture_logs() as logs:
        assert cache.read(f"{49:064x}", same) is None
        write(cache, "good")
        write(cache, "good")
        assert cache.read(KEY, same) == "good"
    assert [entry["event"] for entry in logs] == ["cache_trouble"]


def test_a_folder_that_cannot_be_used_is_a_miss_and_is_tried_again(cache: AnswerCache, clock: list[float]) -> None:
    cache.folder.write_text("in the way")
    with capture_logs() as logs:
        for _ in range(3):
            write(cache, 1)
            assert cache.read(KEY, same) is None
            cache.drop([KEY])
    assert [entry["event"] for entry in logs] == ["cache_trouble"]
    cache.folder.unlink()
    write(cache, 1)
    assert cache.read(KEY, same) is None
    clock[0] += 6
    write(cache, 1)
    assert cache.read(KEY, same) == 1


def test_only_one_write_waits_for_a_program_that_holds_the_store(
    cache: AnswerCache, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TIMEOUT", 0.01)
    write(cache, 1)
    with closing(sqlite3.connect(cache.folder / "cache.db", isolation_level=None)) as holder, capture_logs() as logs:
        holder.execute("BEGIN IMMEDIATE")
        write(cache, 2)
        assert cache.read(KEY, same) == 1
    write(cache, 2)
    assert cache.read(KEY, same) == 1
    clock[0] += 6
    write(cache, 3)
    assert cache.read(KEY, same) == 3
    assert len(logs) == 1
    assert "fuser -v" in logs[0]["fix"]


def test_an_answer_lives_as_long_as_its_ttl(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    write(cache, 1, settings=CacheConfig(ttl=60))
    write(cache, 2, "cd" * 32, CacheConfig(ttl=None))
    cache.write("digest:x", "d", CacheConfig(ttl=60), task=None)
    monkeypatch.setattr("testronaut_llm.cache.answer_cache.time.time", lambda: real() + 61)
    assert [cache.read(key, same) for key in (KEY, "cd" * 32, "digest:x")] == [None, 2, "d"]
    for number in range(4):
        write(cache, 1, f"{number:064x}")
    assert rows(cache, "SELECT count(*) FROM Cache WHERE key = ?", KEY) == [(0,)]


def test_the_oldest_leave_when_the_store_is_full(cache: AnswerCache) -> None:
    large, small = CacheConfig(size_limit=10**8), CacheConfig(size_limit=100_000)
    for number in range(60):
        write(cache, "x" * 4000, f"{number:064x}", large if number < 40 else small)
        assert number != 39 or cache.read(f"{0:064x}", same)
    assert cache.read(f"{0:064x}", same) is None
    assert cache.read(f"{59:064x}", same)
    assert rows(cache, "PRAGMA page_count")[0][0] * 4096 < 200_000


def test_a_store_that_another_thread_never_opens_is_a_miss(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork, the thread that was opening the store is gone."""
    monkeypatch.setattr("testronaut_llm.cache.answer_cache._COOLDOWN", 0.01)
    cache._opening.acquire()
    with capture_logs() as logs:
        assert cache.read(KEY, same) is None
    assert [entry["event"] for entry in logs] == ["cache_trouble"]


def _storm(folder: Path, me: int) -> bool:
    cache = AnswerCache(folder)
    own = [f"{me:032x}{number:032x}" for number in range(20)]
    for number, key in enumerate(own):
        write(cache, [me, number], key)
        write(cache, "shared", f"{number:064x}")
    return [cache.read(key, same) for key in own] == [[me, number] for number in range(20)]


def test_32_processes_share_one_store(cache: AnswerCache) -> None:
    children = []
    for me in range(1, 33):
        if (child := os.fork()) == 0:
            with suppress(BaseException):
                os._exit(0 if _storm(cache.folder, me) else 1)
            os._exit(2)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    assert [cache.read(f"{number:064x}", same) for number in range(20)] == ["shared"] * 20
    assert rows(cache, "PRAGMA integrity_check") == [("ok",)]
