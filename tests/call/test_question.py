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
from pydantic import BaseModel

from testronaut_llm import InvalidRequestError, LLMManager
from testronaut_llm.cache import key
from testronaut_llm.config.model_config import TaskConfig
from testronaut_llm.options import CACHE_VARIABLE

Make = Callable[..., Api]
MODEL = {"m": {"model": "openai/gpt-6-luna"}, "n": {"model": "openai/gpt-6-sol"}}

pytestmark = pytest.mark.usefixtures("provider_keys")


class Plan(BaseModel):
    """Steps."""

    steps: list[int | str]


OPTIONS = [
    {},
    {"system": "Be brief."},
    {"schema": Plan},
    {"schema": list[int | str]},
    {"schema": list[str | int]},
    {"schema": {"type": "integer"}},
    {"model": "n"},
    {"max_tokens": 7},
    {"temperature": 1},
    {"temperature": 0.5},
    {"stop": "END"},
    {"stop": ["END", "."]},
    {"seed": 1},
    {"sample": 1},
    {"cache": "only"},
    {"max_cost": "0.5"},
    {"timeout": 3},
    {"deadline": 3},
    {"extra": {"top_p": 0.5}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_a_call_is_the_same_as_one_made_alone(options: dict[str, Any]) -> None:
    """What others were asked with leaves no trace in it."""
    with manager(MODEL) as llm:
        for others in OPTIONS:
            looked_up(llm, **others)
        call = looked_up(llm, prompt="x", **options)
        alone = build_call(llm.config.task("t"), "x", **options)
    alone_output, output = alone.output, call.output
    assert (alone_output and alone_output.json_schema) == (output and output.json_schema)
    fields = set(type(call).__slots__) - {"output", "id", "started", "config", "settings", "selected"}
    assert {name: getattr(call, name) for name in fields} == {name: getattr(alone, name) for name in fields}


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"max_tokens": 1}, {"max_tokens": True}),
        ({"sample": 1}, {"sample": 1.0}),
        ({"seed": 0}, {"seed": False}),
        ({"temperature": 1}, {"temperature": True}),
        ({"deadline": 1.0}, {"deadline": True}),
    ],
)
def test_what_is_equal_but_wrong_is_still_refused(good: dict[str, Any], bad: dict[str, Any]) -> None:
    """True equals 1, and was never meant."""
    with manager(MODEL) as llm:
        looked_up(llm, **good)
        with pytest.raises(InvalidRequestError):
            looked_up(llm, **bad)


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


def test_accept_and_metadata_belong_to_one_call() -> None:
    """They do not show in another."""
    with manager(MODEL) as llm:
        first = looked_up(llm, accept=lambda _: True, metadata={"run": "1"})
        second = looked_up(llm)
        assert first.metadata == {"run": "1"}
        assert (second.accept, second.metadata) == (None, {})
        for wrong in ({"accept": 1}, {"metadata": 1}):
            with pytest.raises(InvalidRequestError):
                looked_up(llm, **wrong)


@given(st.text(min_size=1).filter(str.strip), st.text(), st.dictionaries(st.text(), st.integers() | st.text()))
def test_the_key_is_canonical_json(prompt: str, system: str, extra: dict[str, Any]) -> None:
    """Put together from its parts, it is what the whole question would be as canonical JSON."""
    task = TaskConfig(name="t", models=["m"])
    given = {"stop": ["."], "seed": 3, "temperature": 1, "schema": {"type": "object"}}
    try:
        call = build_call(task, prompt, system=system, extra=extra, **given)
    except InvalidRequestError:
        return  # a lone surrogate, or a field of ours
    assert key.parts_of(call)[0] == key.canonical(
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
    assert key.parts_of(call, (prompt,)) == (key.canonical({"embed": prompt, "extra": extra}),)


def test_a_known_question_has_a_known_key() -> None:
    """Keys stay as they are from one version to the next, or what users have stored and committed is lost."""
    with manager({"m": {"model": "openai/gpt-6-luna", "api_base": "https://api.openai.com/v1"}}) as llm:
        given = {"system": "Be brief.", "max_tokens": 100, "temperature": 0.0, "cache": "use"}
        call = looked_up(llm, prompt="Explain ls.", **given)
        model = key.model_part(call.candidates[0].model, call.candidates[0].provider, None)
    assert key.hashed(*key.parts_of(call), model) == "81d6be9f8af0d83f72fb32ce1f145d25a216e41f4a5ef7ed7655664cd012fdb2"
