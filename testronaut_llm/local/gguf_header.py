"""Reads what a GGUF file says about itself: enough to refuse a broken one and to judge what it needs, in milliseconds.

The `gguf` package would do it too, at the price of numpy and of seconds for a large vocabulary.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import pull_again

STRING, ARRAY = 8, 9
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """The metadata that matters here. `size` is bytes of the file, `context` the tokens the model was trained for.

    `kv_bytes` is what one token of context takes in memory, `pooling` the kind of embedding it makes (None: a chat
    model), `has_template` whether it says how a conversation is put to it.
    """

    size: int
    context: int
    embedding: int
    vocabulary: int
    kv_bytes: int
    pooling: int | None = None
    has_template: bool = True


def read_header(path: Path) -> GgufHeader:
    """Read a model's header. Raises LocalModelError: the file is missing, is no GGUF, or its header is damaged."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reason = _other_format(data)
            if not reason:
                return _header(_metadata(data), len(data))
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        reason = "its header is damaged or cut"
    again = pull_again(path.stem)
    raise LocalModelError(f"{str(path)!r} is not a usable GGUF model ({reason}). Fetch it again: {again}")


def _other_format(data: mmap.mmap) -> str:
    if data.read(4) != b"GGUF":
        return "it does not begin with the letters GGUF"
    version = _number(data, "<I")
    return "" if version in (2, 3) else f"GGUF version {version}, expected 2 or 3"


def _metadata(data: mmap.mmap) -> dict[str, Any]:
    _, pairs = _number(data, "<Q"), _number(data, "<Q")  # the tensors are counted first
    return {_text(data): _value(data, _number(data, "<I")) for _ in range(pairs)}


def _number(data: mmap.mmap, form: str) -> Any:
    return struct.unpack(form, data.read(struct.calcsize(form)))[0]


def _text(data: mmap.mmap) -> str:
    length, start = _number(data, "<Q"), data.tell()
    data.seek(length, os.SEEK_CUR)  # unlike reading, it fails beyond the end
    return data[start : start + length].decode("utf-8", "replace")


def _value(data: mmap.mmap, kind: int) -> Any:
    if kind == STRING:
        return _text(data)
    if kind != ARRAY:
        return _number(data, FORMATS[kind])
    kind, length = _number(data, "<I"), _number(data, "<Q")
    if kind in FORMATS:
        form = f"<{length}{FORMATS[kind][1]}"
        return struct.unpack(form, data.read(struct.calcsize(form)))
    for _ in range(length):  # texts are only counted: a vocabulary has hundreds of thousands
        data.seek(_number(data, "<Q"), os.SEEK_CUR)
    return range(length)


def _header(metadata: dict[str, Any], size: int) -> GgufHeader:
    architecture = metadata["general.architecture"]

    def of(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    layers, width, heads = of("block_count"), of("embedding_length"), of("attention.head_count")
    groups = _per_layer(of("attention.head_count_kv", heads), layers)
    across = width // max(_per_layer(heads, layers))
    lengths = of("attention.key_length", across) + of("attention.value_length", across)
    return GgufHeader(
        size=size,
        context=of("context_length"),
        embedding=width,
        vocabulary=len(metadata["tokenizer.ggml.tokens"]),
        kv_bytes=2 * lengths * sum(groups),
        pooling=of("pooling_type"),
        has_template="tokenizer.chat_template" in metadata,
    )


def _per_layer(value: Any, layers: int) -> tuple[int, ...]:
    return (value,) * layers if isinstance(value, int) else tuple(value)
