"""Terminals, and endpoints with a key and prices, for tests of the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from manager_kit import KEY, Api, apis, prices

from testronaut_llm.money.prices import PriceTable


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Makes stdout and stderr terminals of 80 columns."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(type(stream), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    """Makes endpoints of a fault server; a key is set, and every model has a price."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    table = prices()
    monkeypatch.setattr(PriceTable, "load", lambda: table)
    with apis() as made:
        yield made
