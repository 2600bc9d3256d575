"""One model as a deployment of the LiteLLM proxy, and what of it the proxy has no setting for.

No key and no value of a variable is written, only `os.environ/NAME`, which the proxy fills on its own machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.sections import LimitConfig, PriceConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.providers.credentials import key_source
from testronaut_llm.providers.endpoint import base_of, fault_of
from testronaut_llm.providers.provider_registry import api_version_of, provider_of
from testronaut_llm.providers.row import Provider
from testronaut_llm.support.money import exact
from testronaut_llm.support.text import is_loopback

_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-[^{}]*)?\}")
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "concurrency": "max_parallel_requests"}
_STAYS = {
    "quality": "llm.yaml still chooses by it",
    "local": "llm.yaml still says where private text may go",
    "digest": "the proxy does not check which model a server holds",
    "auto_pull": "the proxy fetches no models: pull it on the server",
}


@dataclass(slots=True, kw_only=True)
class Deployment:
    """A model for the proxy: `params` is empty if it cannot go there, `stays` has (field, reason) pairs."""

    params: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    stays: list[tuple[str, str]] = field(default_factory=list)


def deployment_of(model: ModelConfig, written: Mapping[str, Any], limits: Mapping[str, LimitConfig]) -> Deployment:
    """Returns a model as the proxy's settings, under the limits of the whole file.

    `written` is the row as the file has it, with `${VAR}` unfilled; empty for a `provider/model` of a task.
    """
    made = Deployment(stays=[(name, why) for name, why in _STAYS.items() if name in model.model_fields_set])
    if why := _cannot_go(model):
        made.stays.insert(0, ("model", why))
        return made
    provider = provider_of(model)
    made.params["model"] = f"{provider.litellm_prefix}/{model.name}"
    _set_endpoint(made, model, provider, str(written.get("api_base") or ""))
    _set_key(made, model, provider)
    _set_options(made, model, provider)
    _set_extra(made, provider, written.get("extra") if written else model.extra)
    made.params |= _limits(model, provider, limits) | (_price(model.price) if model.price else {})
    info = {"base_model": model.base_model, "max_input_tokens": model.context_window}
    info |= {"max_output_tokens": model.max_output, "mode": "embedding" if model.dimensions else None}
    made.info = {name: value for name, value in info.items() if value is not None}
    if lost := [name for name in model.unset if f"os.environ/{name}'" not in str(made.params)]:
        made.stays.append(("unset", f"{', '.join(lost)} is not set here, so what it fills is left out"))
    return made


def limited_by(model: ModelConfig, provider: Provider, limits: Mapping[str, LimitConfig]) -> list[str]:
    """Returns the keys of `limits` (a provider, or the URL of an endpoint) that apply to a model."""
    url = (base_of(model, provider).url or "").rstrip("/")
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


def _set_endpoint(made: Deployment, model: ModelConfig, provider: Provider, written: str) -> None:
    base, value = base_of(model, provider), None
    if "${" in written:
        if (value := _reference(written)) is None:
            made.stays.append(("api_base", "the proxy fills whole values only: use one variable for all of it"))
    elif base.source not in ("", "llm.yaml", "default"):
        value = f"os.environ/{base.source}"
    elif base.url and (fault := fault_of(base.url)):
        made.stays.append(("api_base", f"{fault}, so it is not written"))
    elif base.from_file or provider.litellm_prefix != provider.name:
        value = base.url
    if base.url and is_loopback(base.url):
        made.stays.append(("api_base", "is a server on this machine: the proxy must reach it by that address too"))
    settings = {"api_base": value, "api_version": api_version_of(model, provider)}
    made.params |= {name: given for name, given in settings.items() if given}


def _set_key(made: Deployment, model: ModelConfig, provider: Provider) -> None:
    source, key = key_source(model, provider), ""
    if model.api_key_file is not None or model.api_key_command is not None:
        name = "api_key_command" if model.api_key_file is None else "api_key_file"
        variable = re.sub(r"\W", "_", model.alias).upper() + "_API_KEY"
        key = f"os.environ/{variable}"
        made.stays.append((name, f"the proxy reads keys from variables: give it this one as {variable}"))
    elif source.kind == "entra":
        made.stays.append(("api_key_env", "is not needed with Entra ID: give the proxy's machine an identity"))
    elif source.kind == "variable" or source.missing:
        variable = source.name or next(iter(provider.key_variables), "")
        key = f"os.environ/{variable}" if variable else ""
    elif provider.client == "openai":
        key = "none"  # otherwise LiteLLM would send OPENAI_API_KEY
    if key:
        made.params["api_key"] = key


def _set_options(made: Deployment, model: ModelConfig, provider: Provider) -> None:
    if model.reasoning and not (model.reasoning == "off" and provider.wire == "anthropic"):  # off is its default
        made.params["reasoning_effort"] = "none" if model.reasoning == "off" else model.reasoning
    for name in ("num_ctx", "keep_alive", "dimensions"):
        value = getattr(model, name)
        if value is not None and name != "dimensions" and provider.wire != "ollama":
            made.stays.append((name, "has a meaning for Ollama only"))
        elif value is not None:
            made.params[name] = value


def _set_extra(made: Deployment, provider: Provider, extra: Any) -> None:
    body = _with_references(extra if isinstance(extra, Mapping) else {}, "extra", made)
    if wrong := provider.refused(body):
        made.stays.append(("extra", wrong))
        body = {}
    if provider.wire == "ollama":
        body = {"truncate": False, **body}  # a prompt that does not fit is an error
    made.params |= provider.body_arguments(body)


def _with_references(values: Mapping[str, Any], where: str, made: Deployment) -> dict[str, Any]:
    """Returns the values with `${VAR}` as the proxy spells it, without those that it could not fill."""
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            filled[key] = _with_references(value, f"{where}.{key}", made)
        elif "${" not in str(value):
            filled[key] = value
        elif (reference := _reference(value)) is not None:
            filled[key] = reference
        else:
            made.stays.append((f"{where}.{key}", "is left out: the proxy fills whole values of a mapping only"))
    return filled


def _reference(value: object) -> str | None:
    """Returns `os.environ/NAME` for a text that is one `${NAME}`, None for any other value."""
    found = _VARIABLE.fullmatch(value) if isinstance(value, str) else None
    return f"os.environ/{found[1]}" if found else None


def _limits(model: ModelConfig, provider: Provider, limits: Mapping[str, LimitConfig]) -> dict[str, int]:
    """Returns the lowest limits that apply to the model."""
    applied = [*(limits[key] for key in limited_by(model, provider, limits)), *([model.limits] if model.limits else [])]
    given = {name: [n for one in applied if (n := getattr(one, name)) is not None] for name in _LIMITS}
    return {_LIMITS[name]: min(numbers) for name, numbers in given.items() if numbers}


@exact
def _price(price: PriceConfig) -> dict[str, float]:
    """Returns USD per token; what is not given costs as much as `input`, as in llm.yaml."""
    rates = {
        "input_cost_per_token": price.input,
        "output_cost_per_token": price.output,
        "cache_read_input_token_cost": price.input if price.cache_read is None else price.cache_read,
        "cache_creation_input_token_cost": price.input if price.cache_write is None else price.cache_write,
    }
    return {name: float(rate / 1_000_000) for name, rate in rates.items()}
