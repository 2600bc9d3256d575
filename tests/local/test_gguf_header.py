"""Reading what a GGUF file says about itself."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from array import array
from pathlib import Path

import pytest
import tiny_model

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.model_store import GgufHeader, read_header

ONE: dict[str, tiny_model.Tensor] = {"w": ((64, 1), array("f", [0.0] * 64))}
LLAMA: dict[str, object] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "tokenizer.ggml.tokens": ["a", "b"],
}


def gguf(metadata: dict[str, object], tensors: dict[str, tiny_model.Tensor] = ONE) -> bytes:
    return tiny_model._gguf(metadata, tensors)


def header_of(path: Path, metadata: dict[str, object]) -> GgufHeader:
    path.write_bytes(gguf(metadata))
    return read_header(path)


def test_the_tiny_model_is_read(tiny_gguf: Path) -> None:
    """Everything that memory and context are judged by is in the header."""
    assert read_header(tiny_gguf) == GgufHeader(
        size=tiny_gguf.stat().st_size,
        context=8192,
        embedding=64,
        vocabulary=634,
        kv_bytes=2 * 2 * 4 * (16 + 16),
    )


def test_layers_may_differ_and_an_embedding_model_says_so(tmp_path: Path) -> None:
    """Head counts written per layer are added up; the pooling kind is kept."""
    header = header_of(
        tmp_path / "model.gguf",
        {
            "general.architecture": "bert",
            "bert.block_count": 3,
            "bert.context_length": 512,
            "bert.embedding_length": 64,
            "bert.attention.head_count": 8,
            "bert.attention.head_count_kv": [8, 4, 0],
            "bert.attention.key_length": 10,
            "bert.attention.value_length": 6,
            "bert.pooling_type": 2,
            "bert.attention.causal": False,
            "bert.attention.layer_norm_epsilon": 0.5,
            "tokenizer.ggml.tokens": ["a", "b"],
        },
    )
    assert (header.kv_bytes, header.pooling, header.vocabulary) == (2 * 16 * 12, 2, 2)
    hybrid = LLAMA | {"llama.attention.head_count": [4, 0], "llama.attention.head_count_kv": [2, 0], "split.count": 1}
    assert header_of(tmp_path / "m.gguf", hybrid).kv_bytes == 2 * (16 + 16) * 2
    without_heads = {key.replace("llama", "mamba"): value for key, value in LLAMA.items() if "head" not in key}
    assert header_of(tmp_path / "m.gguf", without_heads | {"general.architecture": "mamba"}).kv_bytes == 0
    with pytest.raises(LocalModelError, match=r"nowhere\.gguf.*No such file"):
        read_header(tmp_path / "nowhere.gguf")


def pair(key: str, kind: int, value: bytes) -> bytes:
    return tiny_model._string(key) + struct.pack("<I", kind) + value


def header(*pairs: bytes, count: int | None = None, tensors: int = 1) -> bytes:
    """A header of LLAMA's pairs and these, which may lie about how many there are."""
    known = [tiny_model._string(key) + tiny_model._typed(value) for key, value in LLAMA.items()]
    number = len(known) + len(pairs) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, number) + b"".join([*known, *pairs])


BIG = 1 << 62


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "begins with b'', expected b'GGUF'"),
        (b"<html>not found</html>" * 9, "begins with b'<htm', .*/resolve/ in place of /blob/, or hf://"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1), "GGUF version 50331648, expected 2 or 3, little-endian"),
        (gguf(LLAMA | {"split.count": 3, "split.no": 0}), "a part of a model, or no weights; take the model in one"),
        (gguf(LLAMA, {}), "a part of a model, or no weights"),
        (gguf({"general.architecture": "clip", "clip.has_vision_encoder": True}), "'clip.block_count' is missing"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "GGUF version 9"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, BIG), "damaged or cut"),
        (header()[:100], "damaged or cut"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 77), "damaged or cut"),
        (header(count=BIG), "damaged or cut"),
        (header(count=5000), "damaged or cut"),
        (header(pair("x", 9, struct.pack("<IQ", 9, 1)) + bytes(99)), "damaged or cut"),
        (header(pair("x", 9, struct.pack("<IQ", 8, BIG)) + bytes(99)), "damaged or cut"),
        (header(pair("x", 9, struct.pack("<IQ", 4, BIG)) + bytes(99)), "damaged or cut"),
        (header(pair("x", 8, struct.pack("<Q", BIG)) + bytes(99)), "damaged or cut"),
        (header(pair("llama.block_count", 4, struct.pack("<I", 300_000_000))), "block_count' is 300000000, .* 1,024"),
        (header(pair("llama.block_count", 5, struct.pack("<i", -1))), "block_count' is -1"),
        (header(pair("llama.block_count", 6, struct.pack("<f", 2.5))), "block_count' is 2.5"),
        (header(pair("llama.block_count", 7, b"\1")), "block_count' is True"),
        (header(pair("llama.attention.head_count", 10, struct.pack("<Q", BIG))), "head_count' is 4611"),
        (header(pair("llama.attention.head_count_kv", 9, struct.pack("<IQi", 5, 1, -4))), "head_count_kv' is -4"),
        (header(pair("llama.attention.key_length", 10, struct.pack("<Q", BIG))), "key_length' is 4611"),
        (header(pair("llama.embedding_length", 10, struct.pack("<Q", BIG))), "embedding_length' is 4611"),
        (header(pair("llama.context_length", 10, struct.pack("<Q", BIG))), "context_length' is 4611"),
        (header(pair("llama.pooling_type", 4, struct.pack("<I", 77))), "pooling_type' is 77"),
        (header(pair("general.architecture", 8, tiny_model._string("flux"))), "'flux.*' is missing"),
    ],
)
def test_a_broken_file_is_refused_with_the_command_that_mends_it(tmp_path: Path, data: bytes, reason: str) -> None:
    """Whatever the bytes say, the error is ours and says what to do; no count in them is believed."""
    file = tmp_path / "broken.gguf"
    file.write_bytes(data)
    with pytest.raises(LocalModelError, match=reason) as caught:
        read_header(file)
    assert "testronaut-llm models pull embedded/broken" in str(caught.value)


@pytest.mark.parametrize(
    "pairs",
    [
        [pair("llama.block_count", 4, struct.pack("<I", 300_000_000))],
        [pair("x", 9, struct.pack("<IQ", 0, 90_000_000))],
        [pair("llama.attention.head_count", 9, struct.pack("<IQ", 4, 20_000_000))],
        [pair("x", 8, struct.pack("<Q", 90_000_000))],
        [pair("x", 9, struct.pack("<IQQ", 8, 1, 90_000_000))],
    ],
)
def test_a_header_never_takes_more_memory_than_a_few_megabytes(tmp_path: Path, pairs: list[bytes]) -> None:
    """Lists and texts are passed over, however long they are, and numbers are bounded before they are used."""
    file = tmp_path / "bomb.gguf"
    with file.open("wb") as out:
        out.write(header(*pairs))
        out.truncate(100_000_000)
    tracemalloc.start()
    with contextlib.suppress(LocalModelError):
        read_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
