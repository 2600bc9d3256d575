"""What the table says of LiteLLM, compared with LiteLLM itself."""

from __future__ import annotations

import importlib
import os
from typing import Any

import httpx
import pytest

from testronaut_llm.gateway import load_litellm
from testronaut_llm.providers import litellm_names as known
from testronaut_llm.providers.rows import ROWS, default_row
from testronaut_llm.testing.network import NetworkGuard

AZURE_CLIENT = {"azure", "azure_text"}
KINDS = (set(known.OPENAI_CLIENT), known.HANDLER_CLIENT, known.OWN_CLIENT, known.NO_CHAT, AZURE_CLIENT)
KNOWN = frozenset().union(*KINDS)


@pytest.fixture(scope="module")
def litellm() -> Any:
    return load_litellm()


@pytest.fixture(scope="module")
def from_json(litellm: Any) -> Any:
    return importlib.import_module("litellm.llms.openai_like.json_loader").JSONProviderRegistry


def test_the_names_are_litellms(litellm: Any, from_json: Any) -> None:
    """After an upgrade of LiteLLM this test lists the names that came and went."""
    theirs = {str(getattr(name, "value", name)) for name in litellm.provider_list} | set(from_json.list_providers())
    assert sorted(KNOWN) == sorted(theirs)


def test_each_name_has_one_kind() -> None:
    """A name is reached in one way or not at all; ours are ours alone."""
    assert sum(map(len, KINDS)) == len(KNOWN)
    assert known.HANDLER_CLIENT >= known.OPENAI_WIRE_BY_HANDLER
    assert "embedded" not in KNOWN
    assert {row.name for row in ROWS} - {"embedded"} <= KNOWN


def test_the_endpoints_are_litellms(litellm: Any, from_json: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default endpoint is the one that LiteLLM would take, so that a key goes to its own provider."""
    for name in [name for name in os.environ if name.endswith("_API_BASE")]:
        monkeypatch.delenv(name)
    ours_alone = {"openai", "ai21", "lm_studio", "openrouter"}
    for name in {*known.OPENAI_CLIENT, *known.HANDLER_CLIENT} - ours_alone:
        base = default_row(name).default_base
        if base is not None:
            assert (name, base) == (name, litellm.get_llm_provider(f"{name}/m")[3].rstrip("/"))


def test_the_key_variables_are_litellms(from_json: Any) -> None:
    """Where LiteLLM keeps the variable's name as data, it is among ours."""
    for name in from_json.list_providers():
        assert (name, from_json.get(name).api_key_env) == (name, default_row(name).key_variables[0])


# These want a cloud SDK, credentials to sign with, or names of a form of their own before anything is sent.
NOT_TRIED = {
    "bedrock", "clarifai", "fal_ai", "gdc", "infinity", "jina_ai", "langflow", "langgraph", "oci", "ragflow",
    "sagemaker_chat", "sagemaker_nova", "vertex_ai", "vertex_ai_beta", "voyage", "watsonx", "watsonx_text",
}  # fmt: skip


EMBEDDERS = known.OPENAI_CLIENT_FOR_EMBEDDINGS | {
    "dashscope", "databricks", "gemini", "hosted_vllm", "llamafile", "lm_studio", "openrouter", "ovhcloud",
    "perplexity", "sambanova", "vercel_ai_gateway", "volcengine", "voyage",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own, about its typed dicts
@pytest.mark.parametrize("embedding", [False, True], ids=["chat", "embedding"])
def test_litellm_takes_the_client_that_the_row_names(litellm: Any, network: NetworkGuard, embedding: bool) -> None:
    """Each provider's request leaves through the client it is given, and none opens another connection."""
    import openai

    requests: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(str(request.url))
        return httpx.Response(418, json={"error": {"message": "a teapot"}})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    common = {"api_base": "http://127.0.0.1:9/v1", "api_key": "k", "max_retries": 0, "timeout": 5}
    clients = {
        "openai": openai.OpenAI(api_key="k", base_url=common["api_base"], http_client=http, max_retries=0),
        "handler": importlib.import_module("litellm.llms.custom_httpx.http_handler").HTTPHandler(client=http),
    }
    strays = []
    for name in sorted(EMBEDDERS if embedding else {*known.OPENAI_CLIENT, *known.HANDLER_CLIENT} - NOT_TRIED):
        litellm.model_cost.setdefault(f"{name}/m", {"litellm_provider": name, "mode": "chat"})  # or Ollama is asked
        row = default_row(name)
        requests.clear()
        before = len(network.connects) + len(network.blocked)
        kind = (embedding and row.embedding_client) or row.client
        ask, question = (
            (litellm.embedding, {"input": ["hi"]})
            if embedding
            else (litellm.completion, {"messages": [{"role": "user", "content": "hi"}]})
        )
        with pytest.raises(openai.OpenAIError):
            ask(model=f"{name}/m", client=clients[kind], **question, **common)
        if len(requests) != 1 or len(network.connects) + len(network.blocked) != before:
            strays.append((name, list(requests)))
    http.close()
    assert strays == []
