"""Every wire in every mode, sync and async: recorded from real servers, replayed without them.

`record.py` records them again. `wires.py` says why a wire has no recording of a mode.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from manager_kit import ask, config, manager
from pydantic import BaseModel
from wires import KINDS, SERVED, Servers, Wire, cases

from testronaut_llm import Answer, LLMError, LLMManager, errors
from testronaut_llm.testing.cassettes import Cassette

PROMPT = "What does `ls -la` do? Answer in one sentence."
JUDGE = (
    "Expected: exit code 0 and the text 'hello'. Actual: exit code 1, output 'command not found'. "
    "Did the test pass or fail? Answer in JSON."
)
TEXTS = ["list files", "remove files"]
SAME = ("Say hello.", PROMPT, "What is a test plan? Answer in one sentence.")
SINGLE = ("complete", "acomplete")
LONG = "The quick brown fox jumps over the lazy dog. " * 1200


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test `test_<mode>` runs on each wire that has this mode, sync and async."""
    if "llm" in metafunc.fixturenames:
        metafunc.parametrize("wire", cases(metafunc.definition.originalname.removeprefix("test_")))
        metafunc.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Verdict(BaseModel):
    verdict: str
    reason: str


@pytest.fixture(scope="session")
def wire_servers(pytestconfig: pytest.Config) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack, recording=pytestconfig.getoption("--llm-record") != "none")


@pytest.fixture
async def llm(
    request: pytest.FixtureRequest,
    wire: Wire,
    asynchronous: bool,
    wire_servers: Servers,
    llm_cassette: Cassette,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Yields a manager of the wire. Replays of sync recordings serve async, too, so only the sync half records."""
    if wire_servers.recording and asynchronous:
        pytest.skip("recorded by the sync test")
    mode = request.node.originalname.removeprefix("test_")
    base, key = wire_servers.reach(wire, embeddings=mode == "embeddings")
    llm_cassette.note("recorded_from", wire_servers.described(wire)) if wire_servers.recording else None
    name = llm_cassette.note("model", wire_servers.model(wire, embeddings=mode == "embeddings"))
    version = llm_cassette.note("api_version", wire.api_version or wire_servers.settings.api_version) or None
    monkeypatch.setenv("WIRE_KEY", "wrong-key" if mode == "wrong_key" else key)
    model = {"model": f"{wire.provider}/{'no-such-model' if mode == 'missing_model' else name}", "api_base": base}
    model |= {"api_version": version, "api_key_env": "WIRE_KEY"}
    cap = 120 if wire.embedded else 1000  # a model that thinks first needs more
    settings = config({"m": model}, max_tokens=cap, retries=0, seed=7)
    llm_cassette.leave_out_listings()
    async with LLMManager(config=settings, offline=wire.name == "ollama" and not wire_servers.recording) as made:
        yield made


def _check_usage(answer: Answer[Any]) -> None:
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.completion_tokens > 3
    assert not answer.usage.estimated
    assert len(answer.attempts) == 1


async def test_text(llm: LLMManager, asynchronous: bool) -> None:
    answer = await ask(llm, SINGLE[asynchronous], PROMPT)
    assert len(answer.text.split()) > 4
    assert answer.finish_reason == "stop"
    _check_usage(answer)


async def test_stream(llm: LLMManager, asynchronous: bool) -> None:
    if asynchronous:
        async with llm.astream("t", PROMPT) as stream:
            pieces = [piece async for piece in stream]
    else:
        with llm.stream("t", PROMPT) as stream:
            pieces = list(stream)
    answer = stream.answer
    assert len(pieces) > 3
    assert "".join(pieces) == answer.text
    assert answer.finish_reason == "stop"
    _check_usage(answer)


async def test_schema(llm: LLMManager, asynchronous: bool) -> None:
    answer = await ask(llm, SINGLE[asynchronous], JUDGE, schema=Verdict)
    assert isinstance(answer.parsed, Verdict)
    assert answer.parsed == Verdict.model_validate_json(answer.text)
    _check_usage(answer)


async def test_embeddings(llm: LLMManager, asynchronous: bool) -> None:
    result = await llm.aembed("t", TEXTS) if asynchronous else llm.embed("t", TEXTS)
    first, second = result.vectors
    assert len(first) == len(second) > 10
    assert first != second
    assert result.usage.prompt_tokens > 0


async def test_truncated(llm: LLMManager, asynchronous: bool, wire: Wire) -> None:
    with pytest.raises(errors.OutputTruncatedError) as cut:
        await ask(llm, SINGLE[asynchronous], PROMPT, max_tokens=4)
    assert cut.value.text or not wire.embedded  # others may have spent it on thinking
    assert len(cut.value.attempts) == 2


async def _failure(llm: LLMManager, asynchronous: bool, prompt: str) -> LLMError | None:
    with pytest.raises(errors.AllModelsFailedError) as failed:
        await ask(llm, SINGLE[asynchronous], prompt)
    assert len(failed.value.attempts) == 1
    return failed.value.last


async def test_too_long(llm: LLMManager, asynchronous: bool) -> None:
    assert isinstance(await _failure(llm, asynchronous, LONG), errors.ContextWindowError)


async def test_wrong_key(llm: LLMManager, asynchronous: bool) -> None:
    error = await _failure(llm, asynchronous, PROMPT)
    assert isinstance(error, errors.AuthenticationError)
    assert (error.status, "wrong-key" in str(error)) == (401, False)


async def test_missing_model(llm: LLMManager, asynchronous: bool) -> None:
    assert isinstance(await _failure(llm, asynchronous, PROMPT), errors.ModelNotFoundError)


def test_every_mode_has_a_recording_or_a_reason() -> None:
    proved = {mode: {case.values[0].name for case in cases(mode)} for mode in KINDS}
    for wire in SERVED:
        if wire.embedded:
            assert {mode for mode in KINDS if wire.name not in proved[mode]} == set(wire.gaps) != set(KINDS)


@pytest.mark.llm_cassette("wires/same-weights")
def test_same_weights_same_text(wire_servers: Servers, llm_cassette: Cassette, monkeypatch: pytest.MonkeyPatch) -> None:
    """One server's weights give the same text and counts behind each of its wires."""
    models: dict[str, Any] = {}
    for number, wire in enumerate(one for one in SERVED if one.embedded):
        base, key = wire_servers.reach(wire)
        monkeypatch.setenv(f"WIRE_KEY_{number}", key)
        models[wire.name] = {"model": f"{wire.provider}/smollm2-135m", "api_base": base}
        models[wire.name] |= {"api_version": wire.api_version, "api_key_env": f"WIRE_KEY_{number}"}
    if wire_servers.recording:
        llm_cassette.note("recorded_from", f"{wire_servers.described(SERVED[0])}; the same server over its other wires")
    with manager(models, max_tokens=120) as llm:
        for prompt in SAME:
            answers = [llm.complete("t", prompt, model=name) for name in models]
            assert len({(one.text, one.usage.prompt_tokens, one.usage.completion_tokens) for one in answers}) == 1
            assert answers[0].text
    assert len(llm_cassette) == len(SAME) * 4
    assert len({json.dumps(response["body"], default=str) for response in llm_cassette.responses}) == len(llm_cassette)
