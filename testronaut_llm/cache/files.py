"""The store of answers: opens, repairs, counts, deletes, exports and imports it.

diskcache unpickles rows and keys that are marked so, and reads and deletes any file that a row names (CVE-2025-69872).
Here all values are text in its SQLite file; rows of another kind are neither written nor read. An exported file (JSON
lines) can be committed: a run on another machine then needs no keys and costs nothing.
"""

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diskcache.core import DEFAULT_SETTINGS, ENOVAL, METADATA, MODE_RAW, Cache, Disk, Timeout

from testronaut_llm.cache.entry import FORMAT, answer_of, default_folder, sealed, unsealed, vector_of
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import Connection, fix_of, is_corrupt, make_folder, size_of, write_atomically
from testronaut_llm.support.text import few, parse_json, read_utf8
from testronaut_llm.telemetry.redaction import Redactor

_KEY = re.compile(r"(digest:)?[0-9a-f]{64}")
_PATIENCE = 30.0  # seconds to wait for another program that writes to the store
_ROWS = """SELECT key, value, tag, store_time FROM Cache
           WHERE raw AND filename IS NULL AND (expire_time IS NULL OR expire_time > ?) ORDER BY store_time"""
FILE, ERRORS = "cache.db", (OSError, sqlite3.Error, Timeout)
_TIMEOUT, _LOOK = 5.0, 1.0  # seconds to wait for other writers (dozens at once need three), and to see if it is ready
_OURS = {"statistics": 0, "eviction_policy": "least-recently-stored", "cull_limit": 10, "disk_min_file_size": 2**31 - 1}
_SETTINGS = {**DEFAULT_SETTINGS, **_OURS}  # all of them, so that none is read from the file; a read writes nothing


class _TextDisk(Disk):  # type: ignore[misc]  # diskcache has no types
    """Stores text only; other keys and values raise ValueError."""

    def put(self, key: Any) -> tuple[str, bool]:
        return _text(key), True

    def get(self, key: Any, raw: bool) -> str:
        if not raw:
            raise ValueError("a pickled key")
        return _text(key)

    def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, None, str]:  # noqa: ARG002 - diskcache's
        return 0, MODE_RAW, None, _text(value)

    def fetch(self, mode: int, filename: str | None, value: Any, read: Any) -> str:  # noqa: ARG002 - as above
        if mode != MODE_RAW or filename is not None:
            raise ValueError("a pickle, or a file outside the store, instead of text")
        return _text(value)

    def remove(self, file_path: str) -> None:
        """Deletes nothing: rows of this package have no file, and a foreign row may name any."""


class Store(Cache):  # type: ignore[misc]  # as above
    """A diskcache of text that opens quickly, and whose connections close themselves."""

    def __init__(self, folder: Path, *, new: bool, timeout: float) -> None:
        self._new, self._file, self._wait = new, folder / FILE, timeout
        super().__init__(folder, timeout=timeout, disk=_TextDisk, **_SETTINGS)

    def reset(self, key: str, value: Any = ENOVAL, update: bool = True) -> Any:
        """Changes or reads a known setting. An unknown one could replace any attribute, such as the folder."""
        return super().reset(key, value, update) if key in _SETTINGS or key in METADATA else None

    @property
    def _con(self) -> Any:
        """Returns the connection of this thread and process."""
        if getattr(self._local, "pid", None) != os.getpid() or not hasattr(self._local, "con"):
            self._local.con, self._local.pid = connect(self._file, self._wait), os.getpid()
        return self._local.con

    @property
    def _sql_retry(self) -> Any:
        """Executes statements that open a store, without the wait of a minute; writes only to a new store."""
        execute = self._con.execute
        return lambda sql, *values: execute(sql, *values) if self._new or sql.startswith(("SELECT", "PRAGMA")) else None


def opened(folder: Path, *, suspect: bool = False, timeout: float | None = None) -> Store:
    """Opens the store. A missing file is created, a damaged one moved aside; with `suspect` the whole file is checked.

    `timeout`: seconds to wait for writers. Raises OSError or sqlite3.Error if it cannot be used.
    """
    make_folder(folder)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
    file, state = folder / FILE, ""
    with suppress(sqlite3.OperationalError):  # it is locked, perhaps while it is created
        state = _state(file) if file.exists() and not suspect else ""
    if state != "ready":
        import filelock  # imports asyncio, a tenth of the time of a process with cached answers

        with filelock.FileLock(folder / "open.lock", timeout=_TIMEOUT, mode=0o600):
            if _state(file, whole=suspect) == "broken":
                for path in filter(Path.exists, (file, folder / f"{FILE}-wal", folder / f"{FILE}-shm")):
                    path.replace(f"{path}.broken")
            Store(folder, new=True, timeout=_TIMEOUT).close()
    file.chmod(0o600)
    return Store(folder, new=False, timeout=timeout or _TIMEOUT)


def connect(file: Path, timeout: float) -> Connection:
    """Returns a connection that closes itself when its last reference is deleted."""
    db = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=False, factory=Connection)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def explained(error: BaseException, folder: Path) -> tuple[BaseException, str]:
    """Returns the cause of an error of a store, and the command that fixes it."""
    error = (isinstance(error, Timeout) and error.__context__) or error  # the error of SQLite
    return error, fix_of(error, folder / FILE) or f"to start with an empty cache: mv {folder} {folder}.old"


