"""Fields of `extra` go into the body: LiteLLM does not act on them; local models have one set of options."""

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
from fixtures_local import TINY
from gateway_kit import FORMS, KEY, WIRES, Attempts, request, target
from manager_kit import ask, manager
from ollama_kit import Ollama

from testronaut_llm.config.extra_fields import HARDWARE, OWNED, SAMPLING
from testronaut_llm.config.model_config import LLMConfig, ModelConfig
from testronaut_llm.errors import ConfigError, InvalidRequestError
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.gateway.model_request import arguments
from testronaut_llm.local.local_provider import EmbeddedRunner
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.local.readiness import readiness
from testronaut_llm.providers.provider_registry import find_provider, listed

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
    for (name, value), mode in zip(hostile.items(), cycle(FORMS)):
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


VALUES: dict[str, Any] = {
    **{word: 3 if kind is int else 0.5 for word, (kind, _) in SAMPLING.items()},
    **{word: True if kind is bool else 2 for word, kind in HARDWARE.items()},
}


def a_file(provider: str, extra: Any) -> LLMConfig:
    return LLMConfig(models={"m": {"model": f"{provider}/x", "extra": extra}}, tasks={})


@pytest.mark.parametrize("extra", [VALUES, {"options": VALUES}], ids=["flat", "nested"])
async def test_options_of_an_ollama_model_are_merged_below_ours(ollama: Ollama, extra: dict[str, Any]) -> None:
    async with manager({"row": ollama.row(extra=extra), "plain": ollama.row()}, seed=7, stop=["END"]) as llm:
        await ask(llm, "complete", model="row", max_tokens=4)
        await ask(llm, "astream", model="plain", max_tokens=4, extra=extra)
    assert len(ollama.bodies()) == 2
    ours = {"num_predict": 4, "num_ctx": 6144, "temperature": 0, "seed": 7, "stop": ["END"]}
    for body in ollama.bodies():
        assert body["options"] == VALUES | ours
        assert set(body) == {"model", "messages", "options", "stream", "truncate", "shift"}


def test_an_option_of_a_call_replaces_that_of_the_row(ollama: Ollama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUR", "4")
    extra = {"top_k": 1, "num_thread": "${FOUR}", "options": {"min_p": 0.1}}
    with manager({"m": ollama.row(extra=extra)}) as llm:
        llm.complete("t", "Say hello.", extra={"top_k": 2})
        with pytest.raises(InvalidRequestError, match="did you mean `top_k`"):
            llm.complete("t", "Say hello.", extra={"top_kk": 1})
    (body,) = ollama.bodies()
    assert body["options"].items() >= {"top_k": 2, "min_p": 0.1, "num_thread": 4}.items()


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"top_kk": 1}, "extra.top_kk", "did you mean `top_k`?"),
    ({"options": {"repeat_penlty": 1.1}}, "extra.options.repeat_penlty", "did you mean `repeat_penalty`?"),
    ({"options": {"temperature": 1}}, "extra.options.temperature", "the task's `temperature`"),
    ({"num_predict": 5}, "extra.num_predict", "the task's `max_tokens`"),
    ({"options": [1]}, "extra.options", "expected a mapping"),
    ({"use_mmap": 1}, "extra.use_mmap", "expected true or false"),
    ({"num_gpu": True}, "extra.num_gpu", "expected a whole number"),
    ({"num_thread": "${WORD}"}, "extra.num_thread", "expected a whole number"),
    ({"top_p": "x"}, "extra.top_p", "expected a number"),
]


@pytest.mark.parametrize("provider", ["ollama", "ollama_chat", "embedded"])
def test_an_option_that_is_none_is_refused_with_the_closest(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOUR", "4")
    monkeypatch.setenv("WORD", "four")
    for extra, where, why in REFUSED:
        with pytest.raises(ConfigError) as caught:
            a_file(provider, extra)
        (line,) = [line for line in str(caught.value).splitlines() if "extra" in line]
        assert (where in line, why in line) == (True, True), line
    for valid in (VALUES, {"options": VALUES}, {"num_thread": "${NOT_SET_ANYWHERE}"}, {"num_thread": "${FOUR}"}):
        a_file(provider, valid)
    a_file("openai", {"top_kk": 1, "options": {"anything": True}})


def test_an_embedded_model_samples_as_configured(home: ModelStore) -> None:
    words = {"repeat_penalty": 1.0, "min_p": 0.0, "typical_p": 1.0, "num_keep": 0}
    extras = {"one": words | {"options": {"top_k": 1}}, "many": words | {"top_k": 50}}
    rows = {name: {"model": f"embedded/{TINY}", "num_ctx": 512, "extra": extra} for name, extra in extras.items()}
    with manager(rows, temperature=1.0, max_tokens=12, allow_truncated=True) as llm:
        said = {name: {llm.complete("t", "Hi.", model=name, seed=seed).text for seed in (1, 2, 3)} for name in rows}
        with pytest.raises(InvalidRequestError, match="`extra` of its row"):
            llm.complete("t", "Hi.", extra={"num_thread": 2})
    assert len(said["one"]) == 1
    assert len(said["many"]) > 1


def test_the_server_of_an_embedded_model_has_the_hardware_options_of_its_row(home: ModelStore) -> None:
    extra = {"num_thread": 1, "num_batch": 64, "use_mmap": False, "num_gpu": 0, "main_gpu": 0, "draft_num_predict": 4}
    rows = [ModelConfig(alias="m", model=f"embedded/{TINY}", num_ctx=512, extra=one) for one in (extra, {})]
    with closing(EmbeddedRunner()) as runner:
        first, second = (runner.endpoint(row) for row in rows)
        assert first != second
        assert runner.endpoint(rows[0]) == first
        settings = [server.settings for server in runner.pool.servers.values()]
        (told,) = [one for one in settings if (one["threads"], one["batch"]) == (1, 64)]
        assert told["hardware"] == extra
