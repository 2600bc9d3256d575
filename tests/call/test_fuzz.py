"""Any input from a provider, a model file or a command line ends in an answer or in an error of ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
from fault_server import Exchange
from gateway_kit import CLIENTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manager_kit import Make, Run, manager, model

from testronaut_llm import Answer, LLMError
from testronaut_llm.cli.options import prompt_of
from testronaut_llm.errors import LocalModelError
from testronaut_llm.local.machine import GgufHeader, read_header

pytestmark = pytest.mark.usefixtures("provider_keys")

some = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
names = st.sampled_from((
    "choices", "message", "content", "delta", "usage", "error", "type", "text", "finish_reason",
    "prompt_tokens", "done", "index", "id", "model", "role",
))  # fmt: skip
bodies = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5), max_leaves=12
)
raw = st.binary(max_size=60) | bodies.map(lambda value: json.dumps(value).encode())


@pytest.mark.parametrize("wire", CLIENTS)
@given(status=st.sampled_from((200, 200, 200, 201, 400, 418, 429, 500)), body=raw)
@some
def test_any_body_is_an_answer_or_an_error(api: Make, wire: str, status: int, body: bytes) -> None:
    a = api("a", faults.raw(status, body))
    with manager({"m": model(wire, a)}, retries=0, timeout=20) as llm:
        _ended(llm.complete, "t", "hi")


@pytest.mark.parametrize("wire", CLIENTS)
@given(lines=st.lists(raw, max_size=5))
@some
def test_any_stream_is_an_answer_or_an_error(api: Make, wire: str, lines: list[bytes]) -> None:
    kind = "application/x-ndjson" if wire == "ollama" else "text/event-stream"

    def reply(exchange: Exchange) -> None:
        exchange.head(200, {"content-type": kind, "transfer-encoding": "chunked"})
        for line in lines:
            exchange.chunk((b"" if wire == "ollama" else b"data: ") + line + b"\n\n")
        exchange.chunk(b"")

    with manager({"m": model(wire, api("a", reply))}, retries=0, timeout=20) as llm:
        _ended(lambda: list(llm.stream("t", "hi")))


def _ended(call: Callable[..., Any], *arguments: str) -> None:
    result: Any = ""
    with contextlib.suppress(LLMError):
        result = call(*arguments)
    assert isinstance(result, Answer | list | str)


@pytest.mark.parametrize("wire", CLIENTS)
def test_odd_prompts_are_sent_or_refused(api: Make, wire: str) -> None:
    a = api("a", faults.good("fine"))
    with manager({"m": model(wire, a, context_window=50_000_000)}, cache="use", retries=0, timeout=60) as llm:
        for prompt in ("\ud83d", "a\x00b", "word " * 200_000, "\u202e\u2066abc", "\U0001f469\u200d\U0001f466" * 50):
            a.asked.clear()
            for _ in range(2):
                _ended(llm.complete, "t", prompt)
            assert len(a.asked) <= 1


@given(data=st.data())
@many
def test_a_damaged_model_header_is_read_or_refused(tmp_path: Path, tiny_gguf: Path, data: Any) -> None:
    whole = bytearray(tiny_gguf.read_bytes()[:20_000])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, 600))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzzed.gguf"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(LocalModelError):
        assert isinstance(read_header(path), GgufHeader)


@given(text=st.text(max_size=200) | bodies.map(json.dumps) | st.just("[" * 100_000))
@many
def test_any_line_of_a_batch_is_a_prompt_or_refused(text: str) -> None:
    try:
        prompt_of("in.jsonl:7", text)
    except LLMError as refused:
        assert "in.jsonl:7" in str(refused)  # noqa: PT017


WORDS = (
    "run", "route", "check", "config", "show", "set", "spend", "prune", "cache", "stats", "clear", "export",
    "prices", "models", "list", "remove", "trust", "compare", "t", "default", "--json", "--model", "-m",
    "--config", "-c", "--yes", "--older-than", "--since", "--csv", "--html", "--schema", "--stream", "--cache",
    "--max-tokens", "--", "-",
)  # fmt: skip
arguments = st.lists(st.sampled_from(WORDS) | st.text(max_size=6).filter(lambda one: "\x00" not in one), max_size=6)


@given(given_arguments=arguments)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_command_line_ends_with_a_code_and_no_traceback(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given_arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*given_arguments, stdin="hi")
    assert code in (0, 1, 2, 3), (given_arguments, err)
