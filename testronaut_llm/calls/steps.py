"""What a call asks of whoever drives it: send a request, wait, hand out a piece. `calls/performers.py` does these."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testronaut_llm.records import Answer, Embeddings

if TYPE_CHECKING:
    from concurrent.futures import Future

    from testronaut_llm.gateway.exchange import Exchange
    from testronaut_llm.gateway.model_request import EmbedRequest, Request


@dataclass(frozen=True, slots=True)
class Ask:
    """Send one request. `limit` is seconds for all of it; `make` may start a local model or fetch a key."""

    make: Callable[[float], Request | EmbedRequest]
    limit: float
    slow: bool
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class More:
    """Wait for the next piece of the answer, or its end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Hand a piece of text to the caller."""

    text: str


@dataclass(frozen=True, slots=True)
class Work:
    """Do something that takes its time, away from an event loop. What it raises ends the call."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until a future is done, but no longer than so many seconds."""

    future: Future[None]
    seconds: float


Step = Ask | More | Pause | Piece | Work | Await
Result = Answer[Any] | Embeddings
Flow = Generator[Step, Any, Result]
