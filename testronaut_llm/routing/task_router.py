"""Which of a task's models may do it at all, whatever they cost and whether or not they are ready."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from testronaut_llm.providers.provider_registry import is_local, provider_of

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import LLMConfig, ModelConfig, TaskConfig
    from testronaut_llm.providers.row import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A model that a task lists, in the listed order.

    Attributes:
        excluded: the rule of the task that keeps it out for good, in words; None where it may do the task.
    """

    model: ModelConfig
    provider: Provider
    excluded: str | None = None


def select(config: LLMConfig, call_model: str | None, task: TaskConfig) -> tuple[Selected, ...]:
    """The models of a task, in its order, each with the rule that excludes it, if one does.

    A model that is named outright is the only candidate. It need not be listed nor reach
    `min_quality`; a private task still refuses it when it is not local. (`TESTRONAUT_LLM_MODEL`
    has been put into the tasks when the configuration was read.)

    Args:
        config: the whole file.
        call_model: what `model=` said.
        task: the task to do.

    Raises:
        ConfigError: a name is neither an alias nor `provider/model`.
    """
    models = [config.model(name) for name in ((call_model,) if call_model else task.models)]
    floor = 0 if call_model else task.min_quality
    return tuple(
        Selected(model=model, provider=provider_of(model), excluded=_excluded(model, task, floor)) for model in models
    )


def one_vector_space(selected: tuple[Selected, ...]) -> tuple[Selected, ...]:
    """The first listed model fixes the vector space; another is used only for the same model and dimensions."""
    first = selected[0].model

    def space(model: ModelConfig) -> tuple[str, int | None]:
        return model.base_model or model.name, model.dimensions

    def judged(one: Selected) -> Selected:
        if one.excluded is not None or space(one.model) == space(first):
            return one
        return replace(one, excluded=f"another vector space than {first.alias}: set the same base_model and dimensions")

    return tuple(map(judged, selected))


def _excluded(model: ModelConfig, task: TaskConfig, floor: int) -> str | None:
    if model.quality < floor:
        wanted = f"quality {model.quality}, and {task.name} wants at least {floor}"
        return f"too weak: {wanted}; lower its `min_quality`, or name it outright: model=, --model {model.alias}"
    if task.private and not is_local(model):
        return f"not private: {task.name} may not leave this machine, and {model.model} is not local"
    return None
