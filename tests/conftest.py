"""Fixtures of every test: a clean environment, its own folders, and no network."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from testronaut_llm.testing.cassettes import NetworkGuard

pytest_plugins = ["testronaut_llm.testing.plugin", "pytester", "manager_kit", "ollama_kit", "fixtures_local"]

# Whatever steers this package, LiteLLM or a provider's own client; and proxies, in both spellings.
_STEERING = re.compile(
    r"^(TESTRONAUT|OPENAI|ANTHROPIC|AZURE|OLLAMA|LITELLM|HF|HUGGING_?FACE|XDG|SSL_CERT|REQUESTS_CA|TIKTOKEN|DATA_GYM"
    r"|OTEL|TRACEPARENT|DISABLE_AIOHTTP|NO_COLOR|FORCE_COLOR)(_|$)|_API_KEY$|_TOKEN$|_PROXY$",
    re.IGNORECASE,
)


def pytest_configure() -> None:
    asyncio.set_event_loop(None)  # pytest-asyncio would make one, and the first `asyncio.run` drop it unclosed
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell sets it for a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removes variables that steer us, and keeps fixtures of modules out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if _STEERING.search(name)]:
            patch.delenv(name)
        patch.setenv("TESTRONAUT_LLM_HOME", str(tmp_path_factory.mktemp("shared_home")))
        yield


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yields another path at each `next`."""
    base = tmp_path_factory.mktemp("homes")
    return (base / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_folders(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch, llm_network: NetworkGuard) -> Iterator[None]:
    """Gives a test its own folders and no network, in one fixture, since each costs every test something.

    A test that tries to leave the machine fails, also in a thread. What it configured of structlog is undone. A
    cassette that stayed in the HTTP clients would answer, or slow down, the next test.
    """
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(home / "testronaut"))
    before = _sends()
    yield
    if structlog := sys.modules.get("structlog"):
        structlog.reset_defaults()
    assert before in (None, _sends()), "a cassette was left open"


def _sends() -> object:
    httpx = sys.modules.get("httpx")
    return httpx.AsyncHTTPTransport.handle_async_request if httpx else None


@pytest.fixture(scope="session")
def _shared_server() -> Iterator[HTTPServer]:
    with HTTPServer() as server:
        yield server


@pytest.fixture
def httpserver(_shared_server: HTTPServer) -> Iterator[HTTPServer]:
    """One server for all tests, started again if a test has stopped it."""
    if not _shared_server.is_running():
        _shared_server.start()
    _shared_server.clear()
    yield _shared_server
    _shared_server.clear()
