"""What an Ollama server is told with a request: the options that a model is loaded and asked with, and its window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testronaut_llm.config.local_options import sorted_options
from testronaut_llm.model_config import LLMConfig, ModelConfig

_STEP, _LEAST, _MOST = 2048, 4096, 16384
"""Tokens: a window grows in steps, since another size loads the model again; no size beyond `_MOST` is a usual one."""


def usual_window(config: LLMConfig, model: ModelConfig) -> int:
    """Returns the tokens of window that any call of the tasks that list a model most likely needs."""
    longest = max((task.max_tokens for task in config.tasks.values() if model.alias in task.models), default=0)
    return max(_LEAST, min(_MOST, _stepped(longest + _STEP)))


def window(model: ModelConfig, usual: int, *, needed: int = 0, loaded: int | None = None, most: int | None) -> int:
    """Returns the tokens of window to ask for: as written, or the one that is loaded where it is enough, or a new one.

    Args:
        model: its row.
        usual: tokens that calls like this one share.
        needed: tokens of this call's prompt and answer.
        loaded: tokens of window that the model has in memory now.
        most: tokens that the model was made for, where that is known.
    """
    enough = loaded if loaded and loaded >= needed else max(usual, _stepped(needed))
    size = model.num_ctx or enough
    return min(size, most) if most else size


def _stepped(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def load_options(model: ModelConfig, num_ctx: int | None, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the options that decide how a model is loaded: its window, and its hardware options."""
    _, hardware, _ = sorted_options(model.extra, extra or {})
    return {**hardware, **({"num_ctx": num_ctx} if num_ctx else {})}


def chat_body(
    model: ModelConfig, own: Mapping[str, Any], *, num_ctx: int | None, extra: Mapping[str, Any], thinks: bool | None
) -> dict[str, Any]:
    """Returns the fields of `/api/chat` besides model, messages, format and stream.

    Args:
        model: its row.
        own: options that this package sets; they count more than those of `extra`.
        num_ctx: tokens of window.
        extra: of the call; counts more than that of the row.
        thinks: can the model think? None where nobody knows.
    """
    sampling, _, others = sorted_options(model.extra, extra)
    body = {**others, "options": {**sampling, **load_options(model, num_ctx, extra), **own}}
    # Without these it cuts a prompt that is too long, or forgets the beginning while it answers, and says nothing.
    body |= {"truncate": False, "shift": False}
    if model.keep_alive is not None:
        body["keep_alive"] = model.keep_alive
    if model.reasoning == "off" or (model.reasoning is not None and thinks is not False):
        body["think"] = False if model.reasoning == "off" else model.reasoning
    return body


def embed_body(model: ModelConfig, *, num_ctx: int | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `/api/embed` besides model, input and dimensions."""
    body: dict[str, Any] = {"truncate": False}
    if options := load_options(model, num_ctx, extra):
        body["options"] = options
    if model.keep_alive is not None:
        body["keep_alive"] = model.keep_alive
    return body
