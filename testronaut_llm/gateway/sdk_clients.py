"""The client objects that LiteLLM takes, built around an HTTP client of ours.

Which kind a provider takes is in its row; LiteLLM opens a connection of its own when it is handed another.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextvars import ContextVar
from functools import cache
from typing import Any

import httpx

from testronaut_llm.gateway.model_request import Target

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


def sdk_client(litellm: Any, target: Target, key: Key, http: httpx.AsyncClient) -> Any:
    """LiteLLM's handler, or OpenAI's or Azure's client; it never retries."""
    kind = key[0]
    if kind in ("handler", "none"):
        return _handler(litellm, http)
    import openai

    settings: dict[str, Any] = {"http_client": http, "max_retries": 0}
    secret: Any = target.key.get_secret_value() if target.key else target.token_provider or "none"
    if kind == "azure":
        name = "azure_ad_token_provider" if callable(secret) else "api_key"
        make = _class_of(openai.AsyncAzureOpenAI)
        endpoint = target.api_base or ""
        return make(azure_endpoint=endpoint, api_version=target.api_version, **{name: secret}, **settings)
    if callable(secret):
        secret = _awaitable(secret)
    base = target.api_base
    if kind == "azure v1":
        base = f"{base}/openai/v1/"
        settings["default_query"] = {"api-version": "preview"} if target.api_version == "preview" else None
    ours = _class_of(openai.AsyncOpenAI)
    return ours(api_key=secret, base_url=base, **settings)


@cache
def _class_of(kind: type[Any]) -> Any:
    """The SDK's client that never retries: LiteLLM's embeddings set the number, and take 0 for 2."""
    return type(kind.__name__, (kind,), {"max_retries": property(lambda _: 0, lambda _, __: None)})


def lend_module_client(litellm: Any) -> None:
    """Makes LiteLLM's module-level client use ours during our calls: its Ollama embeddings take no other."""
    litellm.module_level_aclient = _Lent(litellm.llms.custom_httpx.http_handler.AsyncHTTPHandler)
    litellm.module_level_client = _Incurious(litellm.module_level_client)


class _Incurious:
    """Stands in for a handler that LiteLLM asks an Ollama server with, about a model named in an answer."""

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs

    def post(self, url: str, **arguments: Any) -> Any:
        """Posts, but for that question: one attempt is one request."""
        if url.endswith("/api/show"):
            raise ConnectionRefusedError("not asked: one attempt is one request")
        return self._theirs.post(url=url, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)


class _Lent:
    """Stands in for a handler: the attempt's own during our calls, one of LiteLLM's otherwise."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._theirs: Any = None

    def __getattr__(self, name: str) -> Any:
        client = lent.get()
        if client is None:
            client = self._theirs = self._theirs or self._make()
        return getattr(client, name)


def _handler(litellm: Any, http: httpx.AsyncClient) -> Any:
    handlers = litellm.llms.custom_httpx.http_handler
    handler = handlers.AsyncHTTPHandler(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    handler.client = http
    return handler


def _awaitable(token_provider: Any) -> Any:
    async def token() -> str:
        return str(await asyncio.to_thread(token_provider))

    return token
