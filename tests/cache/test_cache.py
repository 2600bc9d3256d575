"""The store of answers: text only, a checksum on each row, and no trouble of its own ever fails a call."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import diskcache
import pytest
from structlog.testing import capture_logs

from testronaut_llm.cache.answer_cache import AnswerCache, sealed
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.support.paths import Connection

KEY = "ab" * 32
SETTINGS = CacheConfig()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    made = AnswerCache(tmp_path / "answers")
    yield made
    made.close()


def same(value: Any) -> Any:
    return value


def rows(cache: AnswerCache, statement: str, *values: Any) -> list[Any]:
    """Works on the file behind the store's back."""
    connection = sqlite3.connect(cache.folder / "cache.db", isolation_level=None)
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def test_what_was_stored_comes_back(cache: AnswerCache, tmp_path: Path) -> None:
    """In the same process and in the next one."""
    assert cache.read(KEY, same, SETTINGS) is None
    cache.write(KEY, {"text": "héllo\n"}, SETTINGS, task="t")
    assert cache.read(KEY, same, SETTINGS) == {"text": "héllo\n"}
    assert AnswerCache(tmp_path / "answers").read(KEY, same, SETTINGS) == {"text": "héllo\n"}


def test_the_folder_is_the_users_alone(cache: AnswerCache) -> None:
    """0700, also where it was there before with a wider mode; the file is 0600."""
    cache.folder.mkdir(mode=0o755)
    cache.folder.chmod(0o777)
    cache.write(KEY, 1, SETTINGS, task="t")
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((cache.folder / "cache.db").stat().st_mode) == 0o600


def test_nothing_is_opened_before_it_is_needed(cache: AnswerCache) -> None:
    """Making and closing a store touches no file."""
    assert not cache.is_open
    cache.close()
    assert not cache.folder.exists()


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def _pickled(cache: AnswerCache, mark: Path) -> None:
    rows(cache, "UPDATE Cache SET mode = 4, value = ?", pickle.dumps(Bomb(mark)))


def _pickled_file(cache: AnswerCache, mark: Path) -> None:
    (cache.folder / "bomb").write_bytes(pickle.dumps(Bomb(mark)))
    rows(cache, "UPDATE Cache SET mode = 4, value = NULL, filename = 'bomb'")


def _outside(cache: AnswerCache, mark: Path) -> None:
    mark.with_name("outside").write_text(sealed(KEY, "stolen"))
    rows(cache, "UPDATE Cache SET mode = 3, value = NULL, filename = '../outside'")


def _bytes(cache: AnswerCache, mark: Path) -> None:
    rows(cache, "UPDATE Cache SET value = ?", sealed(KEY, "bytes").encode())


def _changed(cache: AnswerCache, mark: Path) -> None:
    rows(cache, "UPDATE Cache SET value = replace(value, 'good', 'evil')")


def _of_another_key(cache: AnswerCache, mark: Path) -> None:
    rows(cache, "UPDATE Cache SET value = ?", sealed("cd" * 32, "good"))


def _deep(cache: AnswerCache, mark: Path) -> None:
    value = sealed(KEY, 1)
    text = "[" * 100_000
    checksum = hashlib.sha256(f"{KEY}\n{text}".encode()).hexdigest()[: len(value) - 1]
    rows(cache, "UPDATE Cache SET value = ?", checksum + text)


POISONS = (_pickled, _pickled_file, _outside, _bytes, _changed, _of_another_key, _deep)


@pytest.mark.parametrize("poison", POISONS, ids=lambda poison: poison.__name__.strip("_"))
def test_a_poisoned_row_is_a_miss_and_one_warning(cache: AnswerCache, tmp_path: Path, poison: Any) -> None:
    """It runs nothing, reads no other file, and is replaced by the next answer; CVE-2025-69872."""
    cache.write(KEY, "good", SETTINGS, task="t")
    mark = tmp_path / "ran"
    poison(cache, mark)
    with capture_logs() as logs:
        assert [cache.read(KEY, same, SETTINGS) for _ in range(3)] == [None, None, None]
    assert [entry["event"] for entry in logs] == ["cache_trouble"]
    assert "mv " in logs[0]["mend"]
    cache.write(KEY, "new", SETTINGS, task="t")
    assert cache.read(KEY, same, SETTINGS) == "new"
    assert not mark.exists()


def test_the_attack_works_on_diskcache_itself(tmp_path: Path) -> None:
    """The row that the store refuses does run code where diskcache is used as it comes."""
    cache = diskcache.Cache(str(tmp_path / "plain"))
    cache.set(KEY, "x" * 10)
    connection = sqlite3.connect(tmp_path / "plain" / "cache.db", isolation_level=None)
    connection.execute("UPDATE Cache SET mode = 4, value = ?", (pickle.dumps(Bomb(tmp_path / "ran")),))
    connection.close()
    cache.get(KEY)
    cache.close()
    assert (tmp_path / "ran").exists()


