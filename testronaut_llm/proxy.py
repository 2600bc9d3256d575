"""Converts `llm.yaml` to a configuration of the LiteLLM proxy, and lists what the proxy has no setting for.

A model keeps its name, a task becomes a name with fallbacks. No key and no value of a variable is written, only
`os.environ/NAME`, which the proxy fills on its own machine.
"""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.providers.credentials import key_source
from testronaut_llm.providers.provider import Provider, endpoint_of, url_problem
from testronaut_llm.providers.provider_registry import is_local, provider_of
from testronaut_llm.routing.task_router import one_vector_space, select
from testronaut_llm.support.text import exact, is_loopback

_PROXY = "litellm_proxy"
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-[^{}]*)?\}")
_LIMITS = {"rpm": "rpm", "tpm": "tpm", "concurrency": "max_parallel_requests"}
_RATES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
_OURS = "stays with the caller"
_WHY = {
    "quality": "llm.yaml still chooses by it",
    "local": "llm.yaml still decides where private text may go",
    "digest": "the proxy does not check which model a server holds",
    "auto_pull": "the proxy fetches no models: pull it on the server",
    "strategy": "the proxy tries a task's models in the listed order",
    "min_quality": "weaker models are left out of the task's fallbacks; the proxy does not enforce it otherwise",
    "retries": f"{_OURS}; the proxy is set not to retry, or both would",
    "fallback_on": f"{_OURS}; the proxy falls back after any error",
    "private": "its text may not leave this machine, so the proxy does not have the task",
    "secrets": f"{_OURS}, who sends masked text unless it says `allow`",
    "per_day": f"{_OURS}; the proxy has one period",
    "total": f"{_OURS}; a budget of the proxy needs a period",
    "scope": "the proxy's budget is for all who use it",
    "ttl": f"{_OURS}; --redis gives the proxy a cache",
}
"""Why a field stays in `llm.yaml`, where more is to be said than `_OURS`."""
_LITELLMS_FALLBACKS = 5
_PERIODS = {"per_month": "1mo", "per_day": "1d"}  # the proxy has one budget: that of a month limits the bill


class ProxyExport(NamedTuple):
    """The proxy's configuration as plain data, the new `rows` of llm.yaml by name, and lines about what `stays`."""

    document: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    stays: list[str]


