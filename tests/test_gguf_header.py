"""Reading what a GGUF file says about itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import tiny_model

from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.gguf_header import GgufHeader, read_header


def header_of(path: Path, metadata: dict[str, object]) -> GgufHeader:
    path.write_bytes(tiny_model._gguf(metadata, {}))
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


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged or cut"),
        (b"GG", "does not begin with the letters GGUF"),
        (b"<html>not found</html>" * 9, "does not begin with the letters GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "GGUF version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "damaged or cut"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "damaged or cut"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 77), "damaged or cut"),
    ],
)
def test_a_broken_file_is_refused_with_the_command_that_mends_it(tmp_path: Path, data: bytes, reason: str) -> None:
    """Whatever the bytes are, the error is ours and says what to do."""
    file = tmp_path / "broken.gguf"
    file.write_bytes(data)
    with pytest.raises(LocalModelError, match=reason) as caught:
        read_header(file)
    assert "testronaut-llm models pull embedded/broken" in str(caught.value)


@pytest.mark.parametrize("cut", [30, 200, 4000])
def test_a_header_that_was_cut_is_refused(tmp_path: Path, tiny_gguf: Path, cut: int) -> None:
    """A download that ended inside the header is not taken for a model."""
    file = tmp_path / "cut.gguf"
    file.write_bytes(tiny_gguf.read_bytes()[:cut])
    with pytest.raises(LocalModelError, match="damaged or cut"):
        read_header(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(LocalModelError, match=r"nowhere\.gguf.*No such file"):
        read_header(tmp_path / "nowhere.gguf")
