"""A chat without the SDK's types sends what the SDK would send, and fails as the SDK would fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faults
import httpx
import openai
import pytest
from manager_kit import Api

from testronaut_llm.transport.plain_completions import plain_chat
from testronaut_llm.transport.sdk_clients import _class_of

Make = Callable[..., Api]
BODY: dict[str, Any] = {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"timeout": 5.0},
    {"extra_headers": {"x-mine": "1"}},
    {"extra_query": {"page": "2"}},
    {"extra_body": {"top_k": 4, "nested": {"a": [1]}}},
    {"extra_headers": None, "extra_query": None, "extra_body": None, "timeout": None},
]
KINDS: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0),
    "azure": lambda url: openai.AzureOpenAI(azure_endpoint=url, api_version="2024-10-21", api_key="k", max_retries=0),
}
ASYNC_KINDS: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0),
    "azure": lambda url: openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_version="2024-10-21", api_key="k", max_retries=0
    ),
}


def seen(api: Api) -> list[Any]:
    """The last request, but for what counts connections and the SDK's own word for how it was called."""
    one = api.asked[-1]
    own = {"x-stainless-raw-response", "x-stainless-read-timeout", "content-length", "host"}
    headers = {name.lower(): value for name, value in one.headers.items() if name.lower() not in own}
    return [one.method, one.path, dict(one.query), headers, one.body, one.key_digests]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "none")
def test_the_same_request_and_the_same_answer(api: Make, kind: str, options: dict[str, Any]) -> None:
    """Method, path, query, headers and body; and the mapping holds what the SDK's object does."""
    a = api("a", faults.good("fine"))
    with KINDS[kind](a.url) as client:
        typed = client.chat.completions.with_raw_response.create(**BODY, **options)
        sent = seen(a)
        plain = plain_chat(client, client.chat).completions.with_raw_response.create(**BODY, **options)
        assert seen(a) == sent
        said = plain.parse().model_dump()
        assert typed.parse().model_dump(exclude_unset=True) == said
        assert said["choices"][0]["message"]["content"] == "fine"
        assert plain.headers["content-type"] == typed.headers["content-type"]


@pytest.mark.parametrize("kind", ASYNC_KINDS)
async def test_the_same_on_an_event_loop(api: Make, kind: str) -> None:
    """The async client's answer is one to wait for."""
    a = api("a", faults.good("fine"))
    async with ASYNC_KINDS[kind](a.url) as client:
        typed = await client.chat.completions.with_raw_response.create(**BODY)
        sent = seen(a)
        plain = await plain_chat(client, client.chat).completions.with_raw_response.create(**BODY)
        assert seen(a) == sent
        assert typed.parse().model_dump(exclude_unset=True) == plain.parse().model_dump()


@pytest.mark.parametrize(
    "fault", ["bad_request", "authentication", "not_found", "context", "rate_limit", "server_error", "overloaded"]
)
def test_the_same_failure(api: Make, fault: str) -> None:
    """Class, status and body of the SDK's error."""
    a = api("a", faults.error(fault))
    with KINDS["openai"](a.url) as client:
        raised: list[openai.APIStatusError] = []
        for chat in (client.chat, plain_chat(client, client.chat)):
            with pytest.raises(openai.APIStatusError) as caught:
                chat.completions.with_raw_response.create(**BODY)
            raised.append(caught.value)
        assert type(raised[0]) is type(raised[1])
        assert (raised[0].status_code, raised[0].body) == (raised[1].status_code, raised[1].body)


def test_a_stream_is_the_sdks_own(api: Make) -> None:
    """It is read event by event, as before."""
    a = api("a", faults.good("fine"))
    with KINDS["openai"](a.url) as client:
        stream = plain_chat(client, client.chat).completions.with_raw_response.create(**BODY, stream=True).parse()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "fine"


def test_our_clients_have_it_and_their_other_doors(api: Make) -> None:
    """LiteLLM gets it through the client that it is handed; what it does not replace is still there."""
    a = api("a", faults.good("fine"))
    with _class_of(openai.OpenAI)(base_url=f"{a.url}/v1", api_key="k", http_client=httpx.Client()) as client:
        said = client.chat.completions.with_raw_response.create(**BODY).parse()
        assert said.model_dump()["model"]
        assert callable(client.chat.completions.parse)
        assert client.max_retries == 0
        client.max_retries = 5
        assert client.max_retries == 0


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"3"])
def test_what_is_no_object_is_handed_on_as_it_is(api: Make, body: bytes) -> None:
    """LiteLLM says what is wrong with it."""

    def odd(exchange: Any) -> None:
        exchange.respond(200, "application/json", body)

    a = api("a", odd)
    with KINDS["openai"](a.url) as client:
        got = plain_chat(client, client.chat).completions.with_raw_response.create(**BODY).parse()
        assert not hasattr(got, "model_dump")
