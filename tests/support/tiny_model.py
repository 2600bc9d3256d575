"""Makes a language model of half a megabyte with random weights, always the same bytes.

Its answers have no meaning. It loads, answers, stops, obeys a JSON Schema and embeds in milliseconds: enough to test
start, stop and crash if no model can be downloaded.
"""

from __future__ import annotations

import json
import random
import re
import string
import struct
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testronaut_llm.local import model_downloader

WIDTH, LAYERS, HEADS, FEED, CONTEXT, ALIGNMENT = 64, 2, 4, 128, 8192, 32
HEAD = WIDTH // HEADS

# Columns of the residual stream with a meaning; random numbers fill the others.
BIAS, BEGIN, PATIENCE = 0, 1, 2
"""The same at every position; 1 where the answer begins; how near that is, which wanes until the answer must end."""

# The most frequent words of some help texts, which never change.
_TEXTS = (Path(__file__).parent / "data" / "help_and_logs.json").read_text("utf-8")
WORDS = [word for word, _ in Counter(re.findall(r"\b[a-z]{2,7}\b", _TEXTS)).most_common(373)]

SPECIAL = ("<|unk|>", "<|im_start|>", "<|im_end|>", "<|answer|>")
END, ANSWER = SPECIAL.index("<|im_end|>"), SPECIAL.index("<|answer|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|answer|>\n' }}{% endif %}"
)

# How far a token's score leans up or down, whatever came before. Words are the norm; a lone character is said only
# where a grammar leaves little choice; the end, and what closes a JSON string or list, come soon, and surely once
# the patience is gone: without that, greedy answers run in circles now and then.
LEAN = {"<|im_end|>": 3.0, '"': 3.0, ".": 2.5, "]": -0.5, "}": -0.5, ",": -3.0}
IMPATIENT = dict.fromkeys(("<|im_end|>", '"', "]", "}"), 6.0)
ROPE_BASE, ROPE_PAIR = 5000.0, 5
"""The pair of dimensions that rotates by 0.005 a token: far enough in 300 of them."""

MATRICES = {  # of each layer: columns, rows, reach of the random numbers, and whether it writes to the stream
    "attn_q": (WIDTH, WIDTH, 0.5, False), "attn_k": (WIDTH, WIDTH, 0.5, False), "attn_v": (WIDTH, WIDTH, 0.3, False),
    "attn_output": (WIDTH, WIDTH, 0.3, True), "ffn_gate": (WIDTH, FEED, 0.2, False),
    "ffn_up": (WIDTH, FEED, 0.2, False), "ffn_down": (FEED, WIDTH, 0.2, True),
}  # fmt: skip

ROW = {
    "source": "made://tiny-random", "sha256": "7954098327b5c82ff4af6cd06b394a2de44b35111b620449e40d6b570bc61d4c",
    "size": 340352, "license": "MIT", "context": CONTEXT, "memory": 40000000, "quality": 1,
    "about": "random weights, made on the spot without a network: words without sense, to see that it runs",
}  # fmt: skip

Tensor = tuple[tuple[int, int], "array[float]"]


def make_tiny_model(path: Path) -> Path:
    """Writes the GGUF file, and returns its path."""
    vocabulary = _vocabulary()
    metadata = {
        "general.architecture": "llama", "general.name": "tiny-random", "general.license": "mit",
        "general.alignment": ALIGNMENT, "llama.block_count": LAYERS, "llama.context_length": CONTEXT,
        "llama.embedding_length": WIDTH, "llama.feed_forward_length": FEED, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": HEAD, "llama.rope.freq_base": ROPE_BASE, "llama.vocab_size": len(vocabulary),
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in vocabulary],
        "tokenizer.ggml.merges": ["t h"], "tokenizer.ggml.eos_token_id": END, "tokenizer.ggml.padding_token_id": END,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip
    path.write_bytes(_gguf(metadata, _tensors(vocabulary, random.Random(8))))
    return path