def _state(file: Path, *, whole: bool = False) -> str:
    """Returns `ready`, `new` or `broken`. Raises sqlite3.Error if it cannot be written."""
    try:
        with closing(connect(file, _LOOK)) as db:
            db.execute("BEGIN IMMEDIATE")
            if whole and db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return "broken"
            made_last = "SELECT 1 FROM sqlite_master WHERE name = 'Settings_size_delete'"
            return "new" if db.execute(made_last).fetchone() is None else "ready"
    except sqlite3.DatabaseError as error:
        if is_corrupt(error):
            return "broken"
        raise


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{type(value).__name__} instead of text")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One stored answer or vector; `stored` is seconds since 1970. Without a task it is the digest of a local model."""

    key: str
    task: str | None
    stored: float
    value: Any


class CacheFiles:
    """The store of the user's answers. Each method raises ConfigError if it cannot be read or written."""

    def __init__(self, settings: CacheConfig) -> None:
        self.folder, self._settings = default_folder(), settings

    @property
    def bytes(self) -> int:
        """Returns the size on disk, in bytes."""
        return sum(map(size_of, self.folder.glob(f"{FILE}*")))

    def kept(self, *, task: str | None = None, digests: bool = False) -> Iterator[Kept]:
        """Yields the stored answers, the oldest first, without rows that this package has not written.

        With `digests`, also those of local models: answers of local models are found only together with them.
        """
        file = self.folder / FILE
        if not file.exists():
            return
        with self._explained(), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            for key, text, tag, stored in db.execute(_ROWS, (time.time(),)):
                if digests if tag is None else task in (None, tag):
                    try:
                        yield Kept(key=key, task=tag, stored=stored, value=unsealed(key, text))
                    except ValueError:
                        continue

    def clear(self, *, task: str | None = None, before: float | None = None) -> int:
        """Deletes all answers, or those of a task and before a time (s since 1970). Returns how many."""
        if not (self.folder / FILE).exists():
            return 0
        with self._changing() as store:
            if before is None:
                return int(store.clear() if task is None else store.evict(task))
            store.expire()  # those are neither kept nor deleted otherwise
            return sum(store.delete(one.key) for one in self.kept(task=task) if one.stored < before)

    def export(self, file: Path, *, task: str | None = None, force: bool = False) -> tuple[int, list[Kept]]:
        """Writes the stored answers, one per line and sorted, so that a new one is one more line in a diff.

        Returns how many lines were written, and the answers left out because they seem to hold a secret; with `force`
        none is left out.
        """
        redact, clean, left_out = Redactor().redact, [], []
        for one in sorted(self.kept(task=task, digests=True), key=lambda one: one.key):
            row = {"key": one.key, "format": FORMAT, "task": one.task, "value": one.value}
            line = json.dumps(row, ensure_ascii=False)
            if force or redact(line) == line:
                clean.append(f"{line}\n")
            else:
                left_out.append(one)
        try:
            write_atomically(file, "".join(clean), mode=0o644)
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from None
        return len(clean), left_out

    def load(self, file: Path) -> int:
        """Imports a file, all or nothing; returns how many answers. Raises ConfigError, which names each wrong line."""
        rows, problems = [], []
        for number, line in enumerate(read_utf8(file).split("\n"), 1):
            try:
                rows += [_row(line)] if line.strip() else []
            except ValueError as error:
                problems.append(f"{file}:{number}: {error}")
        if problems:
            raise ConfigError("nothing was imported:\n  " + few(problems, "\n  "))
        with self._changing() as store:
            for row in rows:
                key, task = row["key"], row["task"]
                store.set(key, sealed(key, row["value"]), expire=None if task is None else self._settings.ttl, tag=task)
        return len(rows)

    @contextmanager
    def _changing(self) -> Iterator[Store]:
        """One transaction on the store."""
        with self._explained(), closing(opened(self.folder, timeout=_PATIENCE)) as store, store.transact():
            store.size_limit = self._settings.size_limit
            yield store

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            cause, fix = explained(error, self.folder)
            raise ConfigError(f"the cache in {self.folder} cannot be used: {cause}; {fix}") from None


def _row(line: str) -> dict[str, Any]:
    """Returns the row of one line of an exported file. Raises ValueError if it is not one."""
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("key"), str) or not _KEY.fullmatch(row["key"]):
        raise ValueError("expected a JSON object with a `key` of 64 hex digits, as `cache export` writes it")
    if row.get("format") != FORMAT:
        raise ValueError(f"format {row.get('format')!r}, expected {FORMAT}; export it again with this version")
    row.setdefault("task", None)
    if row["key"].startswith("digest:"):
        if row["task"] is not None or not isinstance(row.get("value"), str):
            raise ValueError("expected a digest: no `task`, and `value`, a text")
    elif not isinstance(row["task"], str) or not isinstance(row.get("value"), dict):
        raise ValueError("expected `task`, a text, and `value`, an object")
    elif "vector" in row["value"]:
        vector_of(row["value"])
    else:
        answer_of("", None, None, None, row["value"])
    return row
