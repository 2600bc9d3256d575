"""Each field of a call is part of the cache key, or has a reason why it is not."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from manager_kit import build_call

from testronaut_llm.cache.entry import parts_of
from testronaut_llm.config.model_config import TaskConfig
from testronaut_llm.records import Call, Message
from testronaut_llm.schema.output_schema import OutputSchema

COUNTS: dict[str, Any] = {
    "messages": (Message(role="user", content="another prompt"),),
    "texts": ("another text",),
    "output": OutputSchema.of(int),
    "max_tokens": 7,
    "temperature": 0.7,
    "stop": ("END",),
    "seed": 7,
    "sample": 7,
    "logprobs": True,
    "extra": {"top_p": 0.5},
}
"""The fields that are part of the key, each with another value."""
EXEMPT = {
    "task": "the same prompt to the same model has one answer, whatever task asks",
    "settings config": "what they change in a request is in fields of the call or in the model's part of the key",
    "model selected candidates": "they say which models are looked up, each with a key of its own",
    "accept": "it judges a stored answer again",
    "cache": "it says if the key is used",
    "max_cost timeout deadline": "they limit money and time, not the answer",
    "stream": "the pieces of a stream are the same answer",
    "masking": "its placeholders are in the messages; the secrets are in no key",
    "metadata": "it goes to telemetry only",
    "started id": "they are new for each call",
}
"""The other fields, with the reason."""


def test_each_field_of_a_call_is_listed() -> None:
    """A new field must be added to the key, or to the exempt ones with a reason."""
    assert sorted([*COUNTS, *" ".join(EXEMPT).split()]) == sorted(field.name for field in fields(Call))


@pytest.mark.parametrize("name", COUNTS)
def test_another_value_is_another_key(name: str) -> None:
    call = build_call(TaskConfig(name="t", models=("m",)), "hi")
    other = replace(call, **{name: COUNTS[name]})
    assert parts_of(call, call.texts) != parts_of(other, other.texts) != ()
