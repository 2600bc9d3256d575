"""Keys of `extra` are body fields: LiteLLM does not act on them, whatever their names."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import cycle
from typing import Any

import httpx
import pytest
from fault_server import FaultServer
from faults import good
from gateway_kit import KEY, MODES, WIRES, Attempts, request, target

from testronaut_llm.config.extra_fields import OWNED
from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import InvalidRequestError
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.gateway.model_request import arguments
from testronaut_llm.providers.provider_registry import find_provider, listed
from testronaut_llm.providers.readiness import readiness

EMBEDDING = ("openai", "azure", "azure v1", "ollama")


@pytest.fixture(scope="module")
def attempts() -> Iterator[Attempts]:
    with closing(Attempts()) as made:
        yield made


@pytest.mark.parametrize(("wire", "embedding"), [*((w, False) for w in WIRES), *((w, True) for w in EMBEDDING)])
def test_no_key_of_extra_becomes_an_argument_of_litellm(wire: str, embedding: bool) -> None:
    litellm = load_litellm()
    from litellm.types.utils import all_litellm_params

    own = {*inspect.signature(litellm.completion).parameters, *inspect.signature(litellm.embedding).parameters}
    own |= {*all_litellm_params, *litellm.OPENAI_CHAT_COMPLETION_PARAMS, "openai_base_url", "callbacks"}
    own |= {"success_callback", "failure_callback", "proxy", "ssl_verify", "vertex_project"}
    assert len(own) > 150
    asked = replace(request(target(wire)), texts=("a",) if embedding else ())
    named = asked.target.provider.embedding_extra if embedding else asked.target.provider.extra
    assert not {*(named or ())} & {*all_litellm_params, *OWNED}
    plain = arguments(asked)
    plain.pop("extra_body", None)
    for name in own:
        try:
            made = arguments(replace(asked, extra={name: "a value"}))
        except InvalidRequestError:
            assert named is not None or wire == "ollama", name
            continue
        body = made.pop("extra_body", {})
        if named is None:
            assert (made, body[name]) == (plain, "a value"), name
        else:
            assert name in named


@pytest.mark.parametrize("wire", ["openai", "azure", "azure v1"])
def test_hostile_keys_go_nowhere_else(wire: str, server: FaultServer, attempts: Attempts) -> None:
    ours, evil = server.plan("ours", good("Hello.")), server.plan("evil", good("Evil."))
    hostile = {
        **dict.fromkeys(("api_base", "base_url", "openai_base_url", "azure_endpoint", "proxy"), f"{evil.url}/v1"),
        **dict.fromkeys(("api_key", "azure_ad_token", "organization", "aws_region_name", "vertex_project"), "x"),
        **dict.fromkeys(("timeout", "request_timeout", "num_retries", "cooldown_time"), 900),
        "custom_llm_provider": "openai", "mock_response": "mocked", "fallbacks": ["openai/x"], "model_list": [],
        "extra_headers": {"x-evil": "1"}, "headers": {"x-evil": "1"}, "ssl_verify": False, "callbacks": ["langfuse"],
        "success_callback": ["langfuse"], "metadata": {"a": "b"}, "litellm_metadata": {"a": "b"},
    }  # fmt: skip
    for (name, value), mode in zip(hostile.items(), cycle(MODES)):
        _, reply = attempts(request(target(wire, ours.url), extra={name: value}), mode)
        assert (reply.text, reply.error) == ("Hello.", None), name
    assert (len(ours.requests), evil.requests) == (len(hostile), [])
    for received in ours.requests:
        assert any(received.has_key(header, KEY) for header in ("authorization", "api-key")), received.headers
        assert "x-evil" not in received.headers


@pytest.mark.parametrize("model", ["anthropic/claude-haiku-4-5", "anthropic/claude-sonnet-5-5"])
def test_each_field_of_anthropic_arrives(model: str, server: FaultServer, attempts: Attempts) -> None:
    values = {"top_k": 5, "top_p": 0.5, "service_tier": "auto", "inference_geo": "us", "container": "c1"}
    api = server.plan("a", good("Hello."))
    asked = request(target("anthropic", api.url, model=model), temperature=None)
    attempts(asked, "whole")
    for name in find_provider("anthropic").extra or ():
        value = values.get(name, {"edits": []})
        _, reply = attempts(replace(asked, extra={name: value}), "whole")
        plain, sent = api.requests[0].body, api.requests[-1].body
        left_out = name == "top_k" and "sonnet-5" in model  # a model that takes none: LiteLLM leaves it out
        assert reply.dropped_params == ((name,) if left_out else ())
        assert sent == (plain if left_out else {**plain, name: value})


def test_a_field_that_is_none_names_the_closest() -> None:
    row = ModelConfig(alias="m", model="anthropic/claude-haiku-4-5", extra={"top_kk": 5})
    wrong, _, _ = readiness(row).missing.partition("; ANTHROPIC_API_KEY")
    assert wrong == "extra holds 'top_kk', not a body field of anthropic; did you mean `top_k`?"
    with pytest.raises(InvalidRequestError, match="did you mean `top_k`"):
        arguments(request(target("anthropic", "http://127.0.0.1:9"), extra={"top_kk": 5}))
    row = ModelConfig(alias="m", model="bedrock/amazon.nova", extra={"top_k": 5})
    assert "LiteLLM has no way to send further body fields to bedrock" in readiness(row).missing


HANDLED = {name for name, row in listed().items() if row.get("client") == "handler" and "litellm_prefix" not in row}
# Without those that ask for a token first, sign with a key file, have no chat, or speak an agent's wire.
CHATS = HANDLED - {
    "a2a", "aiohttp_openai", "fal_ai", "gdc", "infinity", "jina_ai", "langgraph", "oci", "ragflow", "vertex_ai",
    "vertex_ai_beta", "voyage", "watsonx", "watsonx_text",
}  # fmt: skip
EMBEDS = ("bedrock", "cometapi", "databricks", "edenai", "gemini", "hosted_vllm", "infinity", "jina_ai", "openrouter",
          "ovhcloud", "snowflake", "voyage")  # fmt: skip
TITAN, CLAUDE = "amazon.titan-embed-text-v2:0", "anthropic.claude-3-haiku-20240307-v1:0"


@pytest.mark.parametrize(("name", "embedding"), [*((n, False) for n in sorted(CHATS)), *((n, True) for n in EMBEDS)])
@pytest.mark.filterwarnings("ignore")  # LiteLLM is asked as it is, without the gateway
def test_extra_arrives_or_is_refused(name: str, embedding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each provider that LiteLLM reaches by its handler, its row says whether `extra_body` becomes body fields."""
    litellm = load_litellm()
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(variable, "us-east-1")
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(500, json={"error": {"message": "no"}})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = litellm.llms.custom_httpx.http_handler.HTTPHandler(client=http)
    common = {"api_key": "k", "api_base": "http://127.0.0.1:9", "client": client, "extra_body": {"zzz": 1}}
    model = f"{name}/{(TITAN if embedding else CLAUDE) if name == 'bedrock' else 'some-model'}"
    asked: dict[str, Any] = {"input": ["hi"]} if embedding else {"messages": [{"role": "user", "content": "hi"}]}
    ask = litellm.embedding if embedding else litellm.completion
    with pytest.raises(Exception, match=r"."):
        ask(model=model, max_retries=0, drop_params=True, **asked, **common)
    arrives = bodies[0].get("zzz") == 1
    assert (find_provider(name).refused({"zzz": 1}, embedding=embedding) is None) == arrives
