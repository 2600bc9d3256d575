"""The folder of embedded models: a GGUF file each, its header, and an index with the source, size and digest of each.

A file may be malicious: numbers of its header are bounded before use, and lists are skipped. (The `gguf` package
needs numpy, and seconds for a large vocabulary.)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import file_lock, pull_again
from testronaut_llm.support import paths
from testronaut_llm.support.paths import write_atomically

SAFE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?")
"""Device names of Windows, which cannot be names of files."""


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


_ROWS = TypeAdapter(dict[str, StoredModel])  # ignores fields of other versions


class ModelStore:
    """The models of one folder (default: `models` in the user's data folder). Safe across threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.data_dir() / "models"
        self._parts, self._index = self.folder / ".parts", self.folder / "index.json"

    def path(self, name: str) -> Path:
        """Returns the path of the file of `name`, which may be missing. Raises LocalModelError: not a file name."""
        return self.folder / f"{checked_name(name)}.gguf"

    def get(self, name: str) -> StoredModel | None:
        """Returns the entry of `name`, or None if it is not stored."""
        model = self._read().get(checked_name(name))
        return model if model and self.path(name).is_file() else None

    def list(self) -> tuple[StoredModel, ...]:
        """Returns all models, sorted by name."""
        return tuple(model for name in sorted(self._read()) if (model := self.get(name)))

    def add(self, file: Path, model: StoredModel) -> StoredModel:
        """Moves a complete and checked `file` of this disk into the store, in one step, under `model.name`."""
        target, stored = self.path(model.name), replace(model, added=_iso(time.time()))
        with self._changed() as models:
            file.replace(target)
            models[model.name] = stored
        return stored

    def remove(self, name: str) -> bool:
        """Deletes file, entry and unfinished download; True if there was any. Raises LocalModelError during a pull."""
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
        """Returns the bytes of each model and unfinished download that was unused for `age` seconds, by name."""
        limit, known, found = _iso(max(0.0, time.time() - age)), self._read(), {}
        names = {
            *known,
            *(one.name for one in self._parts.glob("*")),
            *(one.stem for one in self.folder.glob("*.gguf")),
        }
        for name in sorted(filter(SAFE_NAME.fullmatch, names)):
            facts = [file.stat() for file in self._files(name)]
            touched = _iso(max((one.st_mtime for one in facts), default=0.0))
            if (known[name].last_used or known[name].added if name in known else touched) <= limit:
                found[name] = sum(one.st_size for one in facts)
        return found

    def touch(self, name: str) -> None:
        """Records that `name` is used now."""
        with self._changed() as models:
            if name in models:
                models[name] = replace(models[name], last_used=_iso(time.time()))

    def locked(
        self, what: str, waiting: Callable[[], None] | None = None, *, timeout: float = -1.0
    ) -> AbstractContextManager[None]:
        """Holds the lock for `what`; see `download.file_lock`."""
        return file_lock(self.folder / f".{what}.lock", waiting, timeout=timeout)

    def _files(self, name: str) -> Sequence[Path]:
        """Returns the files of a model on disk, those of an unfinished download included."""
        return [file for file in (self.path(name), *(self._parts / name).rglob("*")) if file.is_file()]

    def _read(self) -> dict[str, StoredModel]:
        """Returns the index; empty if it is damaged: pulling a model again finds its file and restores the entry."""
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
    """Returns `name`. Raises LocalModelError if it is not a file name on every platform."""
    if SAFE_NAME.fullmatch(name) and not RESERVED.fullmatch(name):
        return name
    raise LocalModelError(
        f"{name!r} cannot be the name of an embedded model: up to 64 lower-case letters, digits, dots, dashes and "
        "underscores, as in embedded/smollm2-135m"
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


_TEXT, _LIST = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MOST_KEYS, _MOST_TEXTS, _MOST_LETTERS = 4096, 4_000_000, 1024
"""Real files have some 100 keys, and lists of up to 600,000 texts; longer texts are skipped."""
_MOST_LAYERS, _MOST_HEADS, _MOST_WIDTH, _MOST_CONTEXT, _MOST_POOLING = 1024, 2**16, 2**20, 2**27, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """Facts about the model of a GGUF file. `size` is bytes of the file, `context` the tokens it was trained for.

    `kv_bytes` is the memory of one token of context (0 for Mamba and RWKV, which keep none), `pooling` the kind of
    embedding (None: a chat model).
    """

    size: int
    context: int
    embedding: int
    vocabulary: int
    kv_bytes: int
    pooling: int | None = None
    has_template: bool = True


class _UnusableError(Exception):
    """The file cannot be used; the message says why."""


def read_header(path: Path, *, source: str = "") -> GgufHeader:
    """Returns a model's header. `source` is where the file was just fetched from, if it is not in the store yet.

    Raises LocalModelError: the file is missing, damaged, or not a model that can be served alone.
    """
    try:
        with path.open("rb", buffering=1 << 16) as file:
            size = os.fstat(file.fileno()).st_size
            return _header(_metadata(_Reader(file, size)), size)
    except _UnusableError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        reason = "its header is damaged or cut"
    if source:
        raise LocalModelError(f"{source} is not a usable GGUF model: {reason}. Nothing was kept")
    raise LocalModelError(
        f"embedded/{path.stem} ({path}) is not a usable GGUF model: {reason}. Replace it: {pull_again(path.stem)}"
    )


class _Reader:
    """Reads a header forward. Beyond its end `struct` raises an error."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.file.read(struct.calcsize(form)))

    def skip(self, count: int) -> None:
        self.file.seek(min(count, self.size), os.SEEK_CUR)

    def text(self) -> str:
        """Returns a text; empty if it is long."""
        (length,) = self.numbers("<Q")
        if length <= _MOST_LETTERS:
            return self.file.read(length).decode("utf-8", "replace")
        self.skip(length)
        return ""

    def value(self, key: str) -> Any:
        """Returns a number, a text, or a list: numbers per layer, else a range of its length."""
        (kind,) = self.numbers("<I")
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.numbers(_FORMATS[kind])[0]
        kind, length = self.numbers("<IQ")
        if kind == _TEXT:
            if length > _MOST_TEXTS:
                raise ValueError
            read, seek, unpack, most = self.file.read, self.file.seek, struct.Struct("<Q").unpack, self.size
            for _ in range(length):  # hundreds of thousands, so with as few calls as possible
                seek(min(unpack(read(8))[0], most), os.SEEK_CUR)
        elif key.endswith((".head_count", ".head_count_kv")) and length <= _MOST_LAYERS:
            return self.numbers(f"<{length}{_FORMATS[kind][1]}")
        else:
            self.skip(length * struct.calcsize(_FORMATS[kind]))
        return range(length)


def _metadata(reader: _Reader) -> dict[str, Any]:
    if (start := reader.file.read(4)) != b"GGUF":
        raise _UnusableError(
            f"it begins with {start!r}, expected b'GGUF' (of a model hub, take the address with /resolve/ in place of "
            "/blob/, or hf://owner/repo/file.gguf)"
        )
    version, tensors, pairs = reader.numbers("<IQQ")
    if version not in (2, 3):
        raise _UnusableError(f"it has GGUF version {version}, expected 2 or 3, little-endian")
    if pairs > _MOST_KEYS:
        raise ValueError
    metadata = {(key := reader.text()): reader.value(key) for _ in range(pairs)}
    if reader.file.tell() > reader.size:
        raise ValueError
    if not tensors or metadata.get("split.count", 1) not in (0, 1):
        raise _UnusableError("it holds a part of a model, or no weights; take the model in one file")
    return metadata


def _header(metadata: dict[str, Any], size: int) -> GgufHeader:
    architecture = metadata["general.architecture"]

    def whole(key: str, most: int, default: Any = None) -> int:
        name = f"{architecture}.{key}"
        return _bounded(metadata.get(name, default), most, name)

    def per_layer(key: str, default: Any) -> tuple[int, ...]:
        name = f"{architecture}.attention.{key}"
        value = metadata.get(name, default)
        each = value if isinstance(value, tuple) else (value,) * layers
        return tuple(_bounded(one, _MOST_HEADS, name) for one in each)

    layers, width = whole("block_count", _MOST_LAYERS), whole("embedding_length", _MOST_WIDTH)
    heads = per_layer("head_count", 0)
    across = width // max(1, *heads)
    lengths = whole("attention.key_length", _MOST_WIDTH, across) + whole("attention.value_length", _MOST_WIDTH, across)
    return GgufHeader(
        size=size,
        context=whole("context_length", _MOST_CONTEXT),
        embedding=width,
        vocabulary=len(metadata["tokenizer.ggml.tokens"]),
        kv_bytes=2 * lengths * sum(per_layer("head_count_kv", heads)),
        pooling=whole("pooling_type", _MOST_POOLING) if f"{architecture}.pooling_type" in metadata else None,
        has_template="tokenizer.chat_template" in metadata,
    )


def _bounded(value: Any, most: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        what = "is missing" if value is None else f"is {value!r:.40}, expected at most {most:,}"
        raise _UnusableError(f"its header cannot be that of a language model: {name!r:.80} {what}")
    return value
