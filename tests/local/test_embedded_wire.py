"""Calls to `embedded/` in each mode, with a real llama.cpp server of the tiny model that the call starts."""

from __future__ import annotations

import pytest
from fixtures_local import TINY
from manager_kit import MODES, ask, manager
from pydantic import BaseModel


class Verdict(BaseModel):
    passed: bool


@pytest.mark.usefixtures("home")
async def test_each_mode() -> None:
    """Text with counted usage at no cost, the same in pieces, a schema by the grammar, and vectors."""
    texts = ["list files", "remove files"]
    async with manager({"m": {"model": f"embedded/{TINY}"}}, max_tokens=400, retries=0) as llm:
        answers = [await ask(llm, mode, "list files") for mode in MODES]
        shaped = [await ask(llm, mode, "Did it pass?", schema=Verdict) for mode in MODES[:2]]
        vectors = [llm.embed("t", texts).vectors, (await llm.aembed("t", texts)).vectors]
    for answer in answers:
        assert answer.text.strip()
        assert answer.text == answers[0].text
        assert (answer.finish_reason, answer.cost, answer.usage.estimated) == ("stop", 0, False)
        assert min(answer.usage.prompt_tokens, answer.usage.completion_tokens) > 0
    assert [(type(one.parsed), len(one.attempts)) for one in shaped] == [(Verdict, 1)] * 2
    assert len(vectors[0][0]) == len(vectors[1][1]) > 10
    assert vectors[0][0] != vectors[0][1]
