"""The client objects that LiteLLM takes, built around an HTTP client of ours.

Which kind a provider takes is in its row; LiteLLM opens a connection of its own when it is handed another.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextvars import ContextVar
from functools import cache, cached_property
from typing import Any

import httpx

from testronaut_llm.transport.model_request import Target
from testronaut_llm.transport.plain_completions import plain_chat

Key = tuple[str, ...]
"""What two attempts must have in common to share a client: kind, endpoint, API version, fingerprint of the key."""

lent: ContextVar[Any] = ContextVar("testronaut_llm_lent_client", default=None)
"""The client of the attempt that this thread or task works on."""

_V1 = ("v1", "preview", "latest")


def key_of(target: Target, *, embedding: bool = False) -> Key:
    """The key under which a client for this target is kept."""
    provider = target.provider
    kind: str = (provider.embedding_client if embedding else None) or provider.client
    if kind == "azure" and target.api_version in _V1:
        kind = "azure v1"
    secret = target.key.get_secret_value() if target.key else str(id(target.token_provider))
    return kind, target.api_base or "", target.api_version or "", hashlib.sha256(secret.encode()).hexdigest()


def sdk_client(litellm: Any, target: Target, key: Key, http: httpx.Client | httpx.AsyncClient) -> Any:
    """LiteLLM's handler, or OpenAI's or Azure's client; it never retries."""
    kind = key[0]
    if kind in ("handler", "none"):
        return _handler(litellm, http)
    import openai

    asynchronous = isinstance(http, httpx.AsyncClient)
    settings: dict[str, Any] = {"http_client": http, "max_retries": 0}
    secret: Any = target.key.get_secret_value() if target.key else target.token_provider or "none"
    if kind == "azure":
        name = "azure_ad_token_provider" if callable(secret) else "api_key"
        make = _class_of(openai.AsyncAzureOpenAI if asynchronous else openai.AzureOpenAI)
        endpoint = target.api_base or ""
        return make(azure_endpoint=endpoint, api_version=target.api_version, **{name: secret}, **settings)
    if callable(secret) and asynchronous:
        secret = _awaitable(secret)
    base = target.api_base
    if kind == "azure v1":
        base = f"{base}/openai/v1/"
        settings["default_query"] = {"api-version": "preview"} if target.api_version == "preview" else None
    ours = _class_of(openai.AsyncOpenAI if asynchronous else openai.OpenAI)
    return ours(api_key=secret, base_url=base, **settings)


@cache
def _class_of(kind: type[Any]) -> Any:
    """The SDK's client without its types and its retries: LiteLLM's embeddings set their number, and take 0 for 2."""

    def chat(self: Any) -> Any:
        return plain_chat(self, kind.chat.func(self))

    retries = property(lambda _: 0, lambda _, __: None)
    return type(kind.__name__, (kind,), {"max_retries": retries, "chat": cached_property(chat)})


def lend_module_clients(litellm: Any) -> None:
    """Makes LiteLLM's module-level clients use ours during our calls: its Ollama embeddings take no other."""
    handlers = litellm.llms.custom_httpx.http_handler
    litellm.module_level_client = _Lent(handlers.HTTPHandler)
    litellm.module_level_aclient = _Lent(handlers.AsyncHTTPHandler)


class _Lent:
    """Stands in for a handler: the attempt's own during our calls, one of LiteLLM's otherwise."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._theirs: Any = None

    def post(self, url: str, **arguments: Any) -> Any:
        """Posts, but for LiteLLM's questions about an Ollama model, before and after a chat that it was not asked."""
        if url.endswith("/api/show"):
            raise ConnectionRefusedError("not asked: one attempt is one request")
        return self._handler().post(url=url, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler(), name)

    def _handler(self) -> Any:
        client = lent.get()
        if client is None:
            client = self._theirs = self._theirs or self._make()
        return client


def _handler(litellm: Any, http: httpx.Client | httpx.AsyncClient) -> Any:
    handlers = litellm.llms.custom_httpx.http_handler
    if isinstance(http, httpx.Client):
        return handlers.HTTPHandler(client=http)
    handler = handlers.AsyncHTTPHandler(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    handler.client = http
    return handler


def _awaitable(token_provider: Any) -> Any:
    async def token() -> str:
        return str(await asyncio.to_thread(token_provider))

    return token
