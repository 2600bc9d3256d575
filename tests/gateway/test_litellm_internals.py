"""What LiteLLM does of itself stays inside our attempt: no retry, no client, question, key or warning of its own."""

from __future__ import annotations

import asyncio
import json
import re
import warnings
from unittest.mock import patch

import faults
import pytest
from gateway_kit import target
from manager_kit import Make, ask, manager, model
from source_tree import modules

from testronaut_llm.gateway.clients import inside
from testronaut_llm.gateway.exchange import Exchange
from testronaut_llm.gateway.gateway import Gateway, load_litellm
from testronaut_llm.gateway.model_request import Request

pytestmark = pytest.mark.usefixtures("provider_keys")


@pytest.mark.parametrize("wire", ["openai", "azure", "azure v1", "ollama"])
async def test_an_embedding_is_tried_once_and_by_our_client(api: Make, wire: str) -> None:
    """Each wire sends one request with our client, though LiteLLM retries embeddings and has an Ollama client."""
    a, gateway, exchange = api("a", faults.error("server_error")), Gateway(str), Exchange()
    asked = Request(target=target(wire, a.url), texts=("one",), timeout=5.0)
    with patch.object(Exchange, "on_request", autospec=True, side_effect=Exchange.on_request) as tries:
        *_, reply = [part async for part in gateway.send(asked, exchange)]
    await gateway.aclose()
    assert reply.error is not None
    assert len(a.asked) == exchange.requests == tries.await_count == 1


async def test_litellm_asks_no_server_about_a_model(api: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a row in `litellm.model_cost`, LiteLLM sends no `/api/show`, also for a model that an answer names."""
    show = api("show", faults.good())
    monkeypatch.setenv("OLLAMA_API_BASE", show.url)
    monkeypatch.delitem(load_litellm().model_cost, "ollama_chat/qwen3:8b", raising=False)
    a = api("a", *(faults.good("fine", model=f"other:{number}") for number in range(2)))
    with manager({"m": model("ollama", a)}) as llm:
        for mode in ("complete", "stream"):
            assert (await ask(llm, mode)).text == "fine"
    await asyncio.sleep(0.2)  # a thread of LiteLLM's would ask afterwards
    assert [one.path.rsplit("/", 2)[-2:] for one in a.asked] == [["api", "chat"]] * 2
    assert show.asked == []


def test_nothing_else_reaches_inside() -> None:
    for module in modules():
        inner = re.findall(r"\b(?:litellm|openai|anthropic|httpx|httpx2|httpcore)(?:\.\w+)*\._\w+", module.text)
        assert not [one for one in inner if not re.fullmatch(r"(openai|anthropic)\._base_client", one)]  # logger names
        assert not re.search(r"\btype\(\s*\w+\.__name__|class \w+\((litellm|openai)\.", module.text)


# An answer whose fields have types that LiteLLM's own classes do not expect.
ODD_CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}
ODD = {"id": "x", "object": "chat.completion", "created": "now", "model": "m", "choices": [ODD_CHOICE],
       "usage": {"prompt_tokens": "3", "completion_tokens": 2, "total_tokens": 5}}  # fmt: skip


@pytest.mark.parametrize("mode", ["complete", "astream"])
async def test_only_the_hosts_own_warnings_count(api: Make, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With `-W error` in the host, warnings inside a call are silent, and so are Pydantic's about odd types."""
    a, odd = api("a", faults.good("fine")), api("odd", faults.raw(200, json.dumps(ODD).encode()))
    models = {wire: model(wire, a) for wire in ("openai", "azure", "anthropic", "ollama")}
    models |= {"odd": model("openai", odd)} if mode == "complete" else {}
    with manager(models, retries=0) as llm, warnings.catch_warnings():
        for action in ("always", "error"):
            warnings.simplefilter(action)
            for name in models:
                assert (await ask(llm, mode, model=name)).text == "fine"
        with inside(object()):
            warnings.warn("inside", UserWarning, stacklevel=1)
        with pytest.raises(UserWarning, match="outside"):
            warnings.warn("outside", UserWarning, stacklevel=1)
    assert capfd.readouterr() == ("", "")
