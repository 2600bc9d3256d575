"""Options of local models in `extra` have the same names for Ollama and embedded models."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
from fixtures_local import TINY
from manager_kit import ask, manager
from ollama_kit import Ollama

from testronaut_llm import ConfigError, InvalidRequestError
from testronaut_llm.config.extra_fields import HARDWARE, SAMPLING
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.local.local_provider import EmbeddedRunner
from testronaut_llm.local.model_store import ModelStore

VALUES: dict[str, Any] = {
    **{word: 3 if kind is int else 0.5 for word, (kind, _) in SAMPLING.items()},
    **{word: True if kind is bool else 2 for word, kind in HARDWARE.items()},
}


def a_file(provider: str, extra: Any) -> LLMConfig:
    return LLMConfig(models={"m": {"model": f"{provider}/x", "extra": extra}}, tasks={"default": {"models": "m"}})  # type: ignore[dict-item]


@pytest.mark.parametrize("extra", [VALUES, {"options": VALUES}], ids=["flat", "nested"])
async def test_options_of_an_ollama_model_are_merged_below_ours(ollama: Ollama, extra: dict[str, Any]) -> None:
    async with manager({"row": ollama.row(extra=extra), "plain": ollama.row()}, seed=7, stop=["END"]) as llm:
        await ask(llm, "complete", model="row", max_tokens=4)
        await ask(llm, "astream", model="plain", max_tokens=4, extra=extra)
    assert len(ollama.bodies()) == 2
    ours = {"num_predict": 4, "num_ctx": 6144, "temperature": 0, "seed": 7, "stop": ["END"]}
    for body in ollama.bodies():
        assert body["options"] == VALUES | ours
        assert set(body) == {"model", "messages", "options", "stream", "truncate", "shift"}


def test_an_option_of_a_call_replaces_that_of_the_row(ollama: Ollama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUR", "4")
    extra = {"top_k": 1, "num_thread": "${FOUR}", "options": {"min_p": 0.1}}
    with manager({"m": ollama.row(extra=extra)}) as llm:
        llm.complete("t", "Say hello.", extra={"top_k": 2})
        with pytest.raises(InvalidRequestError, match="did you mean `top_k`"):
            llm.complete("t", "Say hello.", extra={"top_kk": 1})
    (body,) = ollama.bodies()
    assert body["options"].items() >= {"top_k": 2, "min_p": 0.1, "num_thread": 4}.items()


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"top_kk": 1}, "extra.top_kk", "did you mean `top_k`?"),
    ({"options": {"repeat_penlty": 1.1}}, "extra.options.repeat_penlty", "did you mean `repeat_penalty`?"),
    ({"options": {"temperature": 1}}, "extra.options.temperature", "the task's `temperature`"),
    ({"num_predict": 5}, "extra.num_predict", "the task's `max_tokens`"),
    ({"options": [1]}, "extra.options", "expected a mapping"),
    ({"use_mmap": 1}, "extra.use_mmap", "expected true or false"),
    ({"num_gpu": True}, "extra.num_gpu", "expected a whole number"),
    ({"num_thread": "${WORD}"}, "extra.num_thread", "expected a whole number"),
    ({"top_p": "x"}, "extra.top_p", "expected a number"),
]


@pytest.mark.parametrize("provider", ["ollama", "ollama_chat", "embedded"])
def test_an_option_that_is_none_is_refused_with_the_closest(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUR", "4")
    monkeypatch.setenv("WORD", "four")
    for extra, where, why in REFUSED:
        with pytest.raises(ConfigError) as caught:
            a_file(provider, extra)
        (line,) = [line for line in str(caught.value).splitlines() if "extra" in line]
        assert (where in line, why in line) == (True, True), line
    for good in (VALUES, {"options": VALUES}, {"num_thread": "${NOT_SET_ANYWHERE}"}, {"num_thread": "${FOUR}"}):
        a_file(provider, good)
    a_file("openai", {"top_kk": 1, "options": {"anything": True}})


def test_an_embedded_model_samples_as_configured(home: ModelStore) -> None:
    words = {"repeat_penalty": 1.0, "min_p": 0.0, "typical_p": 1.0, "num_keep": 0}
    extras = {"one": words | {"options": {"top_k": 1}}, "many": words | {"top_k": 50}}
    rows = {name: {"model": f"embedded/{TINY}", "num_ctx": 512, "extra": extra} for name, extra in extras.items()}
    with manager(rows, temperature=1.0, max_tokens=12, allow_truncated=True) as llm:
        said = {name: {llm.complete("t", "Hi.", model=name, seed=seed).text for seed in (1, 2, 3)} for name in rows}
        with pytest.raises(InvalidRequestError, match="`extra` of its row"):
            llm.complete("t", "Hi.", extra={"num_thread": 2})
    assert len(said["one"]) == 1
    assert len(said["many"]) > 1


def test_the_server_of_an_embedded_model_has_the_hardware_options_of_its_row(home: ModelStore) -> None:
    extra = {"num_thread": 1, "num_batch": 64, "use_mmap": False, "num_gpu": 0, "main_gpu": 0, "draft_num_predict": 4}
    rows = [ModelConfig(alias="m", model=f"embedded/{TINY}", num_ctx=512, extra=one) for one in (extra, {})]
    with closing(EmbeddedRunner()) as runner:
        first, second = (runner.endpoint(row) for row in rows)
        assert first != second
        assert runner.endpoint(rows[0]) == first
        settings = [server.settings for server in runner.pool.servers.values()]
        (told,) = [one for one in settings if (one["threads"], one["batch"]) == (1, 64)]
        assert told["hardware"] == extra
