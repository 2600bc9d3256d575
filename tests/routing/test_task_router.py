"""The models that may do a task."""

from __future__ import annotations

from typing import Any

from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.routing.task_router import select


def config(**task: Any) -> LLMConfig:
    listed = {"models": ["sonnet", "qwen", "toy"], **task}
    return LLMConfig(
        models={
            "sonnet": {"model": "anthropic/claude-sonnet-5-5", "quality": 9},
            "qwen": {"model": "ollama/qwen3:8b", "quality": 5},
            "cloudy": {"model": "ollama/gpt-oss:120b-cloud", "quality": 7},
            "proxy": {"model": "openai/gpt-4o", "api_base": "http://10.0.0.5/v1", "quality": 7},
            "lan": {"model": "openai/mine", "api_base": "http://10.0.0.5/v1", "quality": 7, "local": True},
            "toy": {"model": "embedded/smollm2-135m", "quality": 1},
        },
        tasks={"cli_analysis": listed},
    )


def verdicts(found: LLMConfig, call_model: str | None = None) -> dict[str, str | None]:
    return {
        one.alias: None if one.kept else one.reason for one in select(found, call_model, found.task("cli_analysis"))
    }


def test_too_weak_is_excluded_with_both_numbers() -> None:
    excluded = verdicts(config(min_quality=5))
    toy = excluded.pop("toy") or ""
    assert toy.startswith("too weak: quality 1, and cli_analysis wants at least 5; lower `min_quality` of the task")
    assert excluded == {"sonnet": None, "qwen": None}


def test_a_private_task_stays_on_this_machine() -> None:
    excluded = verdicts(config(private=True, models=["sonnet", "qwen", "cloudy", "proxy", "lan", "toy"]))
    assert [alias for alias, reason in excluded.items() if reason is None] == ["qwen", "lan", "toy"]
    assert excluded["sonnet"] == (
        "not private: cli_analysis may not leave this machine, and anthropic/claude-sonnet-5-5 is not local"
    )


def test_naming_a_model_overrides_min_quality_and_never_private() -> None:
    assert verdicts(config(min_quality=9), "toy") == {"toy": None}
    assert verdicts(config(), "openai/gpt-4o") == {"openai/gpt-4o": None}
    assert "not private" in (verdicts(config(private=True), "sonnet")["sonnet"] or "")
