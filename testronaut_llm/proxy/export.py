"""Converts `llm.yaml` to a configuration of the LiteLLM proxy, and lists what the proxy has no setting for.

A model keeps its name, a task becomes a name with fallbacks. Each field that is not converted is listed, so
that no reader expects the proxy to enforce it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.providers.provider_registry import is_local
from testronaut_llm.proxy.models import Deployment, Stays, deployment_of, limited_by
from testronaut_llm.routing.task_router import one_vector_space, select

PROXY = "litellm_proxy"
_LITELLMS_FALLBACKS = 5
_SENT, _OURS = "llm.yaml still sends it with each request", "stays with the caller"
_SECRETS = "stays with the caller, who sends masked text unless it says `allow`"
_TASK_STAYS = {
    "strategy": "the proxy tries a task's models in the listed order",
    "min_quality": "weaker models are left out of the task's fallbacks; the proxy does not enforce it otherwise",
    **dict.fromkeys(("max_tokens", "temperature", "stop", "seed", "system", "prompt_cache"), _SENT),
    **dict.fromkeys(("timeout", "deadline", "allow_truncated", "optional"), _OURS),
    "retries": "stay with the caller; the proxy is set not to retry, or both would",
    "fallback_on": "stays with the caller; the proxy falls back after any error",
    "private": "its text may not leave this machine, so the proxy does not have the task",
    "cache": "stays with the caller, and does not affect a cache of the proxy",
    "secrets": _SECRETS,
    "budget": "stays with the caller; the proxy has no budget for a task",
}
_BUDGET_STAYS = {
    "per_call": _OURS,
    "total": "stays with the caller; a budget of the proxy needs a period",
    "on_exceeded": "stays with the caller; the proxy refuses",
    "scope": "the proxy's budget is for all who use it",
}
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
    rows = written.get("models") or {}
    listed = (name for task in config.tasks.values() for name in task.models)  # some are `provider/model`
    models = {name: config.model(name) for name in dict.fromkeys([*config.models, *listed])}
    found = {name: deployment_of(model, rows.get(name) or {}, config.limits) for name, model in models.items()}
    there = {name: one for name, one in found.items() if one.params}
    prices = PriceTable.load()
    for name, one in there.items():
        if str(models[name].base_model).startswith("azure/"):
            one.info["base_model"] = _priced_base(models[name], prices) or models[name].base_model
    router, task_stays = _router(config, there, prices)
    settings, other_stays = _settings(config, redis=redis)
    if redis:
        router["redis_url"] = "os.environ/REDIS_URL"
    document = {
        "model_list": [
            {"model_name": name, "litellm_params": one.params} | ({"model_info": one.info} if one.info else {})
            for name, one in there.items()
        ],
        "router_settings": router,
        "litellm_settings": settings,
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    stays = [
        *_grouped({name: one.stays for name, one in found.items()}, "models"),
        *_grouped(task_stays, "tasks"),
        *other_stays,
        *_shared_limits(config, {name: models[name] for name in there}),
    ]
    return ProxyExport(document, {name.rpartition("/")[2]: _row(models[name], prices) for name in there}, stays)


def _router(
    config: LLMConfig, there: Mapping[str, Deployment], prices: PriceTable
) -> tuple[dict[str, Any], dict[str, Stays]]:
    """Returns each task as an alias of its first model, so that its limits are counted once, and the fallbacks."""
    aliases: dict[str, str] = {}
    fallbacks: list[dict[str, list[str]]] = []
    stays: dict[str, Stays] = {}
    for name, task in config.tasks.items():
        selected = select(config, None, task)
        if prices.facts(selected[0].row).dimensions is not None:
            selected = one_vector_space(selected)
        known = [
            (model, None if one.kept else one.reason)
            for model, one in zip(task.models, selected, strict=True)
            if model in there
        ]
        listed = [model for model, why in known if why is None]
        stays[name] = [(key, why) for key, why in _TASK_STAYS.items() if key in task.model_fields_set]
        stays[name] += [(f"models: {model}", why) for model, why in known if why is not None]
        if name in there and not task.private:
            stays[name].append(("name", "is also the name of a model, and the proxy has one list: rename the task"))
        elif listed and not task.private:
            aliases[name] = listed[0]
            fallbacks += [{name: listed[1:]}] if listed[1:] else []
    settings: dict[str, Any] = {"model_group_alias": aliases, "fallbacks": fallbacks, "num_retries": 0}
    most = max((len(names) for one in fallbacks for names in one.values()), default=0)
    if most > _LITELLMS_FALLBACKS:
        settings["max_fallbacks"] = most
    if any({"rpm", "tpm"} & one.params.keys() for one in there.values()):
        settings["optional_pre_call_checks"] = ["enforce_model_rate_limits"]  # without it limits only guide the choice
    return settings, stays


def _settings(config: LLMConfig, *, redis: bool) -> tuple[dict[str, Any], list[str]]:
    """Returns the proxy's budget and cache, and lines about our settings that stay."""
    settings: dict[str, Any] = {"drop_params": True}  # as here, a model is not sent settings that it does not support
    stays = []
    if (budget := config.budget) is not None:
        stays += [f"budget.{key}: {why}" for key, why in _BUDGET_STAYS.items() if key in budget.model_fields_set]
        given = [key for key in _PERIODS if getattr(budget, key) is not None]
        for key in given[:1]:
            settings |= {"max_budget": float(getattr(budget, key)), "budget_duration": _PERIODS[key]}
            stays.append(f"budget.{key}: moves, but works only if DATABASE_URL gives the proxy a Postgres database")
        stays += [f"budget.{key}: stays with the caller; the proxy has one period" for key in given[1:]]
    if redis:
        cache = {"type": "redis", "url": "os.environ/REDIS_URL", "ttl": config.cache.ttl}
        settings |= {"cache": True, "cache_params": {name: value for name, value in cache.items() if value is not None}}
    elif "ttl" in config.cache.model_fields_set:
        stays.append("cache.ttl: stays with the caller; --redis gives the proxy a cache")
    if "size_limit" in config.cache.model_fields_set:
        stays.append("cache.size_limit: stays with the caller; Redis has its own limit (maxmemory)")
    if config.secrets is not None:
        stays.append(f"secrets: {_SECRETS}")
    if config.log is not None:
        stays.append("log: stays with the caller; the proxy has its own")
    return settings, stays