def test_a_pickled_key_is_refused(cache: AnswerCache, tmp_path: Path) -> None:
    """Walking over the keys unpickles none."""
    cache.write(KEY, "good", SETTINGS, task="t")
    rows(cache, "UPDATE Cache SET raw = 0, key = ?", pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ValueError, match="pickled key"):
        list(cache._cache)
    assert not (tmp_path / "ran").exists()


def test_a_row_that_names_a_file_deletes_none(cache: AnswerCache, tmp_path: Path) -> None:
    """Replacing or dropping a poisoned row leaves the file alone that it points to."""
    victim = tmp_path / "victim"
    for act in (lambda: cache.write(KEY, 2, SETTINGS, task="t"), lambda: cache.drop([KEY], SETTINGS)):
        victim.write_text("precious")
        cache.write(KEY, 1, SETTINGS, task="t")
        rows(cache, "UPDATE Cache SET filename = '../victim'")
        act()
        assert victim.read_text() == "precious"


def test_nothing_but_text_goes_in(cache: AnswerCache) -> None:
    """A value or a key of any other type is refused rather than pickled."""
    cache.write(KEY, 1, SETTINGS, task="t")
    for key, value in ((KEY, b"bytes"), (KEY, 1), ((1, 2), "text")):
        with pytest.raises(ValueError, match="in place of text"):
            cache._cache.set(key, value)


def test_a_value_that_is_no_json_is_not_stored(cache: AnswerCache) -> None:
    """It costs a warning, never the call."""
    with capture_logs() as logs:
        cache.write(KEY, {1, 2}, SETTINGS, task="t")
    assert [entry["event"] for entry in logs] == ["cache_trouble"]


