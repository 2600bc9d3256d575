"""What an Ollama server is told with a request: the options that a model is loaded and asked with, and its window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testronaut_llm.config.local_options import sorted_options
from testronaut_llm.config.model_config import LLMConfig, ModelConfig

_STEP, _LEAST, _MOST = 2048, 4096, 16384
"""Tokens: a window grows in steps, since another size loads the model again; what calls share is from least to most."""


def usual_window(config: LLMConfig, model: ModelConfig) -> int:
    """Returns the tokens of window that hold a prompt of the usual length, and any answer of the model's tasks."""
    longest = max((task.max_tokens for task in config.tasks.values() if model.alias in task.models), default=0)
    return max(_LEAST, min(_MOST, _stepped(longest + _STEP)))


def window(model: ModelConfig, usual: int, *, needed: int = 0, loaded: int | None = None, most: int | None) -> int:
    """Returns the tokens of window to ask for: as written, or what is loaded where it is enough, or a new size.

    `needed` are the tokens of this call, `most` those that the model was made for, where that is known.
    """
    enough = loaded if loaded and loaded >= needed else max(usual, _stepped(needed))
    return min(model.num_ctx or enough, most or model.num_ctx or enough)


def _stepped(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def load_options(model: ModelConfig, num_ctx: int | None, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the options that decide how a model is loaded: its window, and its hardware options."""
    return sorted_options(model.extra, extra or {})[1] | ({"num_ctx": num_ctx} if num_ctx else {})


def chat_body(
    model: ModelConfig, own: Mapping[str, Any], *, num_ctx: int | None, extra: Mapping[str, Any], thinks: bool | None
) -> dict[str, Any]:
    """Returns the fields of `/api/chat` besides model, messages, format and stream.

    `own` are options that this package sets, which count more than those of `extra`; `thinks` is None where nobody
    knows whether the model can think.
    """
    sampling, _, others = sorted_options(model.extra, extra)
    options = {**sampling, **load_options(model, num_ctx, extra), **own}
    # `truncate` would cut a prompt that is too long, `shift` forget its beginning while it answers; neither says so.
    body = {**others, "options": options, "truncate": False, "shift": False}
    if model.reasoning == "off" or (model.reasoning is not None and thinks is not False):
        body["think"] = False if model.reasoning == "off" else model.reasoning
    return body if model.keep_alive is None else {**body, "keep_alive": model.keep_alive}


def embed_body(model: ModelConfig, *, num_ctx: int | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `/api/embed` besides model, input and dimensions."""
    fields = {"options": load_options(model, num_ctx, extra) or None, "keep_alive": model.keep_alive}
    return {"truncate": False, **{name: value for name, value in fields.items() if value is not None}}