def _shared_limits(config: LLMConfig, moved: Mapping[str, ModelConfig]) -> Iterator[str]:
    for key in config.limits:
        names = [name for name, one in moved.items() if key in limited_by(one, config.limits)]
        if not names:
            yield f"limits.{key}: applies to no model of the proxy"
        elif len(names) > 1:
            yield f"limits.{key}: is shared by {', '.join(names)} here; the proxy allows as much to each of them"


def _grouped(stays: Mapping[str, Stays], section: str) -> Iterable[str]:
    """Yields a line for each field and reason, with the names of its rows."""
    names: dict[tuple[str, str], list[str]] = {}
    for name, pairs in stays.items():
        for pair in pairs:
            names.setdefault(pair, []).append(name)
    for (key, why), about in names.items():
        yield f"{section}.{about[0] if len(about) == 1 else '{' + ','.join(about) + '}'}.{key}: {why}"


def _row(model: ModelConfig, prices: PriceTable) -> dict[str, Any]:
    """Returns the row that reaches a model through the proxy, with the same quality, price and window."""
    row: dict[str, Any] = {"model": f"{PROXY}/{model.alias}"}
    if model.price is not None:
        row["price"] = {name: float(rate) for name, rate in model.price.model_dump(exclude_none=True).items()}
    elif is_local(model):
        row["price"] = {"input": 0, "output": 0}
    else:
        row["base_model"] = _priced_base(model, prices)
    row |= {"quality": model.quality, "context_window": model.num_ctx or model.context_window}
    row |= {"max_output": model.max_output, "dimensions": model.dimensions}
    return {name: value for name, value in row.items() if value is not None}


def _priced_base(model: ModelConfig, prices: PriceTable) -> str | None:
    """Returns the name under which the model has a price behind the proxy."""
    base = model.base_model or model.model
    bare = base.removeprefix("azure/")
    for name in (base,) if "/" in bare else (f"azure/{bare}", f"openai/{bare}"):
        if prices.price(ModelConfig(alias="row", model=f"{PROXY}/row", base_model=name)) is not None:
            return name
    return None
