"""A question is made of one call's arguments, the file and the environment as they are now, and of no other call's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_kit import Api, build_call, looked_up, manager, model

from testronaut_llm import InvalidRequestError, LLMManager
from testronaut_llm.cache import key
from testronaut_llm.config.model_config import TaskConfig
from testronaut_llm.options import CACHE_VARIABLE

Make = Callable[..., Api]

pytestmark = pytest.mark.usefixtures("provider_keys")


def test_an_edit_and_the_environment_show_at_the_next_call(
    api: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's other words, and the mode that the environment names."""
    file = tmp_path / "llm.yaml"
    row = json.dumps(model("openai", api("a", faults.good())))
    file.write_text(f"models: {{m: {row}}}\ntasks: {{t: {{models: m, max_tokens: 5}}}}\n")
    with LLMManager(file) as llm:
        assert looked_up(llm).max_tokens == 5
        file.write_text(f"models: {{m: {row}}}\ntasks: {{t: {{models: m, max_tokens: 50}}}}\n")
        assert looked_up(llm).max_tokens == 50
        monkeypatch.setenv(CACHE_VARIABLE, "off")
        assert looked_up(llm).cache == "off"
        monkeypatch.setenv(CACHE_VARIABLE, "sometimes")
        with pytest.raises(InvalidRequestError, match=CACHE_VARIABLE):
            looked_up(llm)


def test_a_private_task_asks_each_time_where_its_models_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may move an Ollama from this machine to another."""
    with manager({"m": {"model": "ollama/qwen3:8b"}}, private=True) as llm:
        assert len(looked_up(llm).candidates) == 1
        monkeypatch.setenv("OLLAMA_API_BASE", "http://203.0.113.9:11434")
        assert looked_up(llm).candidates == ()


@given(st.text(min_size=1).filter(str.strip), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_the_key_is_canonical_json(prompt: str, system: str, extra: dict[str, Any]) -> None:
    """Put together from its parts, it is what the whole question would be as canonical JSON."""
    task = TaskConfig(name="t", models=["m"])
    given = {"stop": ["."], "seed": 3, "temperature": 1, "schema": {"type": "object"}}
    try:
        call = build_call(task, prompt, system=system, extra=extra, **given)
    except InvalidRequestError:
        return  # a lone surrogate, or a field of ours
    said = key.chat_part(call)
    assert said == key.canonical(
        {
            "messages": [[message.role, message.content] for message in call.messages],
            "schema": key.canonical(["answer", {"type": "object"}]),
            "max_tokens": call.max_tokens,
            "temperature": 1.0,
            "stop": ["."],
            "seed": 3,
            "sample": 0,
            "extra": extra,
        }
    )
    assert key.text_part(call, prompt) == key.canonical({"embed": prompt, "extra": extra})


def test_a_known_question_has_a_known_key() -> None:
    """Keys stay as they are from one version to the next, or what users have stored and committed is lost."""
    with manager({"m": {"model": "openai/gpt-6-luna", "api_base": "https://api.openai.com/v1"}}) as llm:
        given = {"system": "Be brief.", "max_tokens": 100, "temperature": 0.0, "cache": "use"}
        call = looked_up(llm, prompt="Explain ls.", **given)
        model = key.model_part(call.candidates[0].row, call.candidates[0].provider_row, None)
    assert key.hashed(key.chat_part(call), model) == "81d6be9f8af0d83f72fb32ce1f145d25a216e41f4a5ef7ed7655664cd012fdb2"
