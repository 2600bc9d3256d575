"""The fields of `extra`: those that this package sets itself, and the options that local models take.

Options of local models have Ollama's words, for `ollama` and `embedded` rows alike.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from testronaut_llm.config.problems import quoted
from testronaut_llm.config.sections import native
from testronaut_llm.support.text import did_you_mean

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


SAMPLING: Mapping[str, tuple[type, str]] = {
    **{word: (int, word) for word in ("top_k", "repeat_last_n")},
    "num_keep": (int, "n_keep"),
    **{word: (float, word) for word in ("top_p", "min_p", "typical_p")},
    **{f"{word}_penalty": (float, f"{word}_penalty") for word in ("repeat", "presence", "frequency")},
}
"""Options of sampling: the type of the value, and llama.cpp's name."""
HARDWARE: Mapping[str, type] = {
    **dict.fromkeys(("num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"), int),
    "use_mmap": bool,
}
"""Options with which a model is loaded; another value reloads it."""
OTHER_FIELDS: Mapping[str, tuple[str, ...]] = {
    "ollama": ("logprobs", "top_logprobs"),
    "embedded": (
        *("adaptive_decay", "adaptive_target", "cache_prompt", "chat_template_kwargs", "dry_allowed_length"),
        *("dry_base", "dry_multiplier", "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent"),
        *("dynatemp_range", "grammar", "grammar_lazy", "ignore_eos", "logit_bias", "logprobs", "min_keep", "mirostat"),
        *("mirostat_eta", "mirostat_tau", "n_indent", "n_keep", "n_probs", "samplers", "t_max_predict_ms"),
        *("top_logprobs", "top_n_sigma", "xtc_probability", "xtc_threshold"),
    ),
}
"""Other body fields that a server of local models takes."""

_OPTIONS: Mapping[str, type] = {**{word: kind for word, (kind, _) in SAMPLING.items()}, **HARDWARE}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def refused_options(
    provider: str, extra: Mapping[str, Any], *, embedding: bool = False
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields place and reason of each field of `extra` that a local model refuses; for embeddings all but `options`."""
    others = OTHER_FIELDS.get("ollama" if provider == "ollama_chat" else provider)
    if others is None:
        return
    if not isinstance(extra.get("options", {}), Mapping):
        yield ("options",), "expected a mapping, such as {top_k: 20}"
        return
    for place, value in _fields(extra):
        word, kind, given = place[-1], _OPTIONS.get(place[-1]), type(native(value))
        known = (*_OPTIONS, *(() if embedding or len(place) > 1 else others))
        if word in OWNED:
            continue  # already refused
        if word not in known:
            yield place, f"`{word}` is not an option of {provider} models{did_you_mean(word, known)}"
        elif kind and "${" not in str(value) and given is not kind and (kind, given) != (float, int):
            yield place, f"`{word}` is {quoted(value)}; expected {_KINDS[kind]}"


def sorted_options(*extras: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns sampling options, hardware options and other fields of `extra` mappings; later mappings win."""
    merged = {place[-1]: native(value) for extra in extras for place, value in _fields(extra)}
    sampling = {word: value for word, value in merged.items() if word in SAMPLING}
    hardware = {word: value for word, value in merged.items() if word in HARDWARE}
    return sampling, hardware, {word: value for word, value in merged.items() if word not in _OPTIONS}


def _fields(extra: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields each field with its place; those of `options` last."""
    yield from (((word,), value) for word, value in extra.items() if word != "options")
    if isinstance(options := extra.get("options"), Mapping):
        yield from ((("options", word), value) for word, value in options.items())
