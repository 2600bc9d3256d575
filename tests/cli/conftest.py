"""Terminals, and endpoints with a key and prices, for tests of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
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
    table = prices()
    monkeypatch.setattr(PriceTable, "load", lambda: table)
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
