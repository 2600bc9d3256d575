"""The only module that imports LiteLLM: sends one attempt and returns a Reply.

LiteLLM is loaded by the first request that the cache cannot answer. These of its settings are changed, for the whole
process: the environment variables in `_SWITCHES`, `suppress_debug_info`, `disable_aiohttp_transport`,
`disable_hf_tokenizer_download`, the handlers of its loggers (with a filter there and on those of the libraries below,
see `telemetry/log.py`), a row in `model_cost` for each Ollama model that is asked, and its module-level async client.
A filter of Python's warnings, which silences those of LiteLLM inside our calls, stands in front of the host's filters.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any, cast

from testronaut_llm.gateway.clients import Clients, ModuleClient, forget, inside
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.model_request import Reply, Request, Target, arguments, litellm_name, missing
from testronaut_llm.gateway.reply_reader import ReplyReader
from testronaut_llm.providers.network import importable
from testronaut_llm.telemetry.log import guard_logs

_SWITCHES = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_MODE": "PRODUCTION",
    "DISABLE_AIOHTTP_TRANSPORT": "True",
}
_KNOWN = {"litellm_provider": "ollama", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0}
"""LiteLLM asks the server on localhost about an Ollama model that is not in its table, before and after each call."""


@cache
def load_litellm() -> Any:
    """Imports LiteLLM, quiet and offline. Takes seconds the first time."""
    os.environ.update(_SWITCHES)
    with inside(object()), importable("litellm"):
        import litellm

        litellm.module_level_aclient = cast(Any, ModuleClient(litellm))
    litellm.suppress_debug_info = True
    litellm.disable_aiohttp_transport = True
    litellm.disable_hf_tokenizer_download = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.CRITICAL)
    return litellm


class Gateway:
    """Sends attempts. Holds the connections of one manager; `redact` masks secrets in a text."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        guard_logs(redact)
        self._clients = Clients()

    def load(self) -> None:
        """Loads LiteLLM, so that this does not count as time of an attempt."""
        load_litellm()

    async def send(self, request: Request, exchange: Exchange) -> AsyncIterator[str | Reply]:
        """Sends one attempt. Yields pieces of text if it is a stream, then the Reply. LiteLLM's errors are not raised.

        Closing the iterator early, or cancelling the task, closes the connection. `exchange` is used for this
        attempt only.
        """
        litellm, embedding, exchange.texts = load_litellm(), bool(request.texts), len(request.texts)
        _know(litellm, request.target, embedding=embedding)
        reader = ReplyReader(request, exchange, self._redact)
        async with self._clients.connection(request.target, exchange, embedding=embedding) as connection:
            client = None
            try:
                client = connection.client(litellm, request.target)
                with inside(connection):
                    ask = litellm.aembedding if embedding else litellm.acompletion
                    response = await ask(**arguments(request), client=client)
                if not request.stream:
                    reader.take(response)
                else:
                    chunks = aiter(response)
                    while True:
                        with inside(connection):  # not while the caller reads
                            chunk = await anext(chunks, None)
                        if chunk is None:
                            break
                        if piece := reader.take(chunk):
                            yield piece
            except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises becomes one of ours
                reader.error = error
            finally:
                forget(litellm, client)
                await exchange.aclose()
        yield reader.reply()

    def dropped_params(self, target: Target, params: dict[str, Any]) -> tuple[str, ...]:
        """Returns those of the settings that the model does not support. Loads LiteLLM; sends nothing."""
        litellm = load_litellm()
        _know(litellm, target)
        try:
            taken = litellm.utils.get_optional_params(
                model=target.model.base_model or target.model.name,
                custom_llm_provider=target.provider.litellm_prefix,
                drop_params=True,
                **params,
            )
        except Exception:  # noqa: BLE001 - a model that LiteLLM does not know takes what it is given
            return ()
        return missing(params, set(taken))

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        await self._clients.close()


def _know(litellm: Any, target: Target, *, embedding: bool = False) -> None:
    if target.provider.wire == "ollama":
        litellm.model_cost.setdefault(litellm_name(target, embedding=embedding), _KNOWN)
