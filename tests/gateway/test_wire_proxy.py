"""The proxy that gives a llama.cpp server Azure's URLs changes the address and the key's header, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from wire_proxy import WireProxy

from testronaut_llm.local.local_provider import Endpoint

CLASSIC = "/openai/deployments/dep/chat/completions?api-version=2024-10-21"
V1 = "/openai/v1/chat/completions"
BODY = {"model": "dep", "messages": [{"role": "user", "content": "list files"}], "temperature": 0, "max_tokens": 20}


@pytest.fixture
def proxy(embedded_server: Endpoint) -> Iterator[WireProxy]:
    with WireProxy(embedded_server.api_base) as proxy:
        yield proxy


def _post(url: str, headers: dict[str, str], **body: Any) -> httpx.Response:
    return httpx.post(url, json=BODY | body, headers=headers, verify=False, trust_env=False)


def test_each_form_reaches_the_same_server(proxy: WireProxy, embedded_server: Endpoint) -> None:
    """The same question under either URL gets the server's own text, stream and refusal; another form gets none."""
    key, bearer = {"api-key": embedded_server.token}, {"Authorization": f"Bearer {embedded_server.token}"}
    server = f"{embedded_server.api_base}/chat/completions"
    direct = _post(server, bearer).json()["choices"]
    assert direct[0]["message"]["content"]
    for path, header in ((CLASSIC, key), (V1, bearer), (V1, key)):
        assert _post(proxy.url + path, header).json()["choices"] == direct
    streamed = _post(proxy.url + CLASSIC, key, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.rstrip().endswith("[DONE]")
    wrong = {"Authorization": "Bearer wrong"}
    refused = _post(proxy.url + V1, wrong)
    assert (refused.status_code, refused.json()) == (401, _post(server, wrong).json())
    for path, header in ((CLASSIC, bearer), (CLASSIC.partition("?")[0], key), (V1, {"x-api-key": "k"})):
        assert _post(proxy.url + path, header).status_code == 599
