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
    """The same question under either URL gets the text that the server itself gives."""
    key, bearer = {"api-key": embedded_server.token}, {"Authorization": f"Bearer {embedded_server.token}"}
    direct = _post(f"{embedded_server.api_base}/chat/completions", bearer).json()["choices"]
    for path, header in ((CLASSIC, key), (V1, bearer), (V1, key)):
        assert _post(proxy.url + path, header).json()["choices"] == direct
    assert direct[0]["message"]["content"]


def test_streams_pass_as_they_are(proxy: WireProxy, embedded_server: Endpoint) -> None:
    """A stream arrives as events, with its type and its end."""
    answer = _post(proxy.url + CLASSIC, {"api-key": embedded_server.token}, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("data: ") > 3
    assert answer.text.rstrip().endswith("[DONE]")


def test_a_wrong_key_gets_the_servers_own_refusal(proxy: WireProxy, embedded_server: Endpoint) -> None:
    """The error of a wrong key is the server's, not the proxy's."""
    direct = _post(f"{embedded_server.api_base}/chat/completions", {"Authorization": "Bearer wrong"})
    answer = _post(proxy.url + V1, {"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()) == (401, direct.json())


@pytest.mark.parametrize(
    ("path", "header"),
    [
        (CLASSIC, {"Authorization": "Bearer k"}),
        (CLASSIC.partition("?")[0], {"api-key": "k"}),
        (V1, {"x-api-key": "k"}),
        ("/v1/chat/completions", {"api-key": "k"}),
    ],
)
def test_a_call_in_another_form_is_refused(proxy: WireProxy, path: str, header: dict[str, str]) -> None:
    """Without its own path, date and key header a call gets a status that no server has."""
    assert _post(proxy.url + path, header).status_code == 599
