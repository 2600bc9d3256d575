"""The tiny model: random weights, and yet good manners."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from fixtures_local import chat
from tiny_model import ROW, make_tiny_model

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
