"""The same `llm.yaml` as a configuration for the LiteLLM proxy, for a team that shares one gateway.

Pure: a configuration in, a mapping and notes out. Keys are never among them: the proxy reads them from its own
environment. Source: https://docs.litellm.ai/docs/proxy/config_settings
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testronaut_llm.config_secrets import public
from testronaut_llm.provider_registry import api_base_of, api_version_of, provider_of, timeout_of

if TYPE_CHECKING:
    from testronaut_llm.config_sections import LimitConfig
    from testronaut_llm.model_config import LLMConfig, ModelConfig, TaskConfig

MOVED = frozenset(
    (
        *("model", "api_base", "api_version", "base_model", "api_key_env", "price", "limits"),
        *("context_window", "max_output", "num_ctx", "keep_alive", "extra"),
    )
)
STAYING = {
    "alias": "is the name that the proxy gives the model",
    "unset": "is no setting",
    "api_key_file": "the proxy reads its keys from its environment",
    "api_key_command": "the proxy reads its keys from its environment",
    "quality": "routing stays here",
    "digest": "what runs is checked here",
    "auto_pull": "models are pulled here, or beforehand there",
    "reasoning": "goes along with each call",
    "local": "`private` tasks are kept to this machine here",
    "dimensions": "goes along with each call",
}
"""Fields of a model's row that do not move, and why."""

PRICES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cache_read": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
}
MASTER_KEY, MILLION = "LITELLM_MASTER_KEY", Decimal(1_000_000)


def proxy_config(config: LLMConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the proxy is to be given, and what could not be moved, a sentence each."""
    notes: list[str] = []
    rows = [row for model in _models(config) if (row := _row(model, notes)) is not None]
    known = {row["model_name"] for row in rows}
    fallbacks = []
    for task in config.tasks.values():
        names = [name for name in task.models if name in known]
        if names:
            first = next(row for row in rows if row["model_name"] == names[0])
            rows.append({**copy.deepcopy(first), "model_name": task.name})
            fallbacks += [{task.name: names[1:]}] if names[1:] else []
        notes += _of_task(task)
    settings: dict[str, Any] = {"drop_params": True, "num_retries": 0}
    notes += _budget(config, settings)
    notes += [f"limits.{name} of a provider or an endpoint: write them into its models' rows" for name in config.limits]
    made = {
        "model_list": rows,
        "router_settings": {"num_retries": 0, "fallbacks": fallbacks},
        "litellm_settings": settings,
        "general_settings": {"master_key": f"os.environ/{MASTER_KEY}"},
    }
    return made, tuple(dict.fromkeys(notes))


def _models(config: LLMConfig) -> Iterator[ModelConfig]:
    direct = [name for task in config.tasks.values() for name in task.models if name not in config.models]
    return map(config.model, [*config.models, *dict.fromkeys(direct)])


def _row(model: ModelConfig, notes: list[str]) -> dict[str, Any] | None:
    provider = provider_of(model)
    if provider.name == "embedded":
        notes.append(f"{model.alias} ({model.model}) runs in this program; to share it, serve it with Ollama")
        return None
    if model.api_key_file or model.api_key_command:
        notes.append(f"{model.alias}: {STAYING['api_key_file']}: export {_variable(model)} there")
    prefix = "ollama_chat" if provider.name == "ollama" else provider.litellm_prefix
    wanted = {
        "model": f"{prefix}/{model.name}",
        "api_base": _base(model),
        "api_version": api_version_of(model, provider),
        "api_key": f"os.environ/{_variable(model)}" if provider.key_required or model.api_key_env else None,
        "timeout": timeout_of(model),
        "num_ctx": model.num_ctx,
        "keep_alive": model.keep_alive,
        **(_limits(model.limits) if model.limits else {}),
        **_prices(model),
        **({"extra_body": dict(model.extra)} if model.extra else {}),
    }
    if model.environment_texts:
        notes.append(f"{model.alias}: `extra` holds values of the environment, so it is left out")
        wanted.pop("extra_body")
    info = {"base_model": model.base_model, "max_input_tokens": model.context_window, "max_tokens": model.max_output}
    row = {"model_name": model.alias, "litellm_params": _known(wanted)}
    return {**row, "model_info": _known(info)} if _known(info) else row


def _base(model: ModelConfig) -> str | None:
    """Where the model is; a variable that is not set here may be set there."""
    provider = provider_of(model)
    base = api_base_of(model, provider) if model.api_base or provider.local else None
    unset = re.fullmatch(r"\$\{(\w+)\}", base or "")
    return f"os.environ/{unset[1]}" if unset else public("api_base", base)


def _variable(model: ModelConfig) -> str:
    if model.api_key_env:
        return model.api_key_env
    usual = provider_of(model).key_variables
    return usual[0] if usual else f"{model.provider.upper()}_API_KEY"


def _limits(limits: LimitConfig) -> dict[str, Any]:
    return {"rpm": limits.rpm, "tpm": limits.tpm, "max_parallel_requests": limits.concurrency}


def _prices(model: ModelConfig) -> dict[str, float]:
    given = {} if model.price is None else {name: getattr(model.price, field) for field, name in PRICES.items()}
    return {name: float(Decimal(usd) / MILLION) for name, usd in given.items() if usd is not None}


def _of_task(task: TaskConfig) -> Iterator[str]:
    if task.strategy != "as_listed":
        yield f"task {task.name}: `strategy: {task.strategy}`; the proxy tries its models as they are listed"
    if task.private:
        yield f"task {task.name}: `private: true`; a proxy on another machine is not private"


def _budget(config: LLMConfig, settings: dict[str, Any]) -> Iterator[str]:
    budget = config.budget
    if budget is None:
        return
    for amount, period, name in ((budget.per_day, "1d", "per_day"), (budget.per_month, "30d", "per_month")):
        if amount is not None and "max_budget" not in settings:
            settings |= {"max_budget": float(amount), "budget_duration": period}
            yield f"budget.{name}, as it is; the proxy's own holds for all who share it, once it has a DATABASE_URL"
        elif amount is not None:
            yield f"budget.{name}: the proxy has one budget for all"
    for name in ("per_call", "total"):
        if getattr(budget, name) is not None:
            yield f"budget.{name}"


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
