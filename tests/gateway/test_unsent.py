"""What never left this machine costs nothing; what may have left costs its worst case."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import faults
import pytest
from fault_server import Exchange
from manager_kit import Api, ask, manager, model

from testronaut_llm import LLMConfig, LLMManager, errors

pytestmark = [pytest.mark.usefixtures("provider_keys"), pytest.mark.asyncio]

Make = Callable[..., Api]
MODES = ("complete", "acomplete", "stream", "astream", "embed", "aembed")
PROMPT = Decimal("0.0003425")  # 274 tokens at most, at 1.25 USD a million: they may all be written to a cache
ANSWER = Decimal("0.0002")  # 100 tokens at 2 USD a million


@contextmanager
def _server(reply: Callable[[socket.socket], Any]) -> Iterator[str]:
    """A server that does one thing to each connection; its port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    reply(sock)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"127.0.0.1:{one.getsockname()[1]}"


def _says(words: bytes) -> Callable[[socket.socket], None]:
    def reply(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(words)

    return reply


async def _asked(llm: LLMManager, mode: str, **given: Any) -> Any:
    if mode == "embed":
        return llm.embed("embedding", ["hi"], **given)
    if mode == "aembed":
        return await llm.aembed("embedding", ["hi"], **given)
    return await ask(llm, mode, **given)


async def _failed(llm: LLMManager, mode: str, **given: Any) -> errors.LLMError:
    """The last error of a call that fails, with its one attempt."""
    with pytest.raises(errors.LLMError) as caught:
        await _asked(llm, mode, **given)
    assert len(caught.value.attempts) == 1
    return caught.value


def _llm(wire: str, url: str, **task: Any) -> LLMManager:
    given = {"max_tokens": 100, "retries": 0, **task}
    return manager({"a": model(wire, url)}, {"embedding": {"models": ["a"], "retries": 0, "cache": "off"}}, **given)


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets the proxy of this process."""

    def use(url: str) -> None:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("HTTPS_PROXY", url)
        monkeypatch.setenv("HTTP_PROXY", url)

    return use


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wire", ["openai", "azure", "azure v1", "anthropic"])
async def test_a_refused_connection_costs_nothing(wire: str, mode: str) -> None:
    """Nobody listens, so nothing was sent: the attempt, the books and what is left of a budget say so."""
    if wire == "anthropic" and "embed" in mode:
        pytest.skip("this wire has no embeddings")
    with _llm(wire, f"http://{_free_port()}") as llm:
        error = await _failed(llm, mode, max_cost="0.01")
        assert isinstance(getattr(error, "last", error), errors.ConnectionFailedError)
        assert [one.cost for one in error.attempts] == [Decimal(0)]
        assert llm.session.cost == llm.spend().total.cost == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_proxy_that_refuses_was_not_sent_the_request(mode: str, proxied: Callable[[str], None]) -> None:
    """Neither one that is not there, nor one that wants a password before it opens a tunnel."""
    with _server(_says(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")) as wants_password:
        for proxy in (_free_port(), wants_password):
            proxied(f"http://{proxy}")
            with _llm("openai", "https://api.example.test") as llm:
                error = await _failed(llm, mode)
                assert [one.cost for one in error.attempts] == [Decimal(0)], proxy
                assert llm.session.cost == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_name_that_is_not_found_costs_nothing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection was tried."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with _llm("openai", "http://models.example.test") as llm:
        error = await _failed(llm, mode)
        assert [one.cost for one in error.attempts] == [Decimal(0)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_handshake_costs_nothing(mode: str) -> None:
    """A server that does not speak TLS gets no request."""
    with _server(_says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port, _llm("openai", f"https://{port}") as llm:
        error = await _failed(llm, mode)
        assert [one.cost for one in error.attempts] == [Decimal(0)]


@pytest.mark.parametrize("mode", MODES)
async def test_a_proxy_that_never_opens_the_tunnel_costs_nothing(mode: str, proxied: Callable[[str], None]) -> None:
    """The time ran out before anything was sent."""
    over = threading.Event()
    with _server(lambda _: over.wait()) as proxy, _llm("openai", "https://api.example.test") as llm:
        proxied(f"http://{proxy}")
        error = await _failed(llm, mode, timeout=0.3)
        over.set()
        assert isinstance(getattr(error, "last", error), errors.LLMTimeoutError)
        assert [one.cost for one in error.attempts] == [Decimal(0)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", ["reset", "closed"])
async def test_what_was_sent_and_not_answered_costs_its_worst_case(api: Make, mode: str, broken: str) -> None:
    """Nobody knows what the server did with it."""

    def drop(exchange: Exchange) -> None:
        (exchange.reset if broken == "reset" else exchange.close)()

    with _llm("openai", api("a", drop)) as llm:
        error = await _failed(llm, mode)
        assert len(api("a").asked) == 0
        assert llm.session.cost == error.attempts[0].cost == PROMPT + (ANSWER if "embed" not in mode else 0)


async def test_dead_calls_leave_a_budget_as_it_was(api: Make) -> None:
    """However many there are: the first call that is answered still fits."""
    row = model("openai", f"http://{_free_port()}")
    budget = {"budget": {"total": "0.0006", "scope": "dead"}}
    tasks = {"t": {"models": ["a"], "max_tokens": 100, "retries": 0, "cache": "off"}}
    made = LLMConfig.model_validate({"version": 1, "models": {"a": row}, "tasks": tasks, **budget})
    with LLMManager(config=made) as llm:
        for _ in range(3):
            with pytest.raises(errors.AllModelsFailedError):
                llm.complete("t", "hi")
        assert llm.spend().limits[0].left == Decimal("0.0006")
    made = LLMConfig.model_validate(
        {"version": 1, "models": {"a": model("openai", api("a", faults.good()))}, "tasks": tasks, **budget}
    )
    with LLMManager(config=made) as llm:
        assert llm.complete("t", "hi").text
