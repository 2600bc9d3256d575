"""Counts, deletes, exports and imports stored answers, for the commands of `cache`.

An exported file (JSON lines) can be committed: a run on another machine then needs no keys and costs nothing.
"""

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testronaut_llm.cache.answer_cache import ERRORS, FILE, Store, default_folder, explained, opened, sealed, unsealed
from testronaut_llm.cache.entry import FORMAT, answer_of, vector_of
from testronaut_llm.config.sections import CacheConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import size_of, write_atomically
from testronaut_llm.support.text import few, parse_json, read_utf8
from testronaut_llm.telemetry.redaction import Redactor

_KEY = re.compile(r"(digest:)?[0-9a-f]{64}")
_PATIENCE = 30.0  # seconds to wait for another program that writes to the store
_ROWS = """SELECT key, value, tag, store_time FROM Cache
           WHERE raw AND filename IS NULL AND (expire_time IS NULL OR expire_time > ?) ORDER BY store_time"""


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
