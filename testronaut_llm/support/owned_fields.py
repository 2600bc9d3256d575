"""Body fields that this package sets, and the setting of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_INSTEAD = {
    "the task's `max_tokens`": "max_tokens max_completion_tokens max_output_tokens num_predict",
    "the task's `stop`": "stop stop_sequences",
    "the task's `retries`": "max_retries num_retries",
    "the task's `models`": "fallbacks context_window_fallback_dict",
    "the task's `cache`": "cache caching",
    "the task's `prompt_cache`": "cache_control",
    "`reasoning` of the model's row": "think thinking reasoning reasoning_effort",
    "`api_base` of the model's row": "api_base base_url",
    "`api_key_env` of the model's row": "api_key azure_ad_token",  # LiteLLM takes both for credentials
    "the prompt of the call": "messages prompt input",
    "`schema=` of the call": "response_format format output_format",
    "`llm.stream(...)`": "stream stream_options",
    "`sample=` of the call": "n",
    "": "tools tool_choice functions function_call parallel_tool_calls truncate shift encoding_format mock_response"
    " extra_body extra_headers headers",
    **{f"the task's `{name}`": name for name in ("temperature", "seed", "system", "timeout")},
    **{
        f"`{name}` of the model's row": name for name in ("model", "api_version", "num_ctx", "keep_alive", "dimensions")
    },
}
OWNED: Mapping[str, str] = {name: instead for instead, names in _INSTEAD.items() for name in names.split()}
"""The field, and the setting to use instead; empty if there is none."""


def refused_in_extra(extra: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields place and reason of each field of an `extra` mapping that is ours, also in Ollama's `options`."""
    options = extra.get("options")
    nested = options if isinstance(options, Mapping) else {}
    for place in (*((key,) for key in extra), *(("options", key) for key in nested)):
        if place[-1] in OWNED:
            instead = OWNED[place[-1]]
            yield place, "is set by this package" + (f": use {instead}" if instead else " and cannot be changed")
