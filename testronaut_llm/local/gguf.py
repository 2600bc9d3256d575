"""The header of a GGUF file, which may be malicious: numbers are bounded before use, and lists are skipped."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.model_store import ModelStore, pull_again
from testronaut_llm.providers.endpoint import pull_command

_TEXT, _LIST = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MOST_KEYS, _MOST_TEXTS, _MOST_LETTERS, _MOST_LAYERS = 4096, 4_000_000, 1024, 1024
"""Real files have some 100 keys, and lists of up to 600,000 texts; longer texts are skipped."""
_MOST = {"block_count": _MOST_LAYERS, "pooling_type": 4, "context_length": 2**27}
"""Bounds of numbers; of the others, 2**20."""


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
            return _header(_metadata(file, size), size)
    except _UnusableError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        reason = "its header is damaged or cut"
    name = path.stem
    what, fix = (
        (source, "Nothing was kept") if source else (f"embedded/{name} ({path})", f"Replace it: {pull_again(name)}")
    )
    raise LocalModelError(f"{what} is not a usable GGUF model: {reason}. {fix}")


def _metadata(file: BinaryIO, size: int) -> dict[str, Any]:
    if (start := file.read(4)) != b"GGUF":
        raise _UnusableError(
            f"it begins with {start!r}, expected b'GGUF' (of a model hub, take the address with /resolve/ in place of "
            "/blob/, or hf://owner/repo/file.gguf)"
        )
    version, tensors, pairs = _numbers(file, "<IQQ")
    if version not in (2, 3):
        raise _UnusableError(f"it has GGUF version {version}, expected 2 or 3, little-endian")
    if pairs > _MOST_KEYS:
        raise ValueError
    metadata = {(key := _text(file, size)): _value(file, size, key) for _ in range(pairs)}
    if file.tell() > size:
        raise ValueError
    if not tensors or metadata.get("split.count", 1) not in (0, 1):
        raise _UnusableError("it holds a part of a model, or no weights; take the model in one file")
    return metadata


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _text(file: BinaryIO, size: int) -> str:
    """Returns a text; empty if it is long."""
    (length,) = _numbers(file, "<Q")
    if length <= _MOST_LETTERS:
        return file.read(length).decode("utf-8", "replace")
    file.seek(min(length, size), os.SEEK_CUR)
    return ""


def _value(file: BinaryIO, size: int, key: str) -> Any:
    """Returns a number, a text, or a list: numbers per layer, else a range of its length."""
    (kind,) = _numbers(file, "<I")
    if kind == _TEXT:
        return _text(file, size)
    if kind != _LIST:
        return _numbers(file, _FORMATS[kind])[0]
    kind, length = _numbers(file, "<IQ")
    if kind == _TEXT:
        if length > _MOST_TEXTS:
            raise ValueError
        read, seek, unpack = file.read, file.seek, struct.Struct("<Q").unpack
        for _ in range(length):  # hundreds of thousands, so with as few calls as possible
            seek(min(unpack(read(8))[0], size), os.SEEK_CUR)
    elif key.endswith((".head_count", ".head_count_kv")) and length <= _MOST_LAYERS:
        return _numbers(file, f"<{length}{_FORMATS[kind][1]}")
    else:
        file.seek(min(length * struct.calcsize(_FORMATS[kind]), size), os.SEEK_CUR)
    return range(length)


def _header(metadata: dict[str, Any], size: int) -> GgufHeader:
    family, missing = metadata["general.architecture"], object()

    def numbers(key: str, default: Any = missing) -> tuple[int, ...]:
        """Returns a number, or one for each layer."""
        name, most = f"{family}.{key}", _MOST.get(key, 2**20)
        value = metadata.get(name, default)
        found = value if isinstance(value, tuple) else (value,)
        for one in found:
            if type(one) is not int or not 0 <= one <= most:
                what = "is missing" if one is missing else f"is {one!r:.40}, expected at most {most:,}"
                raise _UnusableError(f"its header cannot be that of a language model: {name!r:.80} {what}")
        return found

    (layers,), (width,), (context,) = numbers("block_count"), numbers("embedding_length"), numbers("context_length")
    heads = numbers("attention.head_count", 0)
    across = width // max(1, *heads)
    (keys,), (values,) = numbers("attention.key_length", across), numbers("attention.value_length", across)
    kept = numbers("attention.head_count_kv", heads)
    return GgufHeader(
        size=size,
        context=context,
        embedding=width,
        vocabulary=len(metadata["tokenizer.ggml.tokens"]),
        kv_bytes=2 * (keys + values) * sum(kept) * (layers if len(kept) == 1 else 1),
        pooling=numbers("pooling_type")[0] if f"{family}.pooling_type" in metadata else None,
        has_template="tokenizer.chat_template" in metadata,
    )


def stored_header(model: ModelConfig) -> GgufHeader:
    """Returns the header of an embedded model. Raises LocalModelError if it is missing or damaged."""
    if ModelStore().get(model.name) is None:
        raise LocalModelError(f"it is not on this machine; {pull_command(model)}")
    return read_header(ModelStore().path(model.name))
