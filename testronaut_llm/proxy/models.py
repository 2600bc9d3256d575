"""Converts a model to an entry of the LiteLLM proxy's `model_list`, and to the row that reaches it there.

No key and no value of a variable is written, only `os.environ/NAME`, which the proxy fills on its own machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.sections import LimitConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.providers.credentials import key_source
from testronaut_llm.providers.endpoint import endpoint_of, url_problem
from testronaut_llm.providers.provider_registry import is_local, provider_of
from testronaut_llm.providers.row import Provider
from testronaut_llm.support.money import exact
from testronaut_llm.support.text import is_loopback

Note = Callable[[str, str], None]
"""Takes a field that stays in `llm.yaml`, and why."""

_PROXY = "litellm_proxy"
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-[^{}]*)?\}")
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "concurrency": "max_parallel_requests"}
_RATES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}


@exact
def entry_of(
    model: ModelConfig, written: Mapping[str, Any], limits: Mapping[str, LimitConfig], prices: PriceTable, note: Note
) -> dict[str, Any] | None:
    """Returns the proxy's settings of a model, under the limits of the whole file; None if it cannot serve it.

    `written` is the row as the file has it, with `${VAR}` unfilled; empty for a `provider/model` of a task.
    """
    if why := _cannot_go(model):
        note("model", why)
        return None
    provider = provider_of(model)
    params = {
        "model": f"{provider.litellm_prefix}/{model.name}",
        "api_base": _base(model, provider, str(written.get("api_base") or ""), note),
        "api_version": endpoint_of(model, provider).api_version,
        "api_key": _key(model, provider, note),
        "dimensions": model.dimensions,
        **_body(model, provider, written.get("extra") if written else model.extra, note),
    }
    applied = [limits[key] for key in limited_by(model, limits)] + [model.limits] * (model.limits is not None)
    for field, name in _LIMITS.items():
        params[name] = min([number for one in applied if (number := getattr(one, field)) is not None], default=None)
    if price := model.price:  # a rate that is not given is that of `input`, as in llm.yaml
        rates = {name: getattr(price, field) for field, name in _RATES.items()}
        params |= {name: float((price.input if rate is None else rate) / 1_000_000) for name, rate in rates.items()}
    if lost := [name for name in model.unset if f"os.environ/{name}'" not in str(params)]:
        note("unset", f"{', '.join(lost)} is not set here, so the fields with it are left out")
    base_model = model.base_model
    if base_model and base_model.startswith("azure/"):
        base_model = _priced_base(model, prices) or base_model
    info = {"base_model": base_model, "max_input_tokens": model.context_window, "max_output_tokens": model.max_output}
    info = _given({**info, "mode": "embedding" if model.dimensions else None})
    return {"model_name": model.alias, "litellm_params": _given(params)} | ({"model_info": info} if info else {})


def row_of(model: ModelConfig, prices: PriceTable) -> dict[str, Any]:
    """Returns the row of `llm.yaml` that reaches a model through the proxy, with the same quality, price and window."""
    free = {"input": 0, "output": 0} if is_local(model) else None
    given = model.price and {name: float(rate) for name, rate in model.price.model_dump(exclude_none=True).items()}
    price = given or free
    row = {"model": f"{_PROXY}/{model.alias}", "price": price, "quality": model.quality}
    row |= {"base_model": None if price else _priced_base(model, prices), "max_output": model.max_output}
    return _given(row | {"context_window": model.num_ctx or model.context_window, "dimensions": model.dimensions})


def limited_by(model: ModelConfig, limits: Mapping[str, LimitConfig]) -> list[str]:
    """Returns the keys of `limits` (a provider, or the URL of an endpoint) that apply to a model."""
    url = (endpoint_of(model, provider_of(model)).url or "").rstrip("/")
    return [key for key in limits if key == model.provider or (url and key.rstrip("/") == url)]


def _cannot_go(model: ModelConfig) -> str:
    if model.provider == "embedded":
        return "runs inside each process; serve its file with llama.cpp and give it an api_base to share it"
    if model.provider == _PROXY:
        return "points at a proxy already"
    if "${" in model.model:
        return f"{', '.join(model.unset)} is not set, so the model is unknown"
    try:
        provider_of(model)
    except ConfigError as error:
        return str(error)
    return ""


def _base(model: ModelConfig, provider: Provider, written: str, note: Note) -> str | None:
    base = endpoint_of(model, provider)
    if base.url and is_loopback(base.url):
        note("api_base", "is a server on this machine: the proxy must reach it at this address, too")
    if "${" in written:
        if (reference := _reference(written)) is None:
            note("api_base", "the proxy fills whole values only: use one variable for all of it")
        return reference
    if base.source not in ("", "llm.yaml", "default"):
        return f"os.environ/{base.source}"
    if base.url and (problem := url_problem(base.url)):
        note("api_base", f"{problem}, so it is not written")
        return None
    return base.url if base.from_file or provider.litellm_prefix != provider.name else None


def _key(model: ModelConfig, provider: Provider, note: Note) -> str | None:
    source = key_source(model, provider)
    if model.api_key_file is not None or model.api_key_command is not None:
        variable = re.sub(r"\W", "_", model.alias).upper() + "_API_KEY"
        field = "api_key_command" if model.api_key_file is None else "api_key_file"
        note(field, f"the proxy reads keys from variables: set {variable} there")
        return f"os.environ/{variable}"
    if source.kind == "entra":
        note("api_key_env", "is not needed with Entra ID: give the proxy's machine an identity")
        return None
    if source.kind == "variable" or source.missing:
        variable = source.name or next(iter(provider.key_variables), "")
        return f"os.environ/{variable}" if variable else None
    return "none" if provider.client == "openai" else None  # without it LiteLLM would send OPENAI_API_KEY


def _body(model: ModelConfig, provider: Provider, extra: Any, note: Note) -> dict[str, Any]:
    """Returns what is sent with each request."""
    ollama = provider.wire == "ollama"
    settings: dict[str, Any] = {}
    if model.reasoning and not (model.reasoning == "off" and provider.wire == "anthropic"):  # off is its default
        settings["reasoning_effort"] = "none" if model.reasoning == "off" else model.reasoning
    for name in ("num_ctx", "keep_alive"):
        if ollama:
            settings[name] = getattr(model, name)
        elif getattr(model, name) is not None:
            note(name, "has a meaning for Ollama only")
    body = _with_references(extra if isinstance(extra, Mapping) else {}, "extra", note)
    if wrong := provider.refused(body):
        note("extra", wrong)
        body = {}
    if ollama:
        body = {"truncate": False, **body}  # a prompt that does not fit is an error
    return settings | provider.body_arguments(body)


def _with_references(values: Mapping[str, Any], where: str, note: Note) -> dict[str, Any]:
    """Returns the values with `${VAR}` as the proxy spells it, without those that it cannot fill."""
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            filled[key] = _with_references(value, f"{where}.{key}", note)
        elif "${" not in str(value):
            filled[key] = value
        elif (reference := _reference(value)) is not None:
            filled[key] = reference
        else:
            note(f"{where}.{key}", "is left out: the proxy fills whole values of a mapping only")
    return filled


def _reference(value: object) -> str | None:
    """Returns `os.environ/NAME` for a text that is one `${NAME}`, None for any other value."""
    found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    return f"os.environ/{found[1]}" if found else None


def _priced_base(model: ModelConfig, prices: PriceTable) -> str | None:
    """Returns the name under which the model has a price behind the proxy."""
    base = model.base_model or model.model
    bare = base.removeprefix("azure/")
    for name in (base,) if "/" in bare else (f"azure/{bare}", f"openai/{bare}"):
        if prices.price(ModelConfig(alias="row", model=f"{_PROXY}/row", base_model=name)) is not None:
            return name
    return None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
