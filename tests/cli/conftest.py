"""Runs the command line in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

import pytest
from manager_kit import KEY, Api, apis, prices

from testronaut_llm.cli import main
from testronaut_llm.money.prices import PriceTable

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line; returns its exit code, stdout and stderr."""

    def running(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["testronaut-llm", *arguments])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return running


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout and stderr are terminals of 80 columns."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(type(stream), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Api]]:
    """Makes endpoints of a fault server; there is a key, and every model has a price."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    table = prices()
    monkeypatch.setattr(PriceTable, "load", lambda: table)
    with apis() as made:
        yield made
