"""Selects the models that the rules of a task allow, before readiness and cost are checked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from testronaut_llm.providers.provider_registry import is_local, provider_of
from testronaut_llm.records import Candidate, Secrets

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig


def select(config: LLMConfig, call_model: str | None, task: TaskConfig) -> tuple[Candidate, ...]:
    """Returns the models of a task in its order; one that a rule of the task excludes is not `kept`.

    A model named in the call (`call_model`) is the only candidate. It need not be listed nor reach
    `min_quality`; a private task still refuses it when it is not local. (`TESTRONAUT_LLM_MODEL`
    was put into the tasks when the configuration was read.)

    Raises:
        ConfigError: a name is neither an alias nor `provider/model`.
    """
    names, floor = ((call_model,), 0) if call_model else (task.models, task.min_quality)
    return tuple([_candidate(config.model(name), task, floor, task.secrets or config.secrets) for name in names])


def _candidate(row: ModelConfig, task: TaskConfig, floor: int, secrets: Secrets | None) -> Candidate:
    provider, local, reason = provider_of(row), is_local(row), ""
    if row.quality < floor:
        wanted = f"quality {row.quality}, and {task.name} wants at least {floor}"
        reason = f"too weak: {wanted}; lower `min_quality` of the task, or name the model: --model {row.alias}"
    elif task.private and not local:
        reason = f"not private: {task.name} may not leave this machine, and {row.model} is not local"
    return Candidate(
        alias=row.alias,
        model=row.model,
        provider=provider.name,
        quality=row.quality,
        row=row,
        provider_row=provider,
        local=local,
        secrets=secrets or ("allow" if local else "mask"),
        kept=not reason,
        reason=reason,
    )


def one_vector_space(selected: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """Drops models whose base model or dimensions differ from those of the first, which defines the vector space."""
    first, *_ = spaces = [(one.row.base_model or one.row.name, one.row.dimensions) for one in selected]
    reason = f"another vector space than {selected[0].alias}: set the same base_model and dimensions"
    return tuple(
        replace(one, kept=False, reason=reason) if one.kept and space != first else one
        for one, space in zip(selected, spaces, strict=True)
    )