def proxy_export(config: LLMConfig, written: Mapping[str, Any], *, redis: bool = False) -> ProxyExport:
    """Returns the configuration for the proxy. With `redis`, answers and counters are shared at REDIS_URL.

    `written` is the file as plain data with `${VAR}` unfilled.
    """
    rows, prices, stays = written.get("models") or {}, PriceTable.load(), list[str]()
    listed = (name for task in config.tasks.values() for name in task.models)  # some are `provider/model`
    models = {name: config.model(name) for name in dict.fromkeys([*config.models, *listed])}
    entries: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        notes = [*_unused("", model, ("quality", "local", "digest", "auto_pull"))]
        if (entry := _entry(model, rows.get(name) or {}, config, prices, notes)) is not None:
            entries[name] = entry
        stays += [f"models.{name}.{note}" for note in notes]
    document = {
        "model_list": list(entries.values()),
        "router_settings": _router(config, entries, prices, stays, redis=redis),
        "litellm_settings": _settings(config, stays, redis=redis),
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    for key in config.limits:
        names = [name for name in entries if key in _limited_by(models[name], config)]
        if not names:
            stays.append(f"limits.{key}: applies to no model of the proxy")
        elif len(names) > 1:
            stays.append(
                f"limits.{key}: is shared by {', '.join(names)} here; the proxy allows as much to each of them"
            )
    through = {name.rpartition("/")[2]: _row(models[name], prices) for name in entries}
    return ProxyExport(document, through, stays)


def _unused(place: str, values: BaseModel, fields: Container[str]) -> Iterator[str]:
    """Yields a line for each of the fields that is set."""
    for field in type(values).model_fields:
        if field in fields and field in values.model_fields_set and getattr(values, field) is not None:
            yield f"{place}{field}: {_WHY.get(field, _OURS)}"


def _router(
    config: LLMConfig, entries: Mapping[str, Any], prices: PriceTable, stays: list[str], *, redis: bool
) -> dict[str, Any]:
    """Returns each task as an alias of its first model, so that its limits are counted once, and the fallbacks."""
    aliases: dict[str, str] = {}
    fallbacks: list[dict[str, list[str]]] = []
    for name, task in config.tasks.items():
        stays += _unused(f"tasks.{name}.", task, type(task).model_fields.keys() - {"name", "models"})
        selected = select(config, None, task)
        if prices.facts(selected[0].row).dimensions is not None:
            selected = one_vector_space(selected)
        known = [(model, one) for model, one in zip(task.models, selected, strict=True) if model in entries]
        listed = [model for model, one in known if one.kept]
        stays += [f"tasks.{name}.models: {model}: {one.reason}" for model, one in known if not one.kept]
        if name in entries and not task.private:
            stays.append(f"tasks.{name}.name: is also the name of a model, and the proxy has one list: rename the task")
        elif listed and not task.private:
            aliases[name] = listed[0]
            fallbacks += [{name: listed[1:]}] if listed[1:] else []
    return {
        "model_group_alias": aliases,
        "fallbacks": fallbacks,
        "max_fallbacks": max([_LITELLMS_FALLBACKS, *(len(names) for one in fallbacks for names in one.values())]),
        "num_retries": 0,
        "optional_pre_call_checks": ["enforce_model_rate_limits"],  # without it limits only guide the choice
        **({"redis_url": "os.environ/REDIS_URL"} if redis else {}),
    }


def _settings(config: LLMConfig, stays: list[str], *, redis: bool) -> dict[str, Any]:
    """Returns the proxy's budget and cache."""
    settings: dict[str, Any] = {"drop_params": True}  # as here, a model is not sent settings that it does not support
    if (budget := config.budget) is not None:
        moved = next((key for key in _PERIODS if getattr(budget, key) is not None), None)
        if moved is not None:
            settings |= {"max_budget": float(getattr(budget, moved)), "budget_duration": _PERIODS[moved]}
            stays.append(f"budget.{moved}: moves, but works only if DATABASE_URL gives the proxy a Postgres database")
        stays += _unused("budget.", budget, type(budget).model_fields.keys() - {moved})
    if redis:
        ttl = {} if config.cache.ttl is None else {"ttl": config.cache.ttl}
        settings |= {"cache": True, "cache_params": {"type": "redis", "url": "os.environ/REDIS_URL", **ttl}}
    stays += _unused("cache.", config.cache, ["size_limit"] if redis else ["ttl", "size_limit"])
    stays += _unused("", config, ["secrets", "log"])
    return settings


@exact
def _entry(
    model: ModelConfig, written: Mapping[str, Any], config: LLMConfig, prices: PriceTable, notes: list[str]
) -> dict[str, Any] | None:
    """Returns the proxy's settings of a model, under the limits of the whole file; None if it cannot serve it.

    `written` is the row as the file has it, with `${VAR}` unfilled; empty for a `provider/model` of a task.
    """
    if why := _cannot_go(model):
        notes.append(f"model: {why}")
        return None
    provider = provider_of(model)
    params = {
        "model": f"{provider.litellm_prefix}/{model.name}",
        "api_base": _base(model, provider, str(written.get("api_base") or ""), notes),
        "api_version": endpoint_of(model, provider).api_version,
        "api_key": _key(model, provider, notes),
        "dimensions": model.dimensions,
        **_body(model, provider, written.get("extra") if written else model.extra, notes),
    }
    applied = [config.limits[key] for key in _limited_by(model, config)] + [model.limits] * (model.limits is not None)
    for field, name in _LIMITS.items():
        params[name] = min([number for one in applied if (number := getattr(one, field)) is not None], default=None)
    if price := model.price:  # a rate that is not given is that of `input`, as in llm.yaml
        rates = {name: getattr(price, field) for field, name in _RATES.items()}
        params |= {name: float((price.input if rate is None else rate) / 1_000_000) for name, rate in rates.items()}
    if lost := [name for name in model.unset if f"os.environ/{name}'" not in str(params)]:
        notes.append(f"unset: {', '.join(lost)} is not set here, so the fields with it are left out")
    base_model = model.base_model
    if base_model and base_model.startswith("azure/"):
        base_model = _priced_base(model, prices) or base_model
    info = {"base_model": base_model, "max_input_tokens": model.context_window, "max_output_tokens": model.max_output}
    info = _given({**info, "mode": "embedding" if model.dimensions else None})
    return {"model_name": model.alias, "litellm_params": _given(params)} | ({"model_info": info} if info else {})


def _row(model: ModelConfig, prices: PriceTable) -> dict[str, Any]:
    """Returns the row of `llm.yaml` that reaches a model through the proxy, with the same quality, price and window."""
    price: dict[str, float] | None = {"input": 0, "output": 0} if is_local(model) else None
    if model.price:
        price = {name: float(rate) for name, rate in model.price.model_dump(exclude_none=True).items()}
    row = {"model": f"{_PROXY}/{model.alias}", "price": price, "quality": model.quality}
    row |= {"base_model": None if price else _priced_base(model, prices), "max_output": model.max_output}
    return _given(row | {"context_window": model.num_ctx or model.context_window, "dimensions": model.dimensions})


def _limited_by(model: ModelConfig, config: LLMConfig) -> list[str]:
    """Returns the keys of `limits` (a provider, or the URL of an endpoint) that apply to a model."""
    url = (endpoint_of(model, provider_of(model)).url or "").rstrip("/")
    return [key for key in config.limits if key == model.provider or (url and key.rstrip("/") == url)]


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


def _base(model: ModelConfig, provider: Provider, written: str, notes: list[str]) -> str | None:
    base = endpoint_of(model, provider)
    if base.url and is_loopback(base.url):
        notes.append("api_base: is a server on this machine: the proxy must reach it at this address, too")
    if "${" in written:
        if (reference := _reference(written)) is None:
            notes.append("api_base: the proxy fills whole values only: use one variable for all of it")
        return reference
    if base.source not in ("", "llm.yaml", "default"):
        return f"os.environ/{base.source}"
    if base.url and (problem := url_problem(base.url)):
        notes.append(f"api_base: {problem}, so it is not written")
        return None
    return base.url if base.from_file or provider.litellm_prefix != provider.name else None


def _key(model: ModelConfig, provider: Provider, notes: list[str]) -> str | None:
    source = key_source(model, provider)
    if model.api_key_file is not None or model.api_key_command is not None:
        variable = re.sub(r"\W", "_", model.alias).upper() + "_API_KEY"
        field = "api_key_command" if model.api_key_file is None else "api_key_file"
        notes.append(f"{field}: the proxy reads keys from variables: set {variable} there")
        return f"os.environ/{variable}"
    if source.kind == "entra":
        notes.append("api_key_env: is not needed with Entra ID: give the proxy's machine an identity")
        return None
    if source.kind == "variable" or source.missing:
        variable = source.name or next(iter(provider.key_variables), "")
        return f"os.environ/{variable}" if variable else None
    return "none" if provider.client == "openai" else None  # without it LiteLLM would send OPENAI_API_KEY


def _body(model: ModelConfig, provider: Provider, extra: Any, notes: list[str]) -> dict[str, Any]:
    """Returns what is sent with each request."""
    ollama = provider.wire == "ollama"
    settings: dict[str, Any] = {}
    if model.reasoning and not (model.reasoning == "off" and provider.wire == "anthropic"):  # off is its default
        settings["reasoning_effort"] = "none" if model.reasoning == "off" else model.reasoning
    for name in ("num_ctx", "keep_alive"):
        if ollama:
            settings[name] = getattr(model, name)
        elif getattr(model, name) is not None:
            notes.append(f"{name}: has a meaning for Ollama only")
    body = _with_references(extra if isinstance(extra, Mapping) else {}, "extra", notes)
    if wrong := provider.refused(body):
        notes.append(f"extra: {wrong}")
        body = {}
    if ollama:
        body = {"truncate": False, **body}  # a prompt that does not fit is an error
    return settings | provider.body_arguments(body)


def _with_references(values: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    """Returns the values with `${VAR}` as the proxy spells it, without those that it cannot fill."""
    filled: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            filled[key] = _with_references(value, f"{where}.{key}", notes)
        elif "${" not in str(value):
            filled[key] = value
        elif (reference := _reference(value)) is not None:
            filled[key] = reference
        else:
            notes.append(f"{where}.{key}: is left out: the proxy fills whole values of a mapping only")
    return filled


def _reference(value: object) -> str | None:
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
