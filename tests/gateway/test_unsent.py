"""A request that was never sent costs nothing; one that may have been sent costs its worst case."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pytest
from fault_server import Exchange, refused
from manager_kit import Make, ask, manager, model

from testronaut_llm import LLMManager, errors

pytestmark = [pytest.mark.usefixtures("provider_keys"), pytest.mark.asyncio]

MODES = ("complete", "astream", "embed")
PROMPT = Decimal("0.0003425")  # 274 tokens at most, at 1.25 USD a million: they may all be written to a cache
ANSWER = Decimal("0.0002")  # 100 tokens at 2 USD a million
BUDGET = Decimal("0.01")
ELSEWHERE = "https://api.example.test"
WANTS_A_PASSWORD = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
NEVER_OPENS = "a proxy that never opens the tunnel"


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


@contextmanager
def _unreachable(how: str, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields the URL of a provider that no request reaches."""
    if how == "a name that is not found":
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        patch.setattr(socket, "getaddrinfo", Mock(side_effect=unknown))
        yield "http://models.example.test"
    elif how == "a server without TLS":
        with _server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
            yield f"https://{port}"
    elif "proxy" in how:
        with _server(None if how == NEVER_OPENS else WANTS_A_PASSWORD) as port:
            patch.setenv("HTTPS_PROXY", f"http://{port}")
            yield ELSEWHERE
    else:
        yield refused()


async def _failed(llm: LLMManager, mode: str, **given: Any) -> errors.LLMError:
    """Returns the error of a call that fails with one attempt."""
    with pytest.raises(errors.LLMError) as caught:
        await (llm.aembed("embedding", ["hi"], **given) if mode == "embed" else ask(llm, mode, **given))
    assert len(caught.value.attempts) == 1
    return caught.value


def _llm(wire: str, url: Any) -> LLMManager:
    embedding = {"embedding": {"models": ["a"], "retries": 0, "cache": "off"}}
    return manager({"a": model(wire, url)}, embedding, max_tokens=100, retries=0, budget={"total": BUDGET})


@pytest.mark.parametrize(
    ("how", "wire", "mode"),
    [
        *(("a refused connection", "openai", mode) for mode in MODES),
        *(("a refused connection", wire, "complete") for wire in ("azure", "azure v1", "anthropic")),
        ("a proxy that wants a password", "openai", "astream"),
        *((NEVER_OPENS, "openai", mode) for mode in MODES),
        ("a name that is not found", "openai", "complete"),
        ("a server without TLS", "openai", "complete"),
    ],
)
async def test_a_request_that_was_not_sent_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, how: str, wire: str, mode: str
) -> None:
    late = how == NEVER_OPENS
    with _unreachable(how, monkeypatch) as url, _llm(wire, url) as llm:
        error = await _failed(llm, mode, **({"timeout": 0.3} if late else {}))
        kind = errors.LLMTimeoutError if late else errors.ConnectionFailedError
        assert isinstance(getattr(error, "last", error), kind)
        assert [one.cost for one in error.attempts] == [Decimal(0)]
        assert llm.session.cost == llm.spend().total.cost == 0
        assert llm.spend().limits[0].left == BUDGET


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", [Exchange.reset, Exchange.close], ids=["reset", "closed"])
async def test_a_request_without_an_answer_costs_its_worst_case(api: Make, mode: str, broken: Any) -> None:
    with _llm("openai", api("a", broken)) as llm:
        error = await _failed(llm, mode)
        assert llm.session.cost == error.attempts[0].cost == PROMPT + (ANSWER if mode != "embed" else 0)
