"""Reads the header of a GGUF file: enough to refuse what cannot be served and to know the memory that a model needs.

Anybody may have made the file: counts are bounded before they are used, lists are skipped, and the tensors must fit
into the file. The `gguf` package would need numpy, and seconds for a large vocabulary.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.download import pull_again

STRING, ARRAY = 8, 9
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

MOST_KEYS, MOST_TENSORS, MOST_TEXTS = 4096, 2**18, 4_000_000
"""Real files have some 100 keys, up to 50,000 tensors (experts, not merged), and lists of up to 600,000 texts."""
MOST_LETTERS = 1024
"""Bytes of a name; longer texts are not kept."""
MOST_LAYERS, MOST_HEADS, MOST_WIDTH, MOST_CONTEXT, MOST_POOLING = 1024, 2**16, 2**20, 2**27, 4
PER_LAYER = (".attention.head_count", ".attention.head_count_kv")
"""The only lists whose numbers are needed."""

_PLAIN = {0: 1024, 1: 512, 24: 256, 25: 512, 26: 1024, 27: 2048, 28: 2048, 30: 512}
_SMALL_BLOCKS = {2: 144, 3: 160, 6: 176, 7: 192, 8: 272, 9: 320, 20: 144, 39: 136, 40: 144, 41: 36}
_K_BLOCKS = {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292}
_I_BLOCKS = {16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82, 23: 136, 29: 56, 34: 54, 35: 66}
BYTES = _PLAIN | _SMALL_BLOCKS | _K_BLOCKS | _I_BLOCKS
"""Bytes of 256 weights of each ggml type."""
LEAST_BYTES = 32
"""The same of a type that is not known."""

_RESOLVE = "of a model hub, take the address with /resolve/ in place of /blob/, or hf://owner/repo/file.gguf"
OTHER_FILES = {
    b"<": f"a web page; {_RESOLVE}",
    b"version https://git-lfs": f"a Git LFS pointer; {_RESOLVE}",
    b"PK\3\4": "a zip archive; unpack it first",
    b"\x1f\x8b": "packed with gzip; unpack it first",
}
_PROJECTOR = "it is the part of a model that sees or hears (mmproj), without a language model"
OTHER_KINDS = {
    **dict.fromkeys(("mmproj", "clip"), _PROJECTOR),
    "adapter": "it is an adapter (LoRA), of use only beside its model; merge the two first",
    "imatrix": "it is an importance matrix, which serves to quantise a model",
    "controlvector": "it is a control vector, of use only beside its model",
    "part": "it is a part of a model that was split; take it in one file, or merge them with llama-gguf-split --merge",
    "vocabulary": "it holds a vocabulary and no weights",
}
"""Files that are no model of their own, by their type, their architecture or the beginning of a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """The metadata that matters here. `size` is bytes of the file, `context` the tokens the model was trained for.

    `kv_bytes` is the memory of one token of context (0 where the model keeps none, as Mamba and RWKV), `pooling` the
    kind of embedding (None: a chat model), `has_template` whether there is a chat template.
    """

    size: int
    context: int
    embedding: int
    vocabulary: int
    kv_bytes: int
    pooling: int | None = None
    has_template: bool = True


class _UnusableError(Exception):
    """Why a file cannot be used, and whether another copy of it may be better."""

    def __init__(self, why: str, *, again: bool = True) -> None:
        super().__init__(why)
        self.again = again


def read_header(path: Path, *, source: str = "") -> GgufHeader:
    """Returns a model's header. `source` is where the file was just fetched from, if it is not in the store yet.

    Raises:
        LocalModelError: the file is missing, cut, damaged, or no model that can be served alone; says which.
    """
    try:
        with path.open("rb", buffering=1 << 16) as file:
            return _read(_Reader(file))
    except _UnusableError as error:
        reason, again = str(error), error.again
    except OSError as error:
        reason, again = error.strerror or type(error).__name__, True
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        reason, again = "its header is damaged or cut", True
    if source:
        raise LocalModelError(f"{source} is not a usable GGUF model: {reason}. Nothing was kept")
    then = f"Fetch it again: {pull_again(path.stem)}" if again else f"testronaut-llm models remove embedded/{path.stem}"
    raise LocalModelError(f"embedded/{path.stem} ({path}) is not a usable GGUF model: {reason}. {then}")


