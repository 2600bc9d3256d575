"""The models that may do a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.routing.task_router import select

MODELS: dict[str, Any] = {
    "sonnet": {"model": "anthropic/claude-sonnet-5-5", "quality": 9},
    "qwen": {"model": "ollama/qwen3:8b"},
    "cloudy": {"model": "ollama/gpt-oss:120b-cloud"},
    "proxy": {"model": "openai/gpt-4o", "api_base": "http://10.0.0.5/v1"},
    "lan": {"model": "openai/mine", "api_base": "http://10.0.0.5/v1", "local": True},
    "toy": {"model": "embedded/smollm2-135m", "quality": 1},
}


def verdicts(call_model: str | None = None, *, models: Sequence[str] = ("sonnet", "qwen", "toy"), **task: Any) -> Any:
    """Returns None for each model that may do the task, and the reason for each other one."""
    config = LLMConfig(models=MODELS, tasks={"cli_analysis": {"models": models, **task}})
    found = select(config, call_model, config.task("cli_analysis"))
    return {one.alias: None if one.kept else one.reason for one in found}


def test_too_weak_is_excluded_with_both_numbers() -> None:
    excluded = verdicts(min_quality=5)
    toy = excluded.pop("toy")
    assert toy.startswith("too weak: quality 1, and cli_analysis wants at least 5; lower `min_quality` of the task")
    assert excluded == {"sonnet": None, "qwen": None}


def test_a_private_task_stays_on_this_machine() -> None:
    excluded = verdicts(models=tuple(MODELS), private=True)
    assert [alias for alias, reason in excluded.items() if reason is None] == ["qwen", "lan", "toy"]
    assert excluded["sonnet"] == (
        "not private: cli_analysis may not leave this machine, and anthropic/claude-sonnet-5-5 is not local"
    )


def test_naming_a_model_overrides_min_quality_and_never_private() -> None:
    assert verdicts("toy", min_quality=9) == {"toy": None}
    assert verdicts("openai/gpt-4o") == {"openai/gpt-4o": None}
    assert "not private" in verdicts("sonnet", private=True)["sonnet"]
