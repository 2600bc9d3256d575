"""The child's own code, run here with its exits caught; as a process it is tested in test_local_provider.py."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixtures_local import chat, post

from testronaut_llm.local import embedded_child
from testronaut_llm.local.local_provider import Endpoint


@pytest.fixture(autouse=True)
def _exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of the process are SystemExit here, and the process stays as it is."""

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def settings(file: Path, **changes: object) -> dict[str, object]:
    usual = {"token": "t0ken", "context": 1024, "batch": 256, "threads": 1, "slots": 1, "embeddings": False}
    return {"model": str(file), "pooling": None, "hardware": {}, "parent": os.getppid(), **usual, **changes}


def run(monkeypatch: pytest.MonkeyPatch, told: dict[str, object]) -> object:
    def refuse(*_: object) -> None:
        raise PermissionError  # a sandbox may forbid the wish to be ended first when memory runs out

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(json.dumps(told).encode() + b"\n")))
    monkeypatch.setattr(embedded_child, "_end_with", lambda parent: None)
    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(SystemExit) as caught:
        embedded_child.main()
    return caught.value.code


def test_it_serves_until_stdin_ends(
    monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of settings in, one line with the address out, and the end when the parent hangs up."""
    assert run(monkeypatch, settings(tiny_gguf)) == 0
    assert capsys.readouterr().out.startswith(f"\n{embedded_child.READY}http://127.0.0.1:")


@pytest.mark.parametrize("pooling", [None, 3])
def test_the_settings_reach_the_server(tiny_gguf: Path, pooling: int | None) -> None:
    """The token; and a chat model, which names no pooling, gives one vector a text all the same."""
    server = embedded_child._serve(settings(tiny_gguf, embeddings=True, pooling=pooling))
    endpoint = Endpoint(api_base=f"{server.listening_address}/v1", token="t0ken")
    (row,) = post(endpoint, "/embeddings", {"input": ["a b c"]})["data"]
    assert len(row["embedding"]) == 64
    hardware = {"num_gpu": 0, "use_mmap": pooling is None, "draft_num_predict": 1}
    server = embedded_child._serve(settings(tiny_gguf, hardware=hardware))
    answer = chat(Endpoint(api_base=f"{server.listening_address}/v1", token="t0ken"), "Say hello.")
    assert answer["choices"][0]["finish_reason"] == "stop"
