"""A request that was never sent costs nothing; one that may have been sent costs its worst case."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import faults
import pytest
from fault_server import Exchange, refused
from manager_kit import Make, ask, manager, model

from testronaut_llm import LLMManager, errors

pytestmark = [pytest.mark.usefixtures("provider_keys"), pytest.mark.asyncio]

MODES = ("complete", "astream", "embed")
PROMPT = Decimal("0.0003425")  # 274 tokens at most, at 1.25 USD a million: they may all be written to a cache
ANSWER = Decimal("0.0002")  # 100 tokens at 2 USD a million
ELSEWHERE = "https://api.example.test"
WANTS_A_PASSWORD = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"


@contextmanager
def _server(words: bytes | None) -> Iterator[str]:
    """Yields the address of a server that sends the same text to each connection, or nothing."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                if words is None:
                    over.wait()
                else:
                    sock.recv(65536)
                    sock.sendall(words)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _unknown(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@contextmanager
def _unreachable(how: str, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields the URL of a provider that no request reaches."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)
    proxies = {"a proxy that wants a password": WANTS_A_PASSWORD, "a proxy that never opens the tunnel": None}
    if how in proxies:
        with _server(proxies[how]) as port:
            patch.setenv("HTTPS_PROXY", f"http://{port}")
            yield ELSEWHERE
    elif how == "a proxy that is not there":
        patch.setenv("HTTPS_PROXY", refused())
        yield ELSEWHERE
    elif how == "a server without TLS":
        with _server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            yield f"https://{port}"
    elif how == "a name that is not found":
        patch.setattr(socket, "getaddrinfo", _unknown)
        yield "http://models.example.test"
    else:
        yield refused()


async def _asked(llm: LLMManager, mode: str, **given: Any) -> Any:
    if mode == "embed":
        return llm.embed("embedding", ["hi"], **given)
    return await ask(llm, mode, **given)


async def _failed(llm: LLMManager, mode: str, **given: Any) -> errors.LLMError:
    """Returns the error of a call that fails with one attempt."""
    with pytest.raises(errors.LLMError) as caught:
        await _asked(llm, mode, **given)
    assert len(caught.value.attempts) == 1
    return caught.value


def _llm(wire: str, url: str) -> LLMManager:
    embedding = {"embedding": {"models": ["a"], "retries": 0, "cache": "off"}}
    return manager({"a": model(wire, url)}, embedding, max_tokens=100, retries=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("how", "wire"),
    [
        *(("a refused connection", wire) for wire in ("openai", "azure", "azure v1", "anthropic")),
        ("a proxy that is not there", "openai"),
        ("a proxy that wants a password", "openai"),
        ("a proxy that never opens the tunnel", "openai"),
        ("a name that is not found", "openai"),
        ("a server without TLS", "openai"),
    ],
)
async def test_a_request_that_was_not_sent_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, how: str, wire: str, mode: str
) -> None:
    """The attempt, the ledger and the session report no cost."""
    if wire == "anthropic" and "embed" in mode:
        pytest.skip("this wire has no embeddings")
    late = how == "a proxy that never opens the tunnel"
    with _unreachable(how, monkeypatch) as url, _llm(wire, url) as llm:
        error = await _failed(llm, mode, max_cost="0.01", **({"timeout": 0.3} if late else {}))
        kind = errors.LLMTimeoutError if late else errors.ConnectionFailedError
        assert isinstance(getattr(error, "last", error), kind)
        assert [one.cost for one in error.attempts] == [Decimal(0)]
        assert llm.session.cost == llm.spend().total.cost == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", ["reset", "closed"])
async def test_a_request_without_an_answer_costs_its_worst_case(api: Make, mode: str, broken: str) -> None:
    """The cost of a broken connection is unknown."""

    def drop(exchange: Exchange) -> None:
        (exchange.reset if broken == "reset" else exchange.close)()

    with _llm("openai", api("a", drop)) as llm:
        error = await _failed(llm, mode)
        assert llm.session.cost == error.attempts[0].cost == PROMPT + (ANSWER if "embed" not in mode else 0)


async def test_calls_that_were_not_sent_leave_a_budget_whole(api: Make) -> None:
    """Refused connections use no budget: after any number of them, the next call fits."""

    def made(url: Any) -> LLMManager:
        return manager({"a": model("openai", url)}, max_tokens=100, retries=0, budget={"total": "0.0006"})

    with made(refused()) as llm:
        for _ in range(3):
            with pytest.raises(errors.AllModelsFailedError):
                llm.complete("t", "hi")
        assert llm.spend().limits[0].left == Decimal("0.0006")
    with made(api("a", faults.good())) as llm:
        assert llm.complete("t", "hi").text
