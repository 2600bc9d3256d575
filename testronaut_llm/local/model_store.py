"""The folder of embedded models: a GGUF file each, and an index with the source, size and digest of each.

A file gets its name only when it is complete and checked.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import held
from testronaut_llm.support import paths
from testronaut_llm.support.paths import write_atomically

SAFE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
"""Device names of Windows, where a file cannot have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model on this disk: `size` in bytes, `sha256` of the whole file, `context` in tokens, times ISO 8601 in UTC."""

    name: str
    source: str
    sha256: str
    size: int
    context: int = 0
    license: str = ""
    added: str = ""
    last_used: str = ""


_ROWS = TypeAdapter(dict[str, StoredModel])  # leaves out fields that only another version knows


class ModelStore:
    """The models of one folder (default: `models` in the user's data folder). Safe across threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.data_dir() / "models"

    def path(self, name: str) -> Path:
        """Returns where the file of `name` is or would be. Raises LocalModelError: the name is no file name."""
        return self.folder / f"{checked_name(name)}.gguf"

    def get(self, name: str) -> StoredModel | None:
        """Returns the entry of `name`, or None if it is not here."""
        model = self._read().get(checked_name(name))
        return model if model and self.path(name).is_file() else None

    def list(self) -> tuple[StoredModel, ...]:
        """Returns all models, sorted by name."""
        return tuple(model for name in sorted(self._read()) if (model := self.get(name)))

    def add(self, file: Path, model: StoredModel) -> StoredModel:
        """Moves a complete and checked `file` of this disk into the store, in one step, under `model.name`."""
        target = self.path(model.name)
        stored = replace(model, added=_iso(time.time()))
        with self._changed() as models:
            file.replace(target)
            models[model.name] = stored
        return stored

    def remove(self, name: str) -> bool:
        """Deletes the file, the index entry and the leftovers of a download. True if anything was there.

        Raises:
            LocalModelError: the model is being pulled.
        """
        import filelock

        try:
            with self.locked(f"pull-{checked_name(name)}", timeout=0), self._changed() as models:
                files = self._files(name)
                for file in files:
                    file.unlink(missing_ok=True)
                shutil.rmtree(self._parts / name, ignore_errors=True)
                return models.pop(name, None) is not None or bool(files)
        except filelock.Timeout:
            raise LocalModelError(f"embedded/{name} is being pulled; try again when that has ended") from None

    def unused(self, age: float) -> dict[str, int]:
        """Returns the bytes of each model and each leftover of a download, by name, not touched for `age` seconds."""
        limit, known, found = max(0.0, time.time() - age), self._read(), {}
        folders = (one.name for one in self._parts.glob("*"))
        for name in sorted({*known, *folders, *(file.stem for file in self.folder.glob("*.gguf"))}):
            if not SAFE_NAME.fullmatch(name):
                continue
            facts = [file.stat() for file in self._files(name)]
            used = _iso(max((one.st_mtime for one in facts), default=0.0))
            if name in known:
                used = known[name].last_used or known[name].added
            if used <= _iso(limit):
                found[name] = sum(one.st_size for one in facts)
        return found

    def _files(self, name: str) -> Sequence[Path]:
        """Returns the files that a model has on disk, those of an unfinished download included."""
        return [file for file in (self.path(name), *(self._parts / name).rglob("*")) if file.is_file()]

    def touch(self, name: str) -> None:
        """Records that `name` is used now."""
        with self._changed() as models:
            if name in models:
                models[name] = replace(models[name], last_used=_iso(time.time()))

    def locked(
        self, what: str, waiting: Callable[[], None] | None = None, *, timeout: float = -1.0
    ) -> AbstractContextManager[None]:
        """Holds the lock for `what`; see `download.held`."""
        return held(self.folder / f".{what}.lock", waiting, timeout=timeout)

    @property
    def _parts(self) -> Path:
        return self.folder / ".parts"

    @property
    def _index(self) -> Path:
        return self.folder / "index.json"

    def _read(self) -> dict[str, StoredModel]:
        """A broken index reads as an empty one: pulling a model again finds the file, checks it and writes it anew."""
        try:
            rows = json.loads(self._index.read_text("utf-8"))["models"]
            return _ROWS.validate_python({checked_name(name): {**row, "name": name} for name, row in rows.items()})
        except (OSError, ValueError, LookupError, TypeError, AttributeError, LocalModelError):
            return {}

    @contextmanager
    def _changed(self) -> Iterator[dict[str, StoredModel]]:
        with self.locked("index"):
            models = self._read()
            yield models
            rows = {name: asdict(model) for name, model in models.items()}
            write_atomically(self._index, json.dumps({"version": 1, "models": rows}, indent=1) + "\n")


def checked_name(name: str) -> str:
    """Returns `name`. Raises LocalModelError: it cannot be a file name on every platform."""
    if SAFE_NAME.fullmatch(name) and not RESERVED.fullmatch(name):
        return name
    raise LocalModelError(
        f"{name!r} cannot be the name of an embedded model: up to 64 lower-case letters, digits, dots, dashes and "
        "underscores, as in embedded/smollm2-135m"
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
