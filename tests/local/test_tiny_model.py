"""The tiny model: random weights, and yet good manners."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from fixtures_local import chat, post
from tiny_model import ROW, WORDS, make_tiny_model

from testronaut_llm.local.local_provider import Endpoint

PROMPTS = (
    "Say hello.",
    "Explain `ls -la`",
    "Schöne Grüße, 日本",
    "a" * 300,
    "Which command is wrong? " * 40,
    "help " * 3000,
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "kind": {"enum": ["unit", "end to end"]},
        "cases": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"flag": {"type": "string"}, "why": {"type": ["string", "null"]}},
                "required": ["flag", "why"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "count", "kind", "cases"],
    "additionalProperties": False,
}


def schema_format(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_the_same_seed_gives_the_same_bytes(tiny_gguf: Path, tmp_path: Path) -> None:
    """Whoever makes the model, on whatever machine, gets the file whose digest is written down."""
    made = make_tiny_model(tmp_path / "again.gguf").read_bytes()
    assert made == tiny_gguf.read_bytes()
    assert (hashlib.sha256(made).hexdigest(), len(made)) == (ROW["sha256"], ROW["size"])
    assert make_tiny_model(tmp_path / "other.gguf", seed=9).read_bytes() != made


def test_the_reference_reader_agrees_with_the_file(tiny_gguf: Path) -> None:
    """The file is GGUF for the format's own package, not only for the reader of this one."""
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(tiny_gguf)
    assert reader.get_field("general.architecture").contents() == "llama"
    assert {tuple(tensor.shape) for tensor in reader.tensors if tensor.name == "output.weight"} == {(64, 634)}
    assert len(reader.tensors) == 3 + 2 * 9


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:12])
def test_an_answer_is_words_and_stops_by_itself(embedded_server: Endpoint, prompt: str) -> None:
    """Any prompt is answered in printable words, and the end is the model's own."""
    answer = chat(embedded_server, prompt)["choices"][0]
    words = re.findall(r"[a-z]+", answer["message"]["content"])
    assert answer["finish_reason"] == "stop"
    assert words
    assert set(words) <= set(WORDS.split())
    assert re.fullmatch(r"[ -~\n]*", answer["message"]["content"])


@pytest.mark.parametrize(
    "schema", [SCHEMA, {"type": "array", "items": SCHEMA}, {"type": "boolean"}, {"type": "object"}]
)
def test_a_schema_is_obeyed_within_a_few_hundred_tokens(embedded_server: Endpoint, schema: dict[str, object]) -> None:
    """Constrained decoding leads random weights to whole, valid JSON."""
    import jsonschema

    for prompt in PROMPTS[:3]:
        answer = chat(embedded_server, prompt, response_format=schema_format(schema), max_tokens=600)
        assert answer["choices"][0]["finish_reason"] == "stop"
        jsonschema.validate(json.loads(answer["choices"][0]["message"]["content"]), schema)


@pytest.mark.parametrize("prompt", PROMPTS[:4], ids=lambda prompt: prompt[:12])
def test_both_wires_say_the_same(embedded_server: Endpoint, prompt: str) -> None:
    """At temperature 0 the OpenAI and the Anthropic wire of one server return one text."""
    messages = [{"role": "user", "content": prompt}]
    anthropic = post(embedded_server, "/messages", {"messages": messages, "temperature": 0, "max_tokens": 400})
    openai = chat(embedded_server, prompt)
    assert anthropic["content"][0]["text"] == openai["choices"][0]["message"]["content"]
    assert anthropic["stop_reason"] == "end_turn"
