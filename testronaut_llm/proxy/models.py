"""One model row in the words of the LiteLLM proxy: how to reach it there, and what the proxy has no place for.

No key and no value of a variable is ever written, only `os.environ/NAME`, which the proxy fills on its own machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.config.sections import LimitConfig, PriceConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.providers import body_fields
from testronaut_llm.providers.endpoint import base_of, fault_of
from testronaut_llm.providers.key_source import key_source
from testronaut_llm.providers.provider_registry import api_version_of, provider_of
from testronaut_llm.providers.row import Provider
from testronaut_llm.support.money import exact
from testronaut_llm.support.text import is_loopback

_WHOLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-[^{}]*)?\}")
_MILLION = Decimal(1_000_000)
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "concurrency": "max_parallel_requests"}

Stays = list[tuple[str, str]]

STAYS = {
    "quality": "llm.yaml goes on choosing by it",
    "local": "llm.yaml goes on saying where private text may go",
    "digest": "the proxy does not check which model a server holds",
    "auto_pull": "the proxy fetches no models: pull it on the server",
}
"""Fields of a model that the proxy has no place for, and why that is so."""


@dataclass(slots=True, kw_only=True)
class Deployment:
    """A model as the proxy is told of it. `params` is None where it cannot go there; `stays` are (field, why)."""

    params: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    stays: Stays = field(default_factory=list)


def deployment_of(model: ModelConfig, written: Mapping[str, Any], limits: Mapping[str, LimitConfig]) -> Deployment:
    """Returns a model in the proxy's words, under the limits of the whole file.

    `written` is its section as the file has it, `${VAR}` not filled; empty for `provider/model` in a task.
    """
    stays = [(name, why) for name, why in STAYS.items() if name in model.model_fields_set]
    if why := _cannot_go(model):
        return Deployment(stays=[("model", why), *stays])
    provider = provider_of(model)
    params = {
        "model": f"{provider.litellm_prefix}/{model.name}",
        **dict(_endpoint(model, provider, written, stays)),
        **dict(_key(model, provider, stays)),
        **dict(_settings(model, provider, stays)),
        **dict(_extra(model, provider, written, stays)),
        **_limits(model, provider, limits),
        **(_price(model.price) if model.price else {}),
    }
    told = {"base_model": model.base_model, "max_input_tokens": model.context_window}
    told |= {"max_output_tokens": model.max_output, "mode": "embedding" if model.dimensions else None}
    if lost := [name for name in model.unset if f"os.environ/{name}'" not in str(params)]:
        stays.append(("unset", f"{', '.join(lost)} is not set here, so what it fills is left out"))
    return Deployment(
        params=params, info={name: value for name, value in told.items() if value is not None}, stays=stays
    )


def limited_by(model: ModelConfig, provider: Provider, limits: Mapping[str, LimitConfig]) -> list[str]:
    """The keys of `limits` (a provider, or an endpoint's URL) that hold for a model."""
    url = (base_of(model, provider).url or "").rstrip("/")
    return [key for key in limits if key == model.provider or (url and key.rstrip("/") == url)]


def _cannot_go(model: ModelConfig) -> str | None:
    if model.provider == "embedded":
        return "runs inside each process; serve its file with llama.cpp and give it an api_base to share it"
    if model.provider == "litellm_proxy":
        return "points at a proxy already"
    if "${" in model.model:
        return f"{', '.join(model.unset)} is not set, so nobody can say which model it is"
    try:
        provider_of(model)
    except ConfigError as error:
        return str(error)
    return None


def _endpoint(
    model: ModelConfig, provider: Provider, written: Mapping[str, Any], stays: Stays
) -> Iterable[tuple[str, str]]:
    base, text = base_of(model, provider), str(written.get("api_base") or "")
    if "${" in text:
        if whole := _WHOLE.fullmatch(text):
            yield "api_base", f"os.environ/{whole[1]}"
        else:
            stays.append(("api_base", "the proxy fills whole values only: make one variable of it"))
    elif base.source not in ("", "llm.yaml", "default"):
        yield "api_base", f"os.environ/{base.source}"
    elif base.url and fault_of(base.url):
        stays.append(("api_base", f"{fault_of(base.url)}, so it is not written"))
    elif base.url and (base.from_file or provider.litellm_prefix != provider.name):
        yield "api_base", base.url
    if base.url and is_loopback(base.url):
        stays.append(("api_base", "is a server on this machine: the proxy must reach it by that address too"))
    if version := api_version_of(model, provider):
        yield "api_version", version


def _key(model: ModelConfig, provider: Provider, stays: Stays) -> Iterable[tuple[str, str]]:
    elsewhere = [name for name in ("api_key_file", "api_key_command") if getattr(model, name) is not None]
    source = key_source(model, provider)
    if elsewhere:
        variable = re.sub(r"\W", "_", model.alias).upper() + "_API_KEY"
        yield "api_key", f"os.environ/{variable}"
        stays.append((elsewhere[0], f"the proxy reads keys from variables: give it this one as {variable}"))
    elif source.kind == "entra":
        stays.append(("api_key_env", "none here, Entra ID is used: give the proxy's machine an identity"))
    elif source.kind == "variable" or source.missing:
        if name := source.name or next(iter(provider.key_variables), ""):
            yield "api_key", f"os.environ/{name}"
    elif provider.client == "openai":
        yield "api_key", "none"  # or LiteLLM would send it OPENAI_API_KEY


def _settings(model: ModelConfig, provider: Provider, stays: Stays) -> Iterable[tuple[str, Any]]:
    if model.reasoning and not (model.reasoning == "off" and provider.wire == "anthropic"):  # off is its default
        yield "reasoning_effort", "none" if model.reasoning == "off" else model.reasoning
    for name in ("num_ctx", "keep_alive"):
        if (value := getattr(model, name)) is not None and provider.wire == "ollama":
            yield name, value
        elif value is not None:
            stays.append((name, "means something to Ollama only"))
    if model.dimensions is not None:
        yield "dimensions", model.dimensions


def _extra(
    model: ModelConfig, provider: Provider, written: Mapping[str, Any], stays: Stays
) -> Iterable[tuple[str, Any]]:
    raw = written.get("extra") if written else model.extra
    body = dict(_referring(raw if isinstance(raw, Mapping) else {}, ("extra",), stays))
    if wrong := body_fields.refused(body, provider):
        stays.append(("extra", wrong))
        body = {}
    if provider.wire == "ollama":
        body = {"truncate": False, **body}  # a prompt that does not fit is an error, not cut in silence
    return body_fields.arguments(body, provider).items()


def _referring(values: Mapping[str, Any], where: tuple[str, ...], stays: Stays) -> Iterator[tuple[str, Any]]:
    """The values with `${VAR}` in the proxy's spelling, without those that it could not fill."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield key, dict(_referring(value, (*where, key), stays))
        elif isinstance(value, str) and (whole := _WHOLE.fullmatch(value)):
            yield key, f"os.environ/{whole[1]}"
        elif "${" in str(value):
            stays.append((".".join((*where, key)), "the proxy fills whole values of a mapping only, so it is left out"))
        else:
            yield key, value


def _limits(model: ModelConfig, provider: Provider, limits: Mapping[str, LimitConfig]) -> dict[str, int]:
    """The lowest that hold for the model."""
    holding = [limits[key] for key in limited_by(model, provider, limits)]
    if model.limits:
        holding.append(model.limits)
    given = {ours: [n for one in holding if (n := getattr(one, ours)) is not None] for ours in _LIMITS}
    return {_LIMITS[ours]: min(numbers) for ours, numbers in given.items() if numbers}


@exact
def _price(price: PriceConfig) -> dict[str, float]:
    """USD a token; what is not given costs what `input` does, as in llm.yaml."""
    rates = {
        "input_cost_per_token": price.input,
        "output_cost_per_token": price.output,
        "cache_read_input_token_cost": price.input if price.cache_read is None else price.cache_read,
        "cache_creation_input_token_cost": price.input if price.cache_write is None else price.cache_write,
    }
    return {name: float(rate / _MILLION) for name, rate in rates.items()}