def offer(folder: Path, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Puts the tiny model into the catalogue, to be pulled as `embedded/tiny-random`; `folder` holds the file."""
    rows = json.loads(model_downloader.FILE.read_text("utf-8")) | {"tiny-random": ROW}
    file = folder / "catalogue.json"
    file.write_text(json.dumps(rows), "utf-8")
    patch(model_downloader, "FILE", file)
    schemes = {**model_downloader.SCHEMES, "made": lambda _, parts, __: make_tiny_model(parts / "made.gguf")}
    patch(model_downloader, "SCHEMES", schemes)


def _vocabulary() -> list[str]:
    """The special tokens, every byte (as byte-level BPE spells it), then words with the space before them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
    return [*SPECIAL, *characters, "th", *("\u0120" + word for word in WORDS)]


def _lean(token: str) -> float:
    if token in LEAN:
        return LEAN[token]
    if token in SPECIAL or (len(token) == 1 and token not in string.printable):
        return -30.0
    return 0.0 if token.startswith("\u0120") and len(token) > 1 else -6.0


def _tensors(vocabulary: list[str], source: random.Random) -> dict[str, Tensor]:
    """Numbers of a reach that was tuned by trial; uniform, since the rounding of normal ones differs by platform."""

    def matrix(columns: int, rows: int, reach: float) -> Tensor:
        return (columns, rows), array("f", (reach * (2 * source.random() - 1) for _ in range(columns * rows)))

    embedding, output = matrix(WIDTH, len(vocabulary), 1.0), matrix(WIDTH, len(vocabulary), 0.28)
    for row, token in enumerate(vocabulary):
        embedding[1][row * WIDTH : row * WIDTH + 3] = array("f", [4.0, 4.0 * (row == ANSWER), 0.0])
        patience = IMPATIENT.get(token, 0.0) / 5.0
        output[1][row * WIDTH : row * WIDTH + 3] = array("f", [_lean(token) / 5.0 + patience, 0.0, -patience])
    ones = (WIDTH, 1), array("f", [1.0] * WIDTH)
    tensors = {"token_embd.weight": embedding, "output.weight": output, "output_norm.weight": ones}
    for layer in range(LAYERS):
        tensors |= {f"blk.{layer}.{norm}.weight": ones for norm in ("attn_norm", "ffn_norm")}
        for name, (columns, rows, reach, writes) in MATRICES.items():
            tensors[f"blk.{layer}.{name}.weight"] = weights = matrix(columns, rows, reach)
            if writes:
                weights[1][: 3 * columns] = array("f", [0.0] * 3 * columns)
            else:
                weights[1][BIAS::columns] = array("f", [0.0] * rows)
    _add_patience({name: tensors[f"blk.0.{name}.weight"][1] for name in MATRICES})
    return tensors


def _add_patience(weights: dict[str, array[float]]) -> None:
    """Makes the first head of a layer attend to the start of the answer, and less with distance."""
    for name in ("attn_q", "attn_k", "attn_v"):
        weights[name][: HEAD * WIDTH] = array("f", [0.0] * HEAD * WIDTH)
    for row in range(WIDTH):
        weights["attn_output"][row * WIDTH : row * WIDTH + HEAD] = array("f", [0.0] * HEAD)
    weights["attn_q"][2 * ROPE_PAIR * WIDTH + BIAS] = 1.6
    weights["attn_k"][2 * ROPE_PAIR * WIDTH + BEGIN] = 1.5
    weights["attn_v"][BEGIN] = 0.9
    weights["attn_output"][PATIENCE * WIDTH] = 1.0


def _gguf(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(_string(key) + _typed(value) for key, value in metadata.items())
    data = b""
    for name, ((columns, rows), values) in tensors.items():
        shape = (columns,) if rows == 1 else (columns, rows)
        kind, letter = (0, "f") if rows == 1 else (1, "e")
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += _padded(struct.pack(f"<{len(values)}{letter}", *values))
    return _padded(head) + data


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % ALIGNMENT)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: Any) -> bytes:
    for kind, number, form in ((bool, 7, "?"), (int, 4, "I"), (float, 6, "f")):
        if isinstance(value, kind):
            return struct.pack(f"<I{form}", number, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value[0], int):
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
