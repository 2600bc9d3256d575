"""The one folder of embedded models: a GGUF file each, and an index that says where it came from and what it must be.

Files get their name only when they are whole and checked, so whatever has a name can be loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
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
        """Where the file of `name` is or would be. Raises LocalModelError: it cannot be a file's name everywhere."""
        return self.folder / f"{checked_name(name)}.gguf"

    def find(self, name: str) -> Path | None:
        """The file of `name`, or None if it is not here."""
        return self.path(name) if self.get(name) else None

    def digest(self, name: str) -> str | None:
        """The sha256 of the file of `name` as it was when it was stored, or None."""
        return model.sha256 if (model := self.get(name)) else None

    def get(self, name: str) -> StoredModel | None:
        """What is known about `name`, or None if it is not here."""
        model = self._read().get(checked_name(name))
        return model if model and self.path(name).is_file() else None

    def list(self) -> tuple[StoredModel, ...]:
        """All models, by name."""
        return tuple(model for name in sorted(self._read()) if (model := self.get(name)))

    def add(self, file: Path, model: StoredModel) -> StoredModel:
        """Move a whole and checked `file` of this disk into the store, in one step, under `model.name`."""
        target = self.path(model.name)
        stored = replace(model, added=_now())
        with self._changed() as models:
            file.replace(target)
            models[model.name] = stored
        return stored

    def remove(self, name: str) -> bool:
        """Delete the file and forget it; whether it was there."""
        with self._changed() as models:
            known = models.pop(name, None)
            self.path(name).unlink(missing_ok=True)
        return known is not None

    def touch(self, name: str) -> None:
        """Note that `name` is used now."""
        with self._changed() as models:
            if name in models:
                models[name] = replace(models[name], last_used=_now())

    def locked(
        self, what: str, waiting: Callable[[], None] | None = None, *, timeout: float = -1.0
    ) -> AbstractContextManager[None]:
        """Hold the lock for `what`; see `download.held`."""
        return held(self.folder / f".{what}.lock", waiting, timeout=timeout)

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
    """`name`, if it can be a file name on every platform. Raises LocalModelError: it cannot."""
    if SAFE_NAME.fullmatch(name) and not RESERVED.fullmatch(name):
        return name
    raise LocalModelError(
        f"{name!r} cannot be the name of an embedded model: up to 64 lower-case letters, digits, dots, dashes and "
        "underscores, as in embedded/smollm2-135m"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
