"""Counts, deletes, exports and imports stored answers, for the commands of `cache`.

An exported file of JSON lines may be committed: a run elsewhere then needs neither keys nor money.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testronaut_llm.cache.answer_cache import default_folder, sealed, unsealed
from testronaut_llm.cache.entry import check
from testronaut_llm.cache.key import FORMAT
from testronaut_llm.errors import ConfigError
from testronaut_llm.support.paths import write_atomically
from testronaut_llm.support.text import read_utf8
from testronaut_llm.telemetry.redaction import Redactor

if TYPE_CHECKING:
    from testronaut_llm.config.sections import CacheConfig

_KEY = re.compile(r"(digest:)?[0-9a-f]{64}")
_ROWS = """SELECT key, value, tag, store_time FROM Cache
           WHERE raw AND filename IS NULL AND (expire_time IS NULL OR expire_time > ?)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One stored answer or vector; `stored` is seconds since 1970. Without a task it is the digest of a local model."""

    key: str
    task: str | None
    stored: float
    value: Any


class CacheFiles:
    """The store of the user's answers.

    Args:
        settings: of `cache:` in llm.yaml.
    """

    def __init__(self, settings: CacheConfig) -> None:
        self.folder, self._settings = default_folder(), settings

    @property
    def bytes(self) -> int:
        """The size on disk."""
        return sum(file.stat().st_size for file in self.folder.glob("cache.db*"))

    def kept(self, *, task: str | None = None, before: float | None = None, digests: bool = False) -> Iterator[Kept]:
        """Yields what is stored, the oldest first. Rows that this package has not written are left out.

        Args:
            task: only of this one.
            before: only what was stored before this time, in seconds since 1970.
            digests: also those of local models, without which their answers are not found elsewhere.

        Raises:
            ConfigError: the store cannot be read.
        """
        file = self.folder / "cache.db"
        if not file.exists():
            return
        with self._explained(), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
            for key, text, tag, stored in db.execute(f"{_ROWS} ORDER BY store_time", (time.time(),)):
                wanted = digests if tag is None else task in (None, tag)
                if wanted and (before is None or stored < before):
                    try:
                        yield Kept(key=key, task=tag, stored=stored, value=unsealed(key, text))
                    except (ValueError, TypeError):
                        continue

    def clear(self, *, task: str | None = None, before: float | None = None) -> int:
        """Deletes all, or what is of that task and was stored before that time. Returns how many.

        Raises:
            ConfigError: the store cannot be changed.
        """
        if not (self.folder / "cache.db").exists():
            return 0
        keys = None if task is None and before is None else [one.key for one in self.kept(task=task, before=before)]
        with self._explained(), closing(self._open()) as store:
            if keys is None:
                return int(store.clear())
            return sum(store.delete(key) for key in keys)

    def export(self, file: Path, *, task: str | None = None, force: bool = False) -> tuple[int, list[Kept]]:
        """Writes what is stored, one a line and sorted, so that a new one is one more line in a diff.

        Returns how many lines were written, and what was left out, since it looks as if it held a secret; with `force`
        nothing is.

        Raises:
            ConfigError: the store cannot be read, or the file not be written.
        """
        redact, clean, left_out = Redactor().redact, [], []
        for one in sorted(self.kept(task=task, digests=True), key=lambda one: one.key):
            row = {"key": one.key, "format": FORMAT, "task": one.task, "value": one.value}
            line = json.dumps(row, ensure_ascii=False)
            if force or redact(line) == line:
                clean.append(line)
            else:
                left_out.append(one)
        try:
            write_atomically(file, "".join(f"{line}\n" for line in clean), mode=0o644)
        except OSError as error:
            raise ConfigError(f"cannot write {file}: {error.strerror}") from None
        return len(clean), left_out

    def load(self, file: Path) -> int:
        """Imports what such a file holds, all of it or nothing; what is stored already is replaced. Returns how many.

        Raises:
            ConfigError: the file or its lines are wrong, each named; or the store cannot be written.
        """
        rows, faults = [], []
        for number, line in enumerate(read_utf8(file).split("\n"), 1):
            if line.strip():
                row, fault = _row(line)
                rows.append(row)
                faults += [f"{file}:{number}: {fault}"] if fault else []
        if faults:
            more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise ConfigError("nothing was imported:\n  " + "\n  ".join(faults[:10]) + more)
        with self._explained(), closing(self._open()) as store, store.transact(retry=True):
            for row in rows:
                key = row["key"]
                ttl = None if row["task"] is None else self._settings.ttl
                store.set(key, sealed(key, row["value"]), expire=ttl, tag=row["task"])
        return len(rows)

    def _open(self) -> Any:
        from testronaut_llm.cache.disk import open_cache

        return open_cache(self.folder, self._settings.size_limit)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            from testronaut_llm.cache.disk import mend_of

            mend = mend_of(error, self.folder)
            raise ConfigError(f"the cache in {self.folder} cannot be used: {error}; {mend}") from None


def _row(line: str) -> tuple[Any, str | None]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"no JSON ({error})"
    if not isinstance(row, dict) or not isinstance(row.get("key"), str) or not _KEY.fullmatch(row["key"]):
        return None, "expected a JSON object with a `key` of 64 hex digits, as `cache export` writes it"
    if row.get("format") != FORMAT:
        return None, f"format {row.get('format')!r}, expected {FORMAT}: export it anew with this version"
    if row["key"].startswith("digest:"):
        sound = row.get("task") is None and isinstance(row.get("value"), str)
        return row, None if sound else "expected a digest: no `task`, and `value`, a text"
    if not isinstance(row.get("task"), str) or not isinstance(row.get("value"), dict):
        return None, "expected `task`, a text, and `value`, an object"
    try:
        check(row["value"])
    except ValueError as error:
        return None, str(error)
    return row, None
