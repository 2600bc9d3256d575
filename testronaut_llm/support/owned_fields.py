"""Body fields that this package sets itself, and where a user says what they are to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

OWNED: Mapping[str, str] = {
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"), "the task's `max_tokens`"
    ),
    **dict.fromkeys(("stop", "stop_sequences"), "the task's `stop`"),
    **{name: f"the task's `{name}`" for name in ("temperature", "seed", "system", "timeout")},
    **dict.fromkeys(("max_retries", "num_retries"), "the task's `retries`"),
    **dict.fromkeys(("fallbacks", "context_window_fallback_dict"), "the task's `models`"),
    **dict.fromkeys(("think", "thinking", "reasoning", "reasoning_effort"), "`reasoning` of the model's row"),
    **{
        name: f"`{name}` of the model's row"
        for name in ("model", "api_base", "api_version", "num_ctx", "keep_alive", "dimensions")
    },
    "base_url": "`api_base` of the model's row",
    "api_key": "`api_key_env` of the model's row",
    **dict.fromkeys(("messages", "prompt", "input"), "the prompt of the call"),
    **dict.fromkeys(("response_format", "format", "output_format"), "`schema=` of the call"),
    **dict.fromkeys(("stream", "stream_options"), "`llm.stream(...)`"),
    "n": "`sample=` of the call",
    **dict.fromkeys(("cache", "caching"), "the task's `cache`"),
    "cache_control": "the task's `prompt_cache`",
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls"), ""),
    **dict.fromkeys(("truncate", "shift", "encoding_format", "mock_response", "extra_body"), ""),
    **dict.fromkeys(("extra_headers", "headers"), ""),
    "azure_ad_token": "`api_key_env` of the model's row",  # LiteLLM takes it out of the body, for a credential
}
"""The field, and what to set instead; empty where there is nothing to set."""


def refused_in_extra(extra: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields the place and the reason of each field of an `extra` mapping that is ours, Ollama's `options` included."""
    options = extra.get("options")
    nested = options if isinstance(options, Mapping) else {}
    places = [(key,) for key in extra] + [("options", key) for key in nested]
    for place in places:
        if place[-1] in OWNED:
            instead = OWNED[place[-1]]
            yield place, "is set by this package" + (f": use {instead}" if instead else " and cannot be changed")
