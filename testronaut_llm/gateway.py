"""The only door to LiteLLM: one attempt, sent, streamed or embedded, comes back as a Reply.

LiteLLM is loaded by the first request that no cache could answer. Exactly these settings of its are
changed, for the whole process: the environment variables in `_SWITCHES`, `suppress_debug_info`,
`disable_aiohttp_transport`, `disable_hf_tokenizer_download`, the handlers of its loggers (with a filter
there and on those of the libraries below, see `transport/log_guard.py`), and its module-level clients: during our
calls they are ours (its Ollama embeddings take no other), and they never ask an Ollama server about a
model, as LiteLLM does before and after a chat.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from testronaut_llm.providers.network import imported
from testronaut_llm.transport.attempt_threads import AttemptThreads
from testronaut_llm.transport.exchange import Exchange
from testronaut_llm.transport.http_clients import AsyncClients, SyncClients
from testronaut_llm.transport.log_guard import guard
from testronaut_llm.transport.model_request import (
    EmbedRequest,
    Reply,
    Request,
    Target,
    chat_arguments,
    embed_arguments,
)
from testronaut_llm.transport.reply_reader import ReplyReader
from testronaut_llm.transport.sdk_clients import lend_module_clients
from testronaut_llm.transport.silent_log import silent, silent_log

_SWITCHES = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "DISABLE_AIOHTTP_TRANSPORT": "True",
}


@cache
def load_litellm() -> Any:
    """Imports LiteLLM, quiet and offline. Takes seconds the first time."""
    import logging

    os.environ.update(_SWITCHES)
    litellm = imported("litellm")
    litellm.suppress_debug_info = True
    litellm.disable_aiohttp_transport = True
    litellm.disable_hf_tokenizer_download = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.CRITICAL)
    lend_module_clients(litellm)
    return litellm


@contextmanager
def _unlogged() -> Iterator[None]:
    """Spares a call the thread in which LiteLLM would tell its record of it, which is a silent one."""
    try:
        from litellm._internal_context import is_internal_call
    except ImportError:  # another version of LiteLLM keeps it elsewhere
        yield
        return
    before = is_internal_call.set(True)
    try:
        yield
    finally:
        is_internal_call.reset(before)


class _DeafLoop(asyncio.AbstractEventLoop):
    """The event loop of a thread that has none: LiteLLM would make, run and close one, to tell nobody of each call."""

    def is_closed(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def create_task(self, coro: Any, **_: Any) -> Any:
        coro.close()


class Gateway:
    """Sends attempts. Holds the connections of one manager.

    Args:
        redact: takes secrets out of a text.
    """

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        guard(redact)
        self._sync = SyncClients()
        self._async = AsyncClients()
        self._threads = AttemptThreads(lambda: asyncio.set_event_loop(_DeafLoop()))  # type: ignore[abstract]

    def load(self) -> None:
        """Loads LiteLLM, so that no attempt's time goes into it."""
        load_litellm()

    def run_apart(self, attempt: Callable[[], None]) -> None:
        """Runs an attempt, which must not raise, in a thread that does nothing but attempts."""
        self._threads.run(attempt)

    def send(self, request: Request, exchange: Exchange) -> Iterator[str | Reply]:
        """One chat attempt: pieces of text if it is a stream, then the Reply. Raises nothing of LiteLLM's.

        Closing the iterator early closes the connection.

        Args:
            request: what to ask.
            exchange: a new one, for this attempt alone; `abandon()` on it ends the attempt.
        """
        litellm, reader = self._prepare(request, exchange)
        with self._sync.lend(litellm, request.target, exchange) as client:
            try:
                with _unlogged():
                    response = litellm.completion(**_arguments(litellm, request, "completion"), client=client)
                if request.stream:
                    yield from filter(None, map(reader.take, silent(response)))
                else:
                    reader.whole(response)
            except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises becomes one of ours
                reader.failed(error)
            finally:
                exchange.close()
        yield reader.reply()

    async def asend(self, request: Request, exchange: Exchange) -> AsyncIterator[str | Reply]:
        """The same on the caller's event loop."""
        litellm, reader = self._prepare(request, exchange)
        async with self._async.lend(litellm, request.target, exchange) as client:
            try:
                with _unlogged():
                    response = await litellm.acompletion(**_arguments(litellm, request, "acompletion"), client=client)
                if request.stream:
                    async for chunk in response:
                        if piece := reader.take(chunk):
                            yield piece
                else:
                    reader.whole(response)
            except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises becomes one of ours
                reader.failed(error)
            finally:
                await exchange.aclose()
        yield reader.reply()

    def embed(self, request: EmbedRequest, exchange: Exchange) -> Iterator[str | Reply]:
        """One request for vectors, in the form of `send`."""
        litellm, reader = self._prepare(request, exchange)
        with self._sync.lend(litellm, request.target, exchange, embedding=True) as client:
            try:
                reader.vectors(litellm.embedding(**_arguments(litellm, request, "embedding"), client=client))
            except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises becomes one of ours
                reader.failed(error)
        yield reader.reply()

    async def aembed(self, request: EmbedRequest, exchange: Exchange) -> AsyncIterator[str | Reply]:
        """The same on the caller's event loop."""
        litellm, reader = self._prepare(request, exchange)
        async with self._async.lend(litellm, request.target, exchange, embedding=True) as client:
            try:
                reader.vectors(await litellm.aembedding(**_arguments(litellm, request, "aembedding"), client=client))
            except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises becomes one of ours
                reader.failed(error)
        yield reader.reply()

    def dropped_params(self, target: Target, params: dict[str, Any]) -> tuple[str, ...]:
        """Which of these settings the model does not take. Loads LiteLLM; sends nothing."""
        litellm = load_litellm()
        try:
            taken = litellm.utils.get_optional_params(
                model=target.model.base_model or target.model.name,
                custom_llm_provider=target.provider.litellm_prefix,
                drop_params=True,
                **params,
            )
        except Exception:  # noqa: BLE001 - a model that LiteLLM does not know takes what it is given
            return ()
        known_as = {"stop": {"stop", "stop_sequences"}}
        return tuple(name for name in params if not known_as.get(name, {name}) & set(taken))

    def close(self) -> None:
        """Closes the connections of sync calls; those of event loops close with their loop or `aclose`."""
        self._sync.close()
        self._threads.close()

    async def aclose(self) -> None:
        """Closes all connections that this event loop may close."""
        self.close()
        await self._async.close()

    def _prepare(self, request: Request | EmbedRequest, exchange: Exchange) -> tuple[Any, ReplyReader]:
        return load_litellm(), ReplyReader(request, exchange, self._redact)


def _arguments(litellm: Any, request: Request | EmbedRequest, call: str) -> dict[str, Any]:
    """Of LiteLLM's function of that name."""
    arguments = embed_arguments(request) if isinstance(request, EmbedRequest) else chat_arguments(request)
    return {**arguments, "litellm_logging_obj": silent_log(litellm, arguments, call)}
