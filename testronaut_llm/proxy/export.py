"""The same `llm.yaml` as a configuration of the LiteLLM proxy, for a team that has outgrown one machine each.

A model keeps its name there, a task becomes a name with fallbacks. What the proxy has no place for is said, field by
field: silence would read as "it is enforced there".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
from testronaut_llm.config.sections import BudgetConfig, LimitConfig
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.providers.provider_registry import is_local, provider_of
from testronaut_llm.proxy.models import Deployment, deployment_of, limited_by
from testronaut_llm.routing.task_router import one_vector_space, select

PROXY = "litellm_proxy"
_LITELLMS_FALLBACKS = 5
_SENT = "llm.yaml goes on sending it with each request"
_OURS = "stays with the caller"

TASK_STAYS = {
    "strategy": "the proxy tries a task's models in the listed order",
    "min_quality": "models below it are left out of the task's fallbacks, and that is all the proxy knows of it",
    **dict.fromkeys(("max_tokens", "temperature", "stop", "seed", "system", "prompt_cache"), _SENT),
    **dict.fromkeys(("timeout", "deadline", "allow_truncated"), _OURS),
    "retries": "stay with the caller; the proxy is told to retry nothing, or both would",
    "fallback_on": "stays with the caller; the proxy falls back after any error",
    "private": "its text may not leave this machine, so the proxy is not told of the task",
    "cache": "stays with the caller, and says nothing to a cache of the proxy",
    "budget": "the proxy knows no tasks' budgets; this one stays with the caller",
}
"""Fields of a task that the proxy has no place for, and why that is so."""

_BUDGET_STAYS = {
    "per_call": _OURS,
    "total": "a budget of the proxy needs a period; this one stays with the caller",
    "on_exceeded": "stays with the caller; the proxy refuses",
    "scope": "the proxy's budget is for all who use it",
}


@dataclass(slots=True, kw_only=True)
class ProxyExport:
    """What goes to the proxy (its configuration, as plain data), and what `stays`, a line each.

    The `rows`, by name, are for llm.yaml: each reaches a model through the proxy.
    """

    document: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    stays: list[str]


def proxy_export(config: LLMConfig, written: Mapping[str, Any] | None = None, *, redis: bool = False) -> ProxyExport:
    """Returns the configuration in the proxy's words; with `redis`, answers and counters are shared at REDIS_URL.

    `written` is the same as plain data, `${VAR}` not filled; without it no value from a variable is known as one.
    """
    rows = (written or {}).get("models") or {}
    listed = (name for task in config.tasks.values() for name in task.models)  # some as `provider/model`
    models = {name: config.model(name) for name in dict.fromkeys([*config.models, *listed])}
    found = {name: deployment_of(model, rows.get(name) or {}, config.limits) for name, model in models.items()}
    there = {name: one for name, one in found.items() if one.params is not None}
    prices = PriceTable.load()
    for name, one in there.items():
        if str(models[name].base_model).startswith("azure/"):
            one.info["base_model"] = _priced_base(models[name], prices) or models[name].base_model
    router, tasks_stay = _router(config, there, prices)
    litellm, budget_stays = _money(config.budget)
    if redis:
        router["redis_url"] = "os.environ/REDIS_URL"
        params = {"type": "redis", "url": "os.environ/REDIS_URL", "ttl": config.cache.ttl}
        litellm |= {"cache": True, "cache_params": {name: value for name, value in params.items() if value is not None}}
    return ProxyExport(
        document={
            "model_list": [
                {"model_name": name, "litellm_params": one.params} | ({"model_info": one.info} if one.info else {})
                for name, one in there.items()
            ],
            "router_settings": router,
            "litellm_settings": litellm,
            "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
        },
        rows={name.rpartition("/")[2]: _row(models[name], prices) for name in there},
        stays=[
            *_grouped({name: one.stays for name, one in found.items()}, "models"),
            *_grouped(tasks_stay, "tasks"),
            *budget_stays,
            *_rest(config, {name: models[name] for name in there}, redis=redis),
        ],
    )


def _router(
    config: LLMConfig, there: Mapping[str, Deployment], prices: PriceTable
) -> tuple[dict[str, Any], dict[str, list[tuple[str, str]]]]:
    """Tasks as names of their first model, so that a model's limits are counted once, with the others as fallbacks."""
    aliases: dict[str, str] = {}
    fallbacks: list[dict[str, list[str]]] = []
    stays: dict[str, list[tuple[str, str]]] = {}
    for name, task in config.tasks.items():
        stays[name] = [(key, why) for key, why in TASK_STAYS.items() if key in task.model_fields_set]
        listed, left_out = _candidates(config, task, there, prices)
        stays[name] += left_out
        if task.private:
            continue
        if name in there:
            stays[name].append(("name", "is a model's name too, and the proxy has one list of names: rename the task"))
        elif listed:
            aliases[name] = listed[0]
            fallbacks += [{name: listed[1:]}] if listed[1:] else []
    most = max((len(names) for one in fallbacks for names in one.values()), default=0)
    settings: dict[str, Any] = {"model_group_alias": aliases, "fallbacks": fallbacks, "num_retries": 0}
    if most > _LITELLMS_FALLBACKS:
        settings["max_fallbacks"] = most
    if any({"rpm", "tpm"} & set(one.params or ()) for one in there.values()):
        settings["optional_pre_call_checks"] = ["enforce_model_rate_limits"]  # they only weigh choices without it
    return settings, stays