class _Reader:
    """Reads forward. Beyond the end of the file there are no bytes, which `struct` does not unpack."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.size = file, os.fstat(file.fileno()).st_size
        self.take, self.at = file.read, file.tell

    def skip(self, count: int) -> None:
        self._file.seek(min(count, self.size), os.SEEK_CUR)

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def text(self) -> str | None:
        """Returns a text, or None if it is long."""
        (length,) = self.numbers("<Q")
        if length <= MOST_LETTERS:
            return self.take(length).decode("utf-8", "replace")
        self.skip(length)
        return None

    def name(self) -> str:
        if (name := self.text()) is None:
            raise ValueError
        return name

    def value(self, key: str) -> Any:
        """Returns the value of a key: a number, a text, a list (a range if only its length matters)."""
        (kind,) = self.numbers("<I")
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.numbers(FORMATS[kind])[0]
        kind, length = self.numbers("<IQ")
        if kind == STRING:
            self._skip_texts(length)
        elif key.endswith(PER_LAYER) and length <= MOST_LAYERS:
            return self.numbers(f"<{length}{FORMATS[kind][1]}")
        else:
            self.skip(length * struct.calcsize(FORMATS[kind]))
        return range(length)

    def _skip_texts(self, count: int) -> None:
        if count > MOST_TEXTS:
            raise ValueError
        read, seek, unpack, most = self._file.read, self._file.seek, struct.Struct("<Q").unpack, self.size
        for _ in range(count):  # hundreds of thousands, so without a call more than necessary
            seek(min(unpack(read(8))[0], most), os.SEEK_CUR)


def _read(file: _Reader) -> GgufHeader:
    _check_form(file)
    tensors, pairs = file.numbers("<QQ")
    if tensors > MOST_TENSORS or pairs > MOST_KEYS:
        raise ValueError
    metadata = {(key := file.name()): file.value(key) for _ in range(pairs)}
    _check_kind(metadata, tensors)
    header = _header(metadata, file.size)
    end = _end_of_tensors(file, tensors, _whole(metadata.get("general.alignment", 32), 2**16, "general.alignment") or 1)
    if end > file.size:
        raise _UnusableError(f"its weights end at {end:,} bytes, and it has {file.size:,}: it is cut")
    return header


def _check_form(file: _Reader) -> None:
    """Raises _UnusableError if the file is no GGUF of a version and byte order that can be read."""
    start = file.take(4)
    if start != b"GGUF":
        start = (start + file.take(60)).lstrip().removeprefix(b"\xef\xbb\xbf")
        what = next((f": it is {what}" for first, what in OTHER_FILES.items() if start.startswith(first)), "")
        raise _UnusableError(f"it does not begin with the letters GGUF{what}")
    (version,) = file.numbers("<I")
    if version and version & 0xFFFF == 0:
        raise _UnusableError("it is big-endian, for IBM Z and the like; take the little-endian one", again=False)
    if version not in (2, 3):
        raise _UnusableError(f"it has GGUF version {version}, expected 2 or 3")


def _check_kind(metadata: dict[str, Any], tensors: int) -> None:
    """Raises _UnusableError if the file is a part of a model, or something that goes beside one."""
    signs = [str(metadata.get(name)) for name in ("general.type", "general.architecture")]
    signs += [key.partition(".")[0] for key in metadata]
    signs += [] if metadata.get("split.count", 1) in (0, 1) else ["part"]
    signs += [] if tensors else ["vocabulary"]
    if what := next((OTHER_KINDS[sign] for sign in signs if sign in OTHER_KINDS), ""):
        raise _UnusableError(what, again=False)


def _end_of_tensors(file: _Reader, count: int, alignment: int) -> int:
    """Returns where the last weights end, in bytes from the beginning of the file."""
    end = 0
    for _ in range(count):
        file.name()
        (dimensions,) = file.numbers("<I")
        if dimensions > 8:
            raise ValueError
        *shape, kind, offset = file.numbers(f"<{dimensions}QIQ")
        end = max(end, offset + math.prod(shape) * BYTES.get(kind, LEAST_BYTES) // 256)
    return -(-file.at() // alignment) * alignment + end


def _header(metadata: dict[str, Any], size: int) -> GgufHeader:
    architecture = metadata["general.architecture"]

    def of(key: str, most: int, default: Any = None) -> int:
        name = f"{architecture}.{key}"
        return _whole(metadata.get(name, default), most, name)

    def per_layer(key: str, default: Any) -> tuple[int, ...]:
        name = f"{architecture}.attention.{key}"
        value = metadata.get(name, default)
        each = value if isinstance(value, tuple) else (value,) * layers
        return tuple(_whole(one, MOST_HEADS, name) for one in each)

    layers, width = of("block_count", MOST_LAYERS), of("embedding_length", MOST_WIDTH)
    heads = per_layer("head_count", 0)
    groups = per_layer("head_count_kv", heads)
    across = width // max(1, *heads)
    lengths = of("attention.key_length", MOST_WIDTH, across) + of("attention.value_length", MOST_WIDTH, across)
    pooling = f"{architecture}.pooling_type" in metadata
    return GgufHeader(
        size=size,
        context=of("context_length", MOST_CONTEXT),
        embedding=width,
        vocabulary=len(metadata["tokenizer.ggml.tokens"]),
        kv_bytes=2 * lengths * sum(groups),
        pooling=of("pooling_type", MOST_POOLING) if pooling else None,
        has_template="tokenizer.chat_template" in metadata,
    )


def _whole(value: Any, most: int, name: str) -> int:
    """Returns the number if it is a whole one that a model can have."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        what = "is missing" if value is None else f"is {value!r:.40}, expected at most {most:,}"
        raise _UnusableError(f"its header cannot be that of a language model: {name!r:.80} {what}")
    return value
