"""`embedded/` through the surface, sync and async: a real llama.cpp server of the tiny model, started by the call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_local import TINY, stored
from pydantic import BaseModel

from testronaut_llm import Answer, LLMManager
from testronaut_llm.config.model_config import LLMConfig
from testronaut_llm.local.model_store import ModelStore

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Verdict(BaseModel):
    passed: bool


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture(scope="module")
def one_manager(home: Path, tiny_gguf: Path) -> Iterator[LLMManager]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTRONAUT_LLM_HOME", str(home))
        store = ModelStore()
        store.folder.parent.mkdir(parents=True, exist_ok=True)
        stored(store, tiny_gguf)
        task = {"models": ["m"], "max_tokens": 400, "temperature": 0, "cache": "off", "retries": 0}
        config = {"version": 1, "models": {"m": {"model": f"embedded/{TINY}"}}, "tasks": {"t": task}}
        with LLMManager(config=LLMConfig.model_validate(config)) as llm:
            yield llm


@pytest.fixture
def llm(one_manager: LLMManager, home: Path, monkeypatch: pytest.MonkeyPatch) -> LLMManager:
    """One manager for all these tests, with its own folders, since starting a server takes a moment."""
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(home))
    return one_manager


async def _ask(llm: LLMManager, asynchronous: bool, prompt: str, **options: Any) -> Answer[Any]:
    answer: Answer[Any] = (
        await llm.acomplete("t", prompt, **options) if asynchronous else llm.complete("t", prompt, **options)
    )
    return answer


@both
async def test_each_mode(llm: LLMManager, asynchronous: bool) -> None:
    """Text with the usage that was counted, at no cost; the same in pieces; a schema, by the grammar; and vectors."""
    answer = await _ask(llm, asynchronous, "list files")
    assert answer.text.strip()
    assert (answer.finish_reason, answer.cost, answer.usage.estimated) == ("stop", 0, False)
    assert min(answer.usage.prompt_tokens, answer.usage.completion_tokens) > 0
    if asynchronous:
        async with llm.astream("t", "list files") as later:
            pieces = [piece async for piece in later]
    else:
        with llm.stream("t", "list files") as stream:
            pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == answer.text
    shaped = await _ask(llm, asynchronous, "Did it pass?", schema=Verdict)
    assert isinstance(shaped.parsed, Verdict)
    assert len(shaped.attempts) == 1
    texts = ["list files", "remove files"]
    first, second = (await llm.aembed("t", texts) if asynchronous else llm.embed("t", texts)).vectors
    assert len(first) == len(second) > 10
    assert first != second
