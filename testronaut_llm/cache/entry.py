"""An entry of the cache: its key, and the JSON value of an answer or of vectors.

The key is a hash of all that can change an answer. It comes from the configuration alone, without API keys, servers or
LiteLLM: an unset variable stands for itself, a context that is sized to the prompt is `auto`, a local model has the
digest it was last seen with. The value holds no prompt, no alias and no task.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from testronaut_llm.providers.provider import SchemaDialect, endpoint_of
from testronaut_llm.records import Answer, Embeddings, TokenChoice, Usage
from testronaut_llm.support.paths import cache_dir
from testronaut_llm.support.text import exact, is_amount, is_count

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.providers.provider import Provider
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


_TINY = Decimal("1e-12")
_DIALECTS = get_args(SchemaDialect)
_KINDS = {
    **dict.fromkeys(("text", "response_model", "finish_reason"), (str,)),
    **dict.fromkeys(("cost_source", "request_id"), (str, NoneType)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One embedded text: with its share of the tokens and the cost (USD) of its request."""

    vector: tuple[float, ...]
    tokens: int
    cost: Decimal | None


def answer_value(answer: Answer[Any], dialect: SchemaDialect) -> dict[str, Any]:
    """Returns the stored form of an answer, with the dialect in which its text matches the schema."""
    return {
        "text": answer.text,
        "response_model": answer.response_model,
        "usage": {name: getattr(answer.usage, name) for name in Usage.__slots__},
        "cost": None if answer.cost is None else str(answer.cost),
        "cost_source": answer.cost_source,
        "finish_reason": answer.finish_reason,
        "request_id": answer.request_id,
        "dialect": dialect,
        **({"logprobs": [[one.token, one.logprob, one.others] for one in answer.logprobs]} if answer.logprobs else {}),
    }


def answer_of(
    task: str, output: OutputSchema | None, model: ModelConfig | None, started: float | None, value: Any
) -> Answer[Any]:
    """Returns a stored answer for a call of that task that started then (by the monotonic clock).

    Raises ValueError if it was not stored by this package, OutputInvalidError if it does not match the call's schema.
    """
    try:
        for name, kind in _KINDS.items():
            if not isinstance(value[name], kind):
                raise TypeError(f"{name} {value[name]!r:.40}")
        counts, dialect, saved = {**value["usage"]}, value["dialect"], _usd(value["cost"])
        estimated = counts.pop("estimated")
        if dialect not in _DIALECTS or type(estimated) is not bool or not all(map(is_count, counts.values())):
            raise TypeError(f"dialect {dialect!r:.40}, or usage {value['usage']!r:.80}")
        usage = Usage(**counts, estimated=estimated)
        logprobs = tuple([_choice(*one) for one in value.get("logprobs", ())])
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"the row is not an answer ({error!r})") from None
    return Answer(
        text=value["text"],
        parsed=None if output is None else output.read(value["text"], dialect),
        model=model.alias if model else "",
        provider_model=model.model if model else "",
        response_model=value["response_model"],
        task=task,
        usage=usage,
        cost=Decimal(0),
        cost_source=value["cost_source"],
        saved=saved,
        cached=True,
        finish_reason=value["finish_reason"],
        request_id=value["request_id"],
        logprobs=logprobs,
        latency=0.0 if started is None else time.monotonic() - started,
    )


@exact
def vector_values(found: Embeddings, texts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the stored form of each vector, with its share of tokens and cost by the length of its text."""
    whole = sum(map(len, texts))
    return [
        {
            "vector": base64.b64encode(struct.pack(f"<{len(vector)}d", *vector)).decode(),
            "tokens": round(found.usage.prompt_tokens * len(text) / whole),
            "cost": None if found.cost is None else str((found.cost * len(text) / whole).quantize(_TINY)),
        }
        for vector, text in zip(found.vectors, texts, strict=True)
    ]


def vector_of(value: Any) -> Vector:
    """Returns a stored vector. Raises ValueError if it was not stored by this package."""
    try:
        raw = base64.b64decode(value["vector"], validate=True)
        vector, tokens = struct.unpack(f"<{len(raw) // 8}d", raw), value["tokens"]
        if not is_count(tokens) or not all(map(math.isfinite, vector)):
            raise TypeError(f"tokens {tokens!r:.40}, or a value of the vector that is not a number")
        return Vector(vector=vector, tokens=tokens, cost=_usd(value["cost"]))
    except (KeyError, TypeError, ValueError, ArithmeticError, struct.error) as error:
        raise ValueError(f"the row is not a vector ({error!r})") from None


@exact
def joined(
    found: dict[str, Vector], texts: tuple[str, ...], asked: Embeddings | None, *, model: ModelConfig, task: str
) -> Embeddings:
    """Returns all vectors in the order of their texts: the stored ones, and those of `asked` for the others."""
    costs = [vector.cost for vector in found.values()]
    saved = sum(filter(None, costs), Decimal(0)) if found and None not in costs else None
    if asked is not None:
        fresh = [text for text in dict.fromkeys(texts) if text not in found]
        vectors = {text: one.vector for text, one in found.items()} | dict(zip(fresh, asked.vectors, strict=True))
        return replace(asked, vectors=tuple(vectors[text] for text in texts), saved=saved)
    return Embeddings(
        vectors=tuple(found[text].vector for text in texts),
        model=model.alias,
        provider_model=model.model,
        task=task,
        usage=Usage(prompt_tokens=sum(vector.tokens for vector in found.values())),
        cost=Decimal(0),
        saved=saved,
        cached=True,
    )


def _usd(cost: Any) -> Decimal | None:
    if cost is None:
        return None
    if type(cost) is not str or not is_amount(amount := Decimal(cost)):
        raise TypeError(f"a cost of {cost!r:.40}")
    return amount


def _choice(token: Any, logprob: Any, others: Any) -> TokenChoice:
    known = {str(other): float(value) for other, value in others.items()}
    return TokenChoice(token=str(token), logprob=float(logprob), others=known)


_SUM = 16  # characters of the checksum
_decoded = json.JSONDecoder().raw_decode


def default_folder() -> Path:
    """Returns the path of the store of all managers of this user."""
    return cache_dir() / "answers"


def sealed(key: str, value: Any) -> str:
    """Returns a JSON value as it is stored, with a checksum that ties it to its key."""
    text = canonical(value)
    return _sum(key, text) + text


def unsealed(key: str, stored: Any) -> Any:
    """Returns the JSON value of a row. Raises ValueError if it is not what was stored."""
    if type(stored) is not str or stored[:_SUM] != _sum(key, stored[_SUM:]):
        raise ValueError("a row that is not text, or has a wrong checksum")
    return _decoded(stored, _SUM)[0]


def _sum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()[:_SUM]
