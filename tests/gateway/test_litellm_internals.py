"""What this package leans on inside LiteLLM and the SDKs beyond what they document: each has one test here.

`gateway/sdk_clients.py` is the one module that may know of them.
"""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from collections.abc import Callable
from typing import Any

import faults
import httpx
import pytest
from gateway_kit import request, target
from manager_kit import Api, ask, manager, model
from source_tree import Module, modules

from testronaut_llm.gateway import exchange as exchanges
from testronaut_llm.gateway.gateway import Gateway, load_litellm
from testronaut_llm.gateway.host_warnings import silenced
from testronaut_llm.gateway.model_request import EmbedRequest
from testronaut_llm.gateway.sdk_clients import key_of, sdk_client

pytestmark = pytest.mark.usefixtures("provider_keys")

Make = Callable[..., Api]
MODES = pytest.mark.parametrize("mode", ["complete", "acomplete", "stream", "astream"])
AT_HOME = "transport.sdk_clients"


async def _sent(wire: str, api: Api, **fields: Any) -> tuple[exchanges.Exchange, Any]:
    gateway, exchange = Gateway(lambda text: text), exchanges.Exchange()
    asked: Any = request(target(wire, api.url), **fields)
    parts = [part async for part in gateway.send(asked, exchange)]
    await gateway.aclose()
    return exchange, parts[-1]


@pytest.mark.parametrize("wire", ["anthropic", "ollama"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_handler_takes_our_http_client(api: Make, wire: str, stream: bool) -> None:
    """Leans on `AsyncHTTPHandler.client`: LiteLLM's handler class sends with the httpx client that stands there."""
    exchange, reply = await _sent(wire, api("a", faults.good("fine")), stream=stream)
    assert (exchange.requests, exchange.status, reply.text) == (1, 200, "fine")


@pytest.mark.parametrize("wire", ["openai", "azure", "azure v1"])
async def test_an_sdk_client_never_retries(api: Make, wire: str) -> None:
    """Leans on `max_retries` of the OpenAI SDK's clients: LiteLLM assigns 2 for embeddings, and it stays 0."""
    litellm, to = load_litellm(), target(wire, api("a", faults.error("server_error")).url)
    client = sdk_client(litellm, to, key_of(to), httpx.AsyncClient())
    client.max_retries = 2
    assert client.max_retries == 0
    await client.close()


@pytest.mark.parametrize("wire", ["openai", "azure", "azure v1", "ollama"])
async def test_an_embedding_is_sent_once_and_by_our_client(api: Make, wire: str) -> None:
    """Leans on `litellm.module_level_aclient`: LiteLLM's Ollama embeddings take no `client=` and use that one."""
    a = api("a", faults.error("server_error"))
    gateway, exchange = Gateway(lambda text: text), exchanges.Exchange()
    asked = EmbedRequest(target=target(wire, a.url), texts=("one",), timeout=5.0)
    *_, reply = [part async for part in gateway.send(asked, exchange)]
    await gateway.aclose()
    assert reply.error is not None
    assert len(a.asked) == exchange.requests == 1


@MODES
async def test_litellm_asks_no_server_about_a_model(api: Make, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Leans on `litellm.model_cost`: LiteLLM sends `/api/show` to localhost for a model that has no row there."""
    show = api("show", faults.good())
    monkeypatch.setenv("OLLAMA_API_BASE", show.url)
    monkeypatch.delitem(load_litellm().model_cost, "ollama_chat/qwen3:8b", raising=False)
    a = api("a", faults.good("fine"))
    with manager({"m": model("ollama", a)}) as llm:
        assert (await ask(llm, mode)).text == "fine"
    await asyncio.sleep(0.3)  # a thread of LiteLLM's would ask afterwards
    assert [one.path.rsplit("/", 2)[-2:] for one in a.asked] == [["api", "chat"]]
    assert show.asked == []


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name or "__init__")
def test_nothing_else_reaches_inside(module: Module) -> None:
    """No name of LiteLLM or an SDK that starts with an underscore, and no class of theirs is changed or subclassed."""
    inside = re.findall(r"\b(?:litellm|openai|anthropic|httpx|httpx2|httpcore)(?:\.\w+)*\._\w+", module.text)
    assert [one for one in inside if not re.fullmatch(r"(openai|anthropic)\._base_client", one)] == []  # logger names
    if module.name != AT_HOME:
        assert not re.search(r"\btype\(\s*\w+\.__name__|class \w+\((litellm|openai)\.", module.text)


ODD = {
    "id": "x",
    "object": "chat.completion",
    "created": "now",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
    "usage": {"prompt_tokens": "3", "completion_tokens": 2, "total_tokens": 5},
}
"""An answer whose fields have types that LiteLLM's own classes do not expect."""


@pytest.mark.parametrize("mode", ["complete", "acomplete"])
async def test_odd_types_print_nothing(api: Make, capfd: pytest.CaptureFixture[str], mode: str) -> None:
    """Pydantic's warnings about what a server made up do not reach stderr."""
    odd = faults.raw(200, json.dumps(ODD).encode())
    with manager({"m": model("openai", api("a", odd))}, retries=0) as llm, warnings.catch_warnings():
        warnings.simplefilter("always")
        assert (await ask(llm, mode)).text == "fine"
    assert capfd.readouterr() == ("", "")


@MODES
@pytest.mark.parametrize("wire", ["openai", "azure", "anthropic", "ollama"])
async def test_a_warning_never_turns_an_answer_into_a_failure(api: Make, mode: str, wire: str) -> None:
    """With `-W error` in the host, LiteLLM's and pydantic's warnings inside a call are silent."""
    with manager({"m": model(wire, api("a", faults.good("fine")))}) as llm, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (await ask(llm, mode)).text == "fine"


def test_the_hosts_own_warnings_are_heard() -> None:
    """Outside our calls, and in other contexts during them, every warning is what the host makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with silenced():
            warnings.warn("inside", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="outside"):
            warnings.warn("outside", UserWarning, stacklevel=1)
