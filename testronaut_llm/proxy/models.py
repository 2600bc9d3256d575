"""Converts a model to a deployment of the LiteLLM proxy, and lists what the proxy has no setting for.

No key and no value of a variable is written, only `os.environ/NAME`, which the proxy fills on its own machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.sections import LimitConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.providers.credentials import key_source
from testronaut_llm.providers.endpoint import endpoint_of, url_problem
from testronaut_llm.providers.provider_registry import provider_of
from testronaut_llm.providers.row import Provider
from testronaut_llm.support.money import exact
from testronaut_llm.support.text import is_loopback

Stays = list[tuple[str, str]]
"""(field, reason) pairs."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-[^{}]*)?\}")
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "concurrency": "max_parallel_requests"}
_RATES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_STAYS = {
    "quality": "llm.yaml still chooses by it",
    "local": "llm.yaml still decides where private text may go",
    "digest": "the proxy does not check which model a server holds",
    "auto_pull": "the proxy fetches no models: pull it on the server",
}


class Deployment(NamedTuple):
    """A model for the proxy; `params` is empty if the proxy cannot serve it."""

    params: dict[str, Any]
    info: dict[str, Any]
    stays: Stays


@exact
def deployment_of(model: ModelConfig, written: Mapping[str, Any], limits: Mapping[str, LimitConfig]) -> Deployment:
    """Returns a model as the proxy's settings, under the limits of the whole file.

    `written` is the row as the file has it, with `${VAR}` unfilled; empty for a `provider/model` of a task.
    """
    stays = [(name, why) for name, why in _STAYS.items() if name in model.model_fields_set]
    if why := _cannot_go(model):
        return Deployment({}, {}, [("model", why), *stays])
    provider = provider_of(model)
    params: dict[str, Any] = {"model": f"{provider.litellm_prefix}/{model.name}"}
    params |= _endpoint(model, provider, str(written.get("api_base") or ""), stays)
    params |= _key(model, provider, stays)
    params |= _options(model, provider, stays)
    params |= _extra(provider, written.get("extra") if written else model.extra, stays)
    applied = [limits[key] for key in limited_by(model, limits)] + [model.limits] * (model.limits is not None)
    for field, name in _LIMITS.items():
        if numbers := [number for one in applied if (number := getattr(one, field)) is not None]:
            params[name] = min(numbers)
    if price := model.price:  # a rate that is not given is that of `input`, as in llm.yaml
        rates = {name: getattr(price, field) for field, name in _RATES.items()}
        params |= {name: float((price.input if rate is None else rate) / 1_000_000) for name, rate in rates.items()}
    info = {"base_model": model.base_model, "max_input_tokens": model.context_window}
    info |= {"max_output_tokens": model.max_output, "mode": "embedding" if model.dimensions else None}
    if lost := [name for name in model.unset if f"os.environ/{name}'" not in str(params)]:
        stays.append(("unset", f"{', '.join(lost)} is not set here, so the fields with it are left out"))
    return Deployment(params, {name: value for name, value in info.items() if value is not None}, stays)


def limited_by(model: ModelConfig, limits: Mapping[str, LimitConfig]) -> list[str]:
    """Returns the keys of `limits` (a provider, or the URL of an endpoint) that apply to a model."""
    url = (endpoint_of(model, provider_of(model)).url or "").rstrip("/")
    return [key for key in limits if key == model.provider or (url and key.rstrip("/") == url)]


def _cannot_go(model: ModelConfig) -> str:
    if model.provider == "embedded":
        return "runs inside each process; serve its file with llama.cpp and give it an api_base to share it"
    if model.provider == "litellm_proxy":
        return "points at a proxy already"
    if "${" in model.model:
        return f"{', '.join(model.unset)} is not set, so the model is unknown"
    try:
        provider_of(model)
    except ConfigError as error:
        return str(error)
    return ""


def _endpoint(model: ModelConfig, provider: Provider, written: str, stays: Stays) -> dict[str, Any]:
    base, value = endpoint_of(model, provider), None
    if "${" in written:
        if (value := _reference(written)) is None:
            stays.append(("api_base", "the proxy fills whole values only: use one variable for all of it"))
    elif base.source not in ("", "llm.yaml", "default"):
        value = f"os.environ/{base.source}"
    elif base.url and (problem := url_problem(base.url)):
        stays.append(("api_base", f"{problem}, so it is not written"))
    elif base.from_file or provider.litellm_prefix != provider.name:
        value = base.url
    if base.url and is_loopback(base.url):
        stays.append(("api_base", "is a server on this machine: the proxy must reach it at this address, too"))
    settings = {"api_base": value, "api_version": base.api_version}
    return {name: given for name, given in settings.items() if given}


def _key(model: ModelConfig, provider: Provider, stays: Stays) -> dict[str, str]:
    source = key_source(model, provider)
    if model.api_key_file is not None or model.api_key_command is not None:
        variable = re.sub(r"\W", "_", model.alias).upper() + "_API_KEY"
        name = "api_key_command" if model.api_key_file is None else "api_key_file"
        stays.append((name, f"the proxy reads keys from variables: set {variable} there"))
    elif source.kind == "entra":
        stays.append(("api_key_env", "is not needed with Entra ID: give the proxy's machine an identity"))
        return {}
    elif source.kind == "variable" or source.missing:
        variable = source.name or next(iter(provider.key_variables), "")
    else:  # otherwise LiteLLM would send OPENAI_API_KEY
        return {"api_key": "none"} if provider.client == "openai" else {}
    return {"api_key": f"os.environ/{variable}"} if variable else {}


def _options(model: ModelConfig, provider: Provider, stays: Stays) -> dict[str, Any]:
    options: dict[str, Any] = {} if model.dimensions is None else {"dimensions": model.dimensions}
    if model.reasoning and not (model.reasoning == "off" and provider.wire == "anthropic"):  # off is its default
        options["reasoning_effort"] = "none" if model.reasoning == "off" else model.reasoning
    for name in ("num_ctx", "keep_alive"):
        if (value := getattr(model, name)) is None:
            continue
        if provider.wire == "ollama":
            options[name] = value
        else:
            stays.append((name, "has a meaning for Ollama only"))
    return options


def _extra(provider: Provider, extra: Any, stays: Stays) -> dict[str, Any]:
    body = _with_references(extra if isinstance(extra, Mapping) else {}, "extra", stays)
    if wrong := provider.refused(body):
        stays.append(("extra", wrong))
        body = {}
    if provider.wire == "ollama":
        body = {"truncate": False, **body}  # a prompt that does not fit is an error
    return provider.body_arguments(body)


def _with_references(values: Mapping[str, Any], where: str, stays: Stays) -> dict[str, Any]:
    """Returns the values with `${VAR}` as the proxy spells it, without those that it cannot fill."""
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            filled[key] = _with_references(value, f"{where}.{key}", stays)
        elif "${" not in str(value):
            filled[key] = value
        elif (reference := _reference(value)) is not None:
            filled[key] = reference
        else:
            stays.append((f"{where}.{key}", "is left out: the proxy fills whole values of a mapping only"))
    return filled


def _reference(value: object) -> str | None:
    """Returns `os.environ/NAME` for a text that is one `${NAME}`, None for any other value."""
    found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    return f"os.environ/{found[1]}" if found else None
