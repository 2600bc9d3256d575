"""Converts `llm.yaml` to a configuration of the LiteLLM proxy, and lists what the proxy has no setting for.

A model keeps its name, a task becomes a name with fallbacks. Each field that is not converted is listed, so
that no reader expects the proxy to enforce it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.money.prices import PriceTable
from testronaut_llm.proxy.models import entry_of, limited_by, row_of
from testronaut_llm.routing.task_router import one_vector_space, select

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
    "on_exceeded": f"{_OURS}; the proxy refuses",
    "scope": "the proxy's budget is for all who use it",
    "ttl": f"{_OURS}; --redis gives the proxy a cache",
    "size_limit": f"{_OURS}; Redis has its own limit (maxmemory)",
    "log": f"{_OURS}; the proxy has its own",
}
"""Why a field stays in `llm.yaml`, where more is to be said than `_OURS`."""
_LITELLMS_FALLBACKS = 5
_PERIODS = {"per_month": "1mo", "per_day": "1d"}  # the proxy has one budget: that of a month limits the bill


class ProxyExport(NamedTuple):
    """The proxy's configuration as plain data, the new `rows` of llm.yaml by name, and lines about what `stays`."""

    document: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    stays: list[str]


class _Notes:
    """Lines about what stays; rows of a section with the same field and reason share a line."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, str], list[str]] = {}

    def add(self, section: str, row: str, field: str, why: str) -> None:
        self._rows.setdefault((section, field, why), []).append(row)

    def add_set(self, section: str, row: str, values: BaseModel, fields: Container[str]) -> None:
        """Adds those of the fields that are set."""
        for field in type(values).model_fields:
            if field in fields and field in values.model_fields_set and getattr(values, field) is not None:
                self.add(section, row, field, _WHY.get(field, _OURS))

    def lines(self) -> Iterator[str]:
        for (section, field, why), rows in self._rows.items():
            about = rows[0] if len(rows) == 1 else f"{{{','.join(rows)}}}"
            yield f"{'.'.join(filter(None, (section, about, field)))}: {why}"


def proxy_export(config: LLMConfig, written: Mapping[str, Any], *, redis: bool = False) -> ProxyExport:
    """Returns the configuration for the proxy. With `redis`, answers and counters are shared at REDIS_URL.

    `written` is the file as plain data with `${VAR}` unfilled.
    """
    rows, prices, notes = written.get("models") or {}, PriceTable.load(), _Notes()
    listed = (name for task in config.tasks.values() for name in task.models)  # some are `provider/model`
    models = {name: config.model(name) for name in dict.fromkeys([*config.models, *listed])}
    entries: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        notes.add_set("models", name, model, ("quality", "local", "digest", "auto_pull"))
        entry = entry_of(model, rows.get(name) or {}, config.limits, prices, partial(notes.add, "models", name))
        if entry is not None:
            entries[name] = entry
    document = {
        "model_list": list(entries.values()),
        "router_settings": _router(config, entries, prices, notes, redis=redis),
        "litellm_settings": _settings(config, notes, redis=redis),
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    for key in config.limits:
        names = [name for name in entries if key in limited_by(models[name], config.limits)]
        if not names:
            notes.add("limits", key, "", "applies to no model of the proxy")
        elif len(names) > 1:
            why = f"is shared by {', '.join(names)} here; the proxy allows as much to each of them"
            notes.add("limits", key, "", why)
    through = {name.rpartition("/")[2]: row_of(models[name], prices) for name in entries}
    return ProxyExport(document, through, list(notes.lines()))


def _router(
    config: LLMConfig, entries: Mapping[str, Any], prices: PriceTable, notes: _Notes, *, redis: bool
) -> dict[str, Any]:
    """Returns each task as an alias of its first model, so that its limits are counted once, and the fallbacks."""
    aliases: dict[str, str] = {}
    fallbacks: list[dict[str, list[str]]] = []
    for name, task in config.tasks.items():
        notes.add_set("tasks", name, task, type(task).model_fields.keys() - {"name", "models"})
        selected = select(config, None, task)
        if prices.facts(selected[0].row).dimensions is not None:
            selected = one_vector_space(selected)
        known = [(model, one) for model, one in zip(task.models, selected, strict=True) if model in entries]
        listed = [model for model, one in known if one.kept]
        for model, one in known:
            if not one.kept:
                notes.add("tasks", name, f"models: {model}", one.reason)
        if name in entries and not task.private:
            notes.add("tasks", name, "name", "is also the name of a model, and the proxy has one list: rename the task")
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


def _settings(config: LLMConfig, notes: _Notes, *, redis: bool) -> dict[str, Any]:
    """Returns the proxy's budget and cache."""
    settings: dict[str, Any] = {"drop_params": True}  # as here, a model is not sent settings that it does not support
    if (budget := config.budget) is not None:
        moved = next((key for key in _PERIODS if getattr(budget, key) is not None), None)
        if moved is not None:
            settings |= {"max_budget": float(getattr(budget, moved)), "budget_duration": _PERIODS[moved]}
            notes.add("budget", "", moved, "moves, but works only if DATABASE_URL gives the proxy a Postgres database")
        notes.add_set("budget", "", budget, type(budget).model_fields.keys() - {moved})
    if redis:
        ttl = {} if config.cache.ttl is None else {"ttl": config.cache.ttl}
        settings |= {"cache": True, "cache_params": {"type": "redis", "url": "os.environ/REDIS_URL", **ttl}}
    notes.add_set("cache", "", config.cache, ["size_limit"] if redis else ["ttl", "size_limit"])
    notes.add_set("", "", config, ["secrets", "log"])
    return settings
