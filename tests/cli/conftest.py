"""Terminals, folders with an `llm.yaml`, and endpoints with a key and prices, for tests of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from fault_server import Endpoint, FaultServer
from manager_kit import KEY, Api, Make, apis, model, prices

from testronaut_llm.money.prices import PriceTable


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Makes stdout and stderr terminals of 80 columns."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(type(stream), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes endpoints of a fault server; a key is set, and every model has a price."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(PriceTable, "load", prices)
    with apis() as made:
        yield made


@pytest.fixture
def project(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Enters a folder with an llm.yaml: model `a` is a new endpoint with these replies, task `t` asks it once.

    Other arguments are fields of `t`, further models and tasks, and sections of the file.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))

    def enter(*replies: Any, task: Any = (), models: Any = (), tasks: Any = (), **sections: Any) -> Api:
        server = make("a", *replies)
        rows = {"a": model("openai", server), **dict(models)}
        named = {"t": {"models": ["a"], "retries": 0, **dict(task)}, **dict(tasks)}
        Path("llm.yaml").write_text(yaml.safe_dump({"models": rows, "tasks": named, **sections}))
        return server

    return enter


@pytest.fixture
def endpoint(server: FaultServer) -> Endpoint:
    return server.plan("a", faults.good("An answer."))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> Path:
    """Enters a folder with an llm.yaml, which can be changed by `edit`: `good` is ready, `keyless` has no key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", KEY)
    (tmp_path / "llm.yaml").write_text(
        f"""version: 1
models:
  good: {{model: openai/gpt-4o-mini, api_base: {endpoint.url}/v1, api_key_env: MY_KEY, price: {{input: 1, output: 2}}}}
  keyless: {{model: anthropic/claude-haiku-4-5}}
tasks:
  cli_analysis: {{models: [good, keyless], retries: 0}}
  default: {{models: [keyless], optional: true}}
"""
    )
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    return tmp_path


@pytest.fixture
def edit(folder: Path) -> Callable[[str, str], None]:
    def edit(old: str, new: str) -> None:
        text = (folder / "llm.yaml").read_text()
        assert old in text
        (folder / "llm.yaml").write_text(text.replace(old, new, 1))

    return edit