@pytest.mark.parametrize("garbage", [b"This is no database. " * 400, b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_garbage_file_is_moved_aside(cache: AnswerCache, garbage: bytes) -> None:
    """The store begins anew beside what somebody may want to look at."""
    cache.folder.mkdir(parents=True)
    (cache.folder / "cache.db").write_bytes(garbage)
    with capture_logs():
        cache.write(KEY, "good", SETTINGS, task="t")
        assert cache.read(KEY, same, SETTINGS) == "good"
    assert not garbage or (cache.folder / "cache.db.broken").read_bytes() == garbage


def test_a_file_that_breaks_while_it_is_open_is_replaced(cache: AnswerCache) -> None:
    """One warning, and the next answer is stored again."""
    for number in range(50):
        cache.write(f"{number:064x}", "x" * 1000, SETTINGS, task="t")
    cache.close()
    file = cache.folder / "cache.db"
    file.write_bytes(file.read_bytes()[:8192] + b"\xee" * (file.stat().st_size - 8192))
    with capture_logs() as logs:
        assert cache.read(f"{49:064x}", same, SETTINGS) is None
        cache.write(KEY, "good", SETTINGS, task="t")
        cache.write(KEY, "good", SETTINGS, task="t")
        assert cache.read(KEY, same, SETTINGS) == "good"
    assert {entry["event"] for entry in logs} == {"cache_trouble"}
    assert len(logs) == 1


def test_a_folder_that_cannot_be_used_is_a_miss(tmp_path: Path) -> None:
    """A file stands in its place: nothing is read, nothing stored, one warning, and no attempt at each call."""
    (tmp_path / "answers").write_text("in the way")
    cache = AnswerCache(tmp_path / "answers")
    with capture_logs() as logs:
        for _ in range(3):
            cache.write(KEY, 1, SETTINGS, task="t")
            assert cache.read(KEY, same, SETTINGS) is None
            cache.drop([KEY], SETTINGS)
    assert [entry["event"] for entry in logs] == ["cache_trouble"]


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_BUSY"])
def test_each_fault_of_the_disk_is_a_miss(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Full, read-only, broken or locked: neither reading nor writing nor dropping raises."""
    cache.write(KEY, 1, SETTINGS, task="t")

    def fail(*_: Any, **__: Any) -> Any:
        error = sqlite3.OperationalError(name)
        error.sqlite_errorname = name  # type: ignore[misc]  # read-only in its stub
        raise error

    for method in ("get", "set", "delete"):
        monkeypatch.setattr(diskcache.Cache, method, fail)
    with capture_logs() as logs:
        cache.write(KEY, 2, SETTINGS, task="t")
        cache.drop([KEY], SETTINGS)
        assert cache.read(KEY, same, SETTINGS) is None
    assert [entry["event"] for entry in logs] == ["cache_trouble"]


def test_a_store_that_was_down_is_tried_again(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rests for some seconds, and no longer."""
    now = [100.0]
    monkeypatch.setattr("testronaut_llm.cache.answer_cache.time.monotonic", lambda: now[0])
    cache.folder.write_text("in the way")
    with capture_logs():
        cache.write(KEY, 1, SETTINGS, task="t")
    cache.folder.unlink()
    cache.write(KEY, 1, SETTINGS, task="t")
    assert cache.read(KEY, same, SETTINGS) is None
    now[0] += 6
    cache.write(KEY, 1, SETTINGS, task="t")
    assert cache.read(KEY, same, SETTINGS) == 1


def test_a_locked_file_keeps_nobody_waiting_for_a_minute(cache: AnswerCache) -> None:
    """A store that another process holds for itself is a miss after half a second; diskcache alone waits 60."""
    cache.write(KEY, 1, SETTINGS, task="t")
    cache.close()
    holder = sqlite3.connect(cache.folder / "cache.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with capture_logs() as logs:
        assert cache.read(KEY, same, SETTINGS) is None
    holder.execute("ROLLBACK")
    holder.close()
    assert "locked" in logs[0]["fault"]


def test_an_answer_lives_as_long_as_its_ttl(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is asked for anew; `null` keeps it for ever, and what stands beside the answers does not age."""
    real = time.time
    cache.write(KEY, 1, CacheConfig(ttl=60), task="t")
    cache.write("cd" * 32, 2, CacheConfig(ttl=None), task="t")
    cache.write("digest:x", "d", CacheConfig(ttl=60), task=None)
    monkeypatch.setattr("diskcache.core.time.time", lambda: real() + 61)
    assert cache.read(KEY, same, SETTINGS) is None
    assert cache.read("cd" * 32, same, SETTINGS) == 2
    assert cache.read("digest:x", same, SETTINGS) == "d"


def test_the_oldest_leave_when_the_store_is_full(cache: AnswerCache) -> None:
    """The store keeps to its size, an edit of which holds at once."""
    large, small = CacheConfig(size_limit=10**8), CacheConfig(size_limit=100_000)
    for number in range(40):
        cache.write(f"{number:064x}", "x" * 4000, large, task="t")
    assert cache.read(f"{0:064x}", same, large)
    for number in range(40, 60):
        cache.write(f"{number:064x}", "x" * 4000, small, task="t")
    assert cache.read(f"{0:064x}", same, small) is None
    assert cache.read(f"{59:064x}", same, small)


def test_many_threads_open_it_once(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for the one that opens it, and all find it open."""
    from testronaut_llm.cache import disk as cache_disk

    opened: list[Path] = []
    real = cache_disk.open_cache

    def slowly(folder: Path, size_limit: int, *, suspect: bool) -> Any:
        opened.append(folder)
        time.sleep(0.05)
        return real(folder, size_limit, suspect=suspect)

    monkeypatch.setattr(cache_disk, "open_cache", slowly)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: cache.write(f"{n:064x}", n, SETTINGS, task="t"), range(16)))
    assert [cache.read(f"{n:064x}", same, SETTINGS) for n in range(16)] == list(range(16))
    assert len(opened) == 1


def test_every_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other threads too, and those of a store that nobody closed: Python 3.13 warns of each one left open."""
    opened: set[int] = set()
    closed: set[int] = set()
    real = sqlite3.connect

    def connect(*args: Any, **settings: Any) -> Any:
        connection = real(*args, **settings)
        if isinstance(connection, Connection):
            connection.number = len(opened)
            opened.add(connection.number)
        return connection

    def close(connection: Any) -> None:
        closed.update(getattr(connection, name) for name in ("number",) if hasattr(connection, name))
        sqlite3.Connection.close(connection)

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(Connection, "close", close)
    store, together = AnswerCache(tmp_path / "answers"), threading.Barrier(4)
    store.write(KEY, 1, SETTINGS, task="t")

    def read(store: AnswerCache) -> Any:
        together.wait()
        return store.read(KEY, same, SETTINGS)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, [store] * 4)) == [1] * 4
    del store
    gc.collect()
    assert opened == closed
    assert len(closed) >= 5


def test_a_lock_that_a_fork_left_behind_is_no_deadlock(cache: AnswerCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody will ever release it: that is a miss."""
    monkeypatch.setattr("testronaut_llm.cache.answer_cache._COOLDOWN", 0.01)
    cache._opening.acquire()
    with capture_logs() as logs:
        assert cache.read(KEY, same, SETTINGS) is None
    assert [entry["event"] for entry in logs] == ["cache_trouble"]


def _storm(folder: Path, me: int) -> bool:
    cache = AnswerCache(folder)
    own = [f"{me:032x}{number:032x}" for number in range(20)]
    for number, key in enumerate(own):
        cache.write(key, [me, number], SETTINGS, task="t")
        cache.write(f"{number:064x}", "shared", SETTINGS, task="t")
    return [cache.read(key, same, SETTINGS) for key in own] == [[me, number] for number in range(20)]


def test_32_processes_share_one_store(cache: AnswerCache) -> None:
    """They open it, write and read at once: nothing is lost, nothing is mixed up, nobody fails."""
    children = []
    for me in range(1, 33):
        if (child := os.fork()) == 0:
            with suppress(BaseException):
                os._exit(0 if _storm(cache.folder, me) else 1)
            os._exit(2)
        children.append(child)
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    assert [cache.read(f"{number:064x}", same, SETTINGS) for number in range(20)] == ["shared"] * 20
    assert rows(cache, "PRAGMA integrity_check") == [("ok",)]
