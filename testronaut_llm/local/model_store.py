"""Stores on this disk: the folder of embedded models with its index, and the measured speeds of models."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import file_lock
from testronaut_llm.providers.provider import endpoint_of
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.support import paths
from testronaut_llm.support.paths import write_atomically

Row = TypeVar("Row")
SAFE_NAME = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
"""Without the device names of Windows, which cannot be names of files."""


class Rows(Generic[Row]):
    """A JSON file with a row for each model, for all threads and processes. If it is damaged, it counts as empty."""

    def __init__(self, file: Path, kind: TypeAdapter[dict[str, Row]]) -> None:
        self.file, self._kind = file, kind

    def read(self) -> dict[str, Row]:
        """Returns the rows by name; ignores fields of other versions."""
        try:
            return self._kind.validate_python(json.loads(self.file.read_text("utf-8"))["models"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError, LocalModelError):
            return {}

    @contextmanager
    def changed(self) -> Iterator[dict[str, Row]]:
        """Yields the rows, and writes them back at the end. Raises OSError: the file cannot be written."""
        with file_lock(self.file.with_name(f".{self.file.stem}.lock")):
            rows = self.read()
            yield rows
            content = {"version": 1, "models": self._kind.dump_python(rows, mode="json")}
            write_atomically(self.file, json.dumps(content, indent=1) + "\n")


def checked_name(name: str) -> str:
    """Returns `name`. Raises LocalModelError if it is not a file name on every platform."""
    if SAFE_NAME.fullmatch(name):
        return name
    expected = "expected up to 64 lower-case letters, digits, dots, dashes and underscores"
    raise LocalModelError(f"{name!r} cannot be the name of an embedded model: {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model on this disk: `size` in bytes, `sha256` of the whole file, `context` in tokens, times ISO 8601 in UTC."""

    name: Annotated[str, AfterValidator(checked_name)]
    source: str
    sha256: str
    size: int
    context: int = 0
    license: str = ""
    added: str = ""
    last_used: str = ""


_INDEX = TypeAdapter(dict[str, StoredModel])


class ModelStore:
    """The models of one folder (default: `models` in the user's data folder). Safe across threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.data_dir() / "models"
        self.parts, self._index = self.folder / ".parts", Rows(self.folder / "index.json", _INDEX)

    def path(self, name: str) -> Path:
        """Returns the path of the file of `name`, which may be missing. Raises LocalModelError: not a file name."""
        return self.folder / f"{checked_name(name)}.gguf"

    def get(self, name: str) -> StoredModel | None:
        """Returns the row of `name`, or None if it is not stored."""
        file = self.path(name)
        return self._index.read().get(name) if file.is_file() else None

    def list(self) -> tuple[StoredModel, ...]:
        """Returns all models, sorted by name."""
        rows = sorted(self._index.read().values(), key=lambda model: model.name)
        return tuple(model for model in rows if self.path(model.name).is_file())

    def add(self, file: Path, model: StoredModel) -> StoredModel:
        """Moves a complete and checked `file` of this disk into the store, in one step, under `model.name`."""
        target, stored = self.path(model.name), replace(model, added=_iso(time.time()))
        with self._index.changed() as models:
            file.replace(target)
            models[model.name] = stored
        return stored

    def remove(self, name: str) -> bool:
        """Deletes file, row and unfinished download; True if there was any. Raises LocalModelError during a pull."""
        import filelock

        try:
            with file_lock(self.pull_lock(name), timeout=0), self._index.changed() as models:
                files = self._files(name)
                for file in files:
                    file.unlink(missing_ok=True)
                shutil.rmtree(self.parts / name, ignore_errors=True)
                return models.pop(name, None) is not None or bool(files)
        except filelock.Timeout:
            raise LocalModelError(f"embedded/{name} is being pulled; try again when that has ended") from None

    def unused(self, age: float) -> dict[str, int]:
        """Returns the bytes of each model and unfinished download that was unused for `age` seconds, by name."""
        limit, known, found = _iso(max(0.0, time.time() - age)), self._index.read(), {}
        names = {*known, *(one.name for one in self.parts.glob("*")), *(one.stem for one in self.folder.glob("*.gguf"))}
        for name in sorted(filter(SAFE_NAME.fullmatch, names)):
            facts = [file.stat() for file in self._files(name)]
            touched = _iso(max((one.st_mtime for one in facts), default=0.0))
            if (known[name].last_used or known[name].added if name in known else touched) <= limit:
                found[name] = sum(one.st_size for one in facts)
        return found

    def touch(self, name: str) -> None:
        """Records that `name` is used now."""
        with self._index.changed() as models:
            if name in models:
                models[name] = replace(models[name], last_used=_iso(time.time()))

    def pull_lock(self, name: str) -> Path:
        """Returns the lock file that each pull of `name` holds."""
        return self.folder / f".pull-{checked_name(name)}.lock"

    def _files(self, name: str) -> tuple[Path, ...]:
        """Returns the files of a model on disk, those of an unfinished download included."""
        return tuple(file for file in (self.path(name), *(self.parts / name).rglob("*")) if file.is_file())


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


Rate = Annotated[float, Field(gt=0)]  # a route divides by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Medians of one measurement: seconds, and tokens a second."""

    model: str  # `provider/name`
    at: str  # ISO 8601 in UTC
    load: float | None  # until a model that was not in memory could answer
    first: float  # to the first token of the answer to a prompt of `prompt_tokens`
    prompt_tokens: int
    prompt_rate: Rate
    answer_rate: Rate

    def seconds(self, prompt: int, answer: int) -> float:
        """Returns how long an answer of so many tokens to a prompt of so many takes, with the model in memory."""
        return prompt / self.prompt_rate + answer / self.answer_rate


_SPEEDS = TypeAdapter(dict[str, list[Speed]])


class SpeedHistory:
    """The last measurement of each model on each server."""

    def __init__(self, path: Path | None = None) -> None:
        self._rows = Rows(path or paths.data_dir() / "speeds.json", _SPEEDS)

    def latest(self, model: ModelConfig) -> Speed | None:
        """Returns the last measurement, or None."""
        return next(reversed(self._rows.read().get(_key(model), ())), None)

    def words(self, name: str, api_base: str | None = None) -> str:
        """Returns the tokens a second of the last measurement of `provider/name`; empty if there is none."""
        speed = self.latest(ModelConfig(alias=name, model=name, api_base=api_base))
        return f"{speed.answer_rate:,.0f} tokens/s" if speed else ""

    def add(self, model: ModelConfig, speed: Speed) -> None:
        """Stores a measurement in place of the last one. Raises OSError: the file cannot be written."""
        with self._rows.changed() as rows:
            rows[_key(model)] = [speed]


def _key(model: ModelConfig) -> str:
    """Returns a key with the server: the same name on two servers is two models."""
    provider = provider_of(model)
    base = None if provider.name == "embedded" else endpoint_of(model, provider).url
    return f"{model.model}@{base}" if base else model.model
