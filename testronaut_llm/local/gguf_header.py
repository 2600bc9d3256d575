"""Reads what a GGUF file says about itself: enough to refuse what cannot be served and to judge what it needs.

A header is read as it comes, from a file that anybody may have made: counts are bounded before they are believed,
lists are passed over, and the tensors must fit into the file. The `gguf` package would do less of it, at the price of
numpy and of seconds for a large vocabulary.
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
"""The only lists whose numbers matter."""

BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
"""Of each ggml type: weights of a block, and its bytes (`GGML_QUANT_SIZES` of the `gguf` package)."""
SMALLEST_BLOCK = (8, 1)
"""What a type that is not known takes at the least."""

OTHER_FILES = {
    b"<": "a web page; of a model hub, take the address with /resolve/ in place of /blob/, or hf://owner/repo/file.gguf",
    b"version https://git-lfs": "a Git LFS pointer; take the file that it stands for (/resolve/ in the address, or hf://)",
    b"PK\3\4": "a zip archive; unpack it first",
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"{": "JSON",
}
_PROJECTOR = "it is the part of a model that sees or hears (mmproj), without a language model"
_ADAPTER = "it is an adapter (LoRA), of use only beside its model; merge the two first"
OTHER_KINDS = {
    **dict.fromkeys(("mmproj", "clip", "clip.has_vision_encoder", "clip.has_audio_encoder"), _PROJECTOR),
    **dict.fromkeys(("adapter", "adapter.type"), _ADAPTER),
    "imatrix": "it is an importance matrix, which serves to quantise a model",
    "controlvector": "it is a control vector, of use only beside its model",
    "split": "it is a part of a model that was split; take it in one file, or merge them with llama-gguf-split --merge",
    "vocabulary": "it holds a vocabulary and no weights",
}
"""What is no model of its own, by its type, its architecture or a key that it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """The metadata that matters here. `size` is bytes of the file, `context` the tokens the model was trained for.

    `kv_bytes` is what one token of context takes in memory (0 where the model keeps none, as Mamba and RWKV),
    `pooling` the kind of embedding it makes (None: a chat model), `has_template` whether it says how a conversation is
    put to it.
    """

    size: int
    context: int
    embedding: int
    vocabulary: int
    kv_bytes: int
    pooling: int | None = None
    has_template: bool = True


class _UnusableError(Exception):
    """Why, and whether another copy of the same file may be better."""

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
    """A file that is read forward and never beyond its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.at = file, 0
        self.size = os.fstat(file.fileno()).st_size

    def take(self, count: int) -> bytes:
        self._reach(count)
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._reach(count)
        self._file.seek(count, os.SEEK_CUR)

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def name(self) -> str:
        if (length := self.number("<Q")) > MOST_LETTERS:
            raise ValueError
        return self.take(length).decode("utf-8", "replace")

    def value(self, key: str) -> Any:
        """The value of a key: a number, a text (None if it is long), a list (a range if only its length matters)."""
        kind = self.number("<I")
        if kind == ARRAY:
            return self._list(key)
        if kind != STRING:
            return self.number(FORMATS[kind])
        if (length := self.number("<Q")) <= MOST_LETTERS:
            return self.take(length).decode("utf-8", "replace")
        return self.skip(length)

    def _list(self, key: str) -> Any:
        kind, length = self.number("<I"), self.number("<Q")
        if kind != STRING:
            form = FORMATS[kind]
            if key.endswith(PER_LAYER) and length <= MOST_LAYERS:
                return struct.unpack(f"<{length}{form[1]}", self.take(length * struct.calcsize(form)))
            self.skip(length * struct.calcsize(form))
        elif length > MOST_TEXTS:
            raise ValueError
        else:
            self._skip_texts(length)
        return range(length)

    def _skip_texts(self, count: int) -> None:
        at, read, seek, number = self.at, self._file.read, self._file.seek, struct.Struct("<Q").unpack
        for _ in range(count):  # hundreds of thousands, so without a call more than it takes
            (length,) = number(read(8))
            at += 8 + length
            seek(length, os.SEEK_CUR)
        self._reach(at - self.at)

    def _reach(self, count: int) -> None:
        self.at += count
        if self.at > self.size:
            raise ValueError


def _read(file: _Reader) -> GgufHeader:
    _check_form(file)
    tensors, pairs = file.number("<Q"), file.number("<Q")
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
    """Raises _UnusableError: the file is no GGUF of a version and byte order that can be read."""
    start = file.take(min(file.size, 4))
    if start != b"GGUF":
        start = (start + file.take(min(file.size - len(start), 60))).lstrip().removeprefix(b"\xef\xbb\xbf")
        what = next((f": it is {what}" for first, what in OTHER_FILES.items() if start.startswith(first)), "")
        raise _UnusableError(f"it does not begin with the letters GGUF{what}")
    version = file.number("<I")
    if version and version & 0xFFFF == 0:
        raise _UnusableError("it is big-endian, for IBM Z and the like; take the little-endian one", again=False)
    if version not in (2, 3):
        raise _UnusableError(f"it has GGUF version {version}, expected 2 or 3")


def _check_kind(metadata: dict[str, Any], tensors: int) -> None:
    """Raises _UnusableError: it is a part of a model, or something that goes beside one."""
    signs = [metadata.get("general.type"), metadata.get("general.architecture"), *metadata]
    signs += [] if metadata.get("split.count", 1) in (0, 1) else ["split"]
    signs += [] if tensors else ["vocabulary"]
    if what := next((OTHER_KINDS[sign] for sign in signs if isinstance(sign, str) and sign in OTHER_KINDS), ""):
        raise _UnusableError(what, again=False)


def _end_of_tensors(file: _Reader, count: int, alignment: int) -> int:
    """Where the last weights end, in bytes from the beginning of the file."""
    end = 0
    for _ in range(count):
        file.name()
        dimensions = file.number("<I")
        if dimensions > 8:
            raise ValueError
        *shape, kind, offset = struct.unpack(f"<{dimensions}QIQ", file.take(8 * dimensions + 12))
        weights, size = BLOCKS.get(kind, SMALLEST_BLOCK)
        end = max(end, offset + math.prod(shape) // weights * size)
    return -(-file.at // alignment) * alignment + end


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
    """The number, if it is a whole one that a model can have."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        what = "is missing" if value is None else f"is {value!r:.40}, expected at most {most:,}"
        raise _UnusableError(f"its header cannot be that of a language model: {name!r:.80} {what}")
    return value