def _candidates(
    config: LLMConfig, task: TaskConfig, there: Mapping[str, Deployment], prices: PriceTable
) -> tuple[list[str], list[tuple[str, str]]]:
    selected = select(config, None, task)
    if prices.facts(selected[0].model).dimensions is not None:
        selected = one_vector_space(selected)
    names = dict(zip(task.models, selected, strict=True))
    listed = [name for name, one in names.items() if name in there and one.excluded is None]
    out = [(f"models: {name}", one.excluded) for name, one in names.items() if name in there and one.excluded]
    return listed, out


def _money(budget: BudgetConfig | None) -> tuple[dict[str, Any], list[str]]:
    """The proxy has one budget and one period; a month's caps the bill. Drops what a model does not take, as we do."""
    settings: dict[str, Any] = {"drop_params": True}
    if budget is None:
        return settings, []
    stays = [f"budget.{key}: {why}" for key, why in _BUDGET_STAYS.items() if key in budget.model_fields_set]
    periods = {"per_month": "1mo", "per_day": "1d"}
    given = [key for key in periods if getattr(budget, key) is not None]
    if given:
        settings |= {"max_budget": float(getattr(budget, given[0])), "budget_duration": periods[given[0]]}
        stays.append(f"budget.{given[0]}: moves, but holds only where DATABASE_URL gives the proxy a Postgres")
    stays += [f"budget.{key}: the proxy has one period; this one stays with the caller" for key in given[1:]]
    return settings, stays


def _rest(config: LLMConfig, there: Mapping[str, ModelConfig], *, redis: bool) -> Iterator[str]:
    yield from _shared_limits(config.limits, there)
    cache = config.cache.model_fields_set
    if "ttl" in cache and not redis:
        yield "cache.ttl: stays with the caller; --redis gives the proxy a cache of its own"
    if "size_limit" in cache:
        yield "cache.size_limit: stays with the caller; Redis has a limit of its own (maxmemory)"
    if config.log is not None:
        yield "log: stays with the caller; the proxy keeps its own"


def _shared_limits(limits: Mapping[str, LimitConfig], there: Mapping[str, ModelConfig]) -> Iterator[str]:
    for key in limits:
        names = [name for name, m in there.items() if key in limited_by(m, provider_of(m), limits)]
        if not names:
            yield f"limits.{key}: no model that moves is reached there"
        elif len(names) > 1:
            yield f"limits.{key}: counts {', '.join(names)} together here; the proxy allows that much to each of them"


def _grouped(stays: Mapping[str, list[tuple[str, str]]], section: str) -> Iterator[str]:
    """A line for each field and reason, with the names that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for name, lines in stays.items():
        for line in lines:
            about.setdefault(line, []).append(name)
    for (key, why), names in about.items():
        yield f"{section}.{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}.{key}: {why}"


def _row(model: ModelConfig, prices: PriceTable) -> dict[str, Any]:
    """The row that reaches a model through the proxy: same quality, same price, as large a window."""
    row: dict[str, Any] = {"model": f"{PROXY}/{model.alias}"}
    if model.price is not None:
        row["price"] = {name: float(rate) for name, rate in model.price.model_dump(exclude_none=True).items()}
    elif is_local(model):
        row["price"] = {"input": 0, "output": 0}
    elif base := _priced_base(model, prices):
        row["base_model"] = base
    window = model.num_ctx or model.context_window
    kept = {"quality": model.quality, "context_window": window}
    kept |= {"max_output": model.max_output, "dimensions": model.dimensions}
    return row | {name: value for name, value in kept.items() if value is not None}


def _priced_base(model: ModelConfig, prices: PriceTable) -> str | None:
    """The name under which the proxy's row has a price."""
    base = model.base_model or model.model
    bare = base.removeprefix("azure/")
    for name in (base,) if "/" in bare else (f"azure/{bare}", f"openai/{bare}"):
        if prices.price(ModelConfig(alias="row", model=f"{PROXY}/row", base_model=name)) is not None:
            return name
    return None
