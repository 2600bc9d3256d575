"""Computes the keys of stored answers: a hash of all that can change an answer, and of no secret.

A key is computed from the configuration alone, without API keys, servers or LiteLLM: an unset variable stands for
itself, a context that is sized to the prompt is `auto`, a local model has the digest it was last seen with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from testronaut_llm.providers.endpoint import endpoint_of

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.providers.row import Provider
    from testronaut_llm.records import Call
    from testronaut_llm.schema.output_schema import OutputSchema

FORMAT = 1
"""Increased whenever this package changes how it asks, or the form in which it stores answers."""
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""Returns JSON that is the same for equal values."""


def parts_of(call: Call, texts: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns what a call asks, without its model, as canonical JSON: one part, or one per text to embed.

    Empty if `extra` holds a value that is not JSON; such a call cannot be stored.
    """
    try:
        if texts:
            return tuple([canonical({"embed": text, "extra": call.extra}) for text in texts])
        asked = {
            "messages": [(one.role, one.content) for one in call.messages],
            "schema": _schema(call.output) if call.output else None,
            "max_tokens": call.max_tokens,
            "temperature": None if call.temperature is None else float(call.temperature),
            "stop": call.stop,
            "seed": call.seed,
            "sample": call.sample,
            "extra": call.extra,
            **({"logprobs": True} if call.logprobs else {}),
        }
        return (canonical(asked),)
    except (TypeError, ValueError, RecursionError):
        return ()


def model_part(model: ModelConfig, provider: Provider, digest: str | None) -> str:
    """Returns the part of a model: its endpoint, its name there, and its settings."""
    endpoint = endpoint_of(model, provider)
    return _joined(
        format=FORMAT,
        model=model.model,
        base=endpoint.url,
        version=endpoint.api_version,
        base_model=model.base_model,
        num_ctx=model.num_ctx or "auto",
        digest=model.digest or digest,
        reasoning=model.reasoning,
        dimensions=model.dimensions,
        extra=canonical(model.extra) if model.extra else "",
        **({"withheld": canonical(model.withheld)} if model.withheld else {}),
    )


def digest_key(model: ModelConfig, provider: Provider) -> str:
    """Returns the key of the digest that a local model was last seen with."""
    return "digest:" + hashed(canonical([model.model, endpoint_of(model, provider).url]))


def hashed(*parts: str) -> str:
    """Returns one hash of several texts, none of which holds a line break outside a JSON string."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@lru_cache(maxsize=128)
def _joined(**settings: str | int | None) -> str:
    return canonical(settings)


@lru_cache(maxsize=128)
def _schema(output: OutputSchema) -> str:
    return canonical([output.name, _with_order(output.json_schema)])


def _with_order(schema: Any) -> Any:
    """Returns the schema with its properties as pairs: their order counts, since a model answers in it."""
    if isinstance(schema, list):
        return [_with_order(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    walked = {key: _with_order(value) for key, value in schema.items()}
    listed = walked.get("properties")
    return {**walked, "properties": list(listed.items())} if isinstance(listed, dict) else walked
