"""Our table compared with LiteLLM, and the behaviour if LiteLLM's files cannot be read."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from testronaut_llm.config.model_config import ModelConfig
from testronaut_llm.errors import ConfigError
from testronaut_llm.gateway.gateway import load_litellm
from testronaut_llm.local.readiness import readiness
from testronaut_llm.providers.provider import is_own_host
from testronaut_llm.providers.provider_registry import find_provider, listed, litellm_names, litellm_services
from testronaut_llm.support.text import host_of
from testronaut_llm.testing.cassettes import NetworkGuard

Install = Callable[..., None]  # the fixture `install`
OWN_FORM = {name for name, fields in listed().items() if "litellm_prefix" in fields}
LISTED = {*listed()} - OWN_FORM
KNOWN = sorted(LISTED | {*litellm_services()})


@pytest.fixture(scope="module")
def litellm() -> Any:
    return load_litellm()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_table: None) -> Install:
    """Replaces the installed LiteLLM: `services` is its JSON file, `names` its list."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(services: str | None, names: str | None) -> None:
        files = {"llms/openai_like/providers.json": services, "types/utils.py": names}
        for path, text in {**files, "__init__.py": "raise ImportError('read, not imported')"}.items():
            (tmp_path / "litellm" / path).parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                (tmp_path / "litellm" / path).write_text(text)
        monkeypatch.delitem(sys.modules, "litellm", raising=False)
        for read in (litellm_names, litellm_services, find_provider):
            read.cache_clear()

    return installed


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own, about its typed dicts
def test_names_endpoints_and_variables_are_litellms(litellm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default endpoint equals LiteLLM's, so that a key is sent to its own provider."""
    services = importlib.import_module("litellm.llms.openai_like.json_loader").JSONProviderRegistry
    theirs = {str(getattr(name, "value", name)) for name in litellm.provider_list} | set(services.list_providers())
    assert sorted(litellm_names()) == sorted(theirs)
    assert {find_provider(name).name for name in theirs} >= theirs - {"ollama_chat", "custom_openai", "cohere_chat"}
    assert {name for name in listed() if find_provider(name).litellm_prefix != "openai"} <= litellm_names()
    assert not set(listed()) & set(litellm_services()), "a name is listed twice"
    assert [name for name in {*listed(), *litellm_services()} if not find_provider(name).key_variables] == ["embedded"]

    for name in [name for name in os.environ if name.endswith(("_API_BASE", "_BASE_URL"))]:
        monkeypatch.delenv(name)
    ours_alone = {"ai21", "lm_studio", "openrouter"}
    for name in set(KNOWN) - ours_alone:
        row = find_provider(name)
        if row.default_base is not None:
            assert (name, row.default_base) == (name, litellm.get_llm_provider(f"{name}/m")[3].rstrip("/"))
            assert is_own_host(row.default_base, row)
            assert not is_own_host(f"https://{host_of(row.default_base)}.evil.example/v1", row)

    assert len(litellm_services()) == len(services.list_providers()) > 20
    for name in services.list_providers():
        its, row = services.get(name), find_provider(name)
        assert (name, row.key_variables) == (name, (its.api_key_env,))
        if base := getattr(its, "api_base_env", None):
            assert (name, row.base_variables[0]) == (name, base)


NAMES = """
class LlmProviders(str, Enum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"  # a comment
    OLLAMA = 'ollama'
    NEWCOMER = "newcomer"


class Other(str, Enum):
    COLOUR = "red"
"""


NO_URLS = ("http://plain.example/v1", "https://u:p@host.example/v1", "https://{region}.host.example:port/v1", None)


def test_a_service_of_a_newer_litellm_is_ready_by_its_data(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = {"base_url": "https://api.fresh.example/v1/", "api_key_env": "FRESH_KEY", "api_base_env": "FRESH_URL"}
    turned = {"base_url": "https://new.example/v1", "api_key_env": "XAI_API_KEY"}
    odd = {f"odd of {url}": {"base_url": url, "api_key_env": "K"} for url in NO_URLS}
    odd["odd without a key"] = {"base_url": "https://host.example/v1"}
    install(json.dumps({"fresh-ai": fresh, "xai": turned, "cerebras": turned, **odd}), NAMES)
    assert [*litellm_services()] == ["fresh-ai", "xai", "cerebras"]
    assert not litellm_names() & {*odd}
    model = ModelConfig(alias="a", model="fresh-ai/x").model_copy(update={"trusted": False})
    assert readiness(model).missing == "FRESH_KEY is not set"
    monkeypatch.setenv("FRESH_KEY", "fresh-key-1")
    assert readiness(model).ready
    row = find_provider("fresh-ai")
    assert (row.litellm_prefix, row.client, row.default_base) == ("fresh-ai", "openai", "https://api.fresh.example/v1")
    assert row.base_variables == ("FRESH_URL", "FRESH_AI_API_BASE")
    for name in ("xai", "cerebras"):  # kept by hand until LiteLLM turned them into data
        row = find_provider(name)
        assert (row.default_base, row.client, row.wire) == ("https://new.example/v1", "openai", "openai")
    with pytest.raises(ConfigError, match=r"unknown provider 'newcommer': did you mean 'newcomer/\.\.\.'"):
        find_provider("newcommer")


@pytest.mark.parametrize("name", ["newcomer", "github_copilot"])
def test_a_name_of_which_nothing_else_is_known_needs_an_endpoint(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is sent in the OpenAI form to the file's endpoint, since LiteLLM might open its own connections."""
    install(None, NAMES.replace("newcomer", name))
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "newcomer-key-1")
    model = ModelConfig(alias="a", model=f"{name}/x")
    assert readiness(model).missing == f"{name} needs an endpoint"
    assert readiness(model.model_copy(update={"api_base": "https://its.example/v1"})).ready
    monkeypatch.setenv(f"{name.upper()}_API_BASE", "https://its.example/v1")
    untrusted = readiness(model.model_copy(update={"trusted": False}))
    assert f"since {name} has no fixed host" in untrusted.missing
    assert (find_provider(name).litellm_prefix, find_provider(name).client) == ("openai", "openai")


OTHER_LAYOUTS = [
    (None, None),
    ('"text"', 'class LlmProviders(str, Enum):\n    A = "a"\n'),
    ('{"a": {}, "b": [], "c": null}', "LlmProviders = frozenset({'openai', 'anthropic', 'ollama'})"),
]


def test_another_layout_of_litellm_accepts_every_name(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in OTHER_LAYOUTS:
        install(*layout)
        assert not litellm_names()
        assert not litellm_services()
        assert find_provider("openai").default_base == "https://api.openai.com/v1"
        assert find_provider("moonshot").default_base == "https://api.moonshot.ai/v1"
        assert readiness(ModelConfig(alias="a", model="opnai/x")).missing.startswith("opnai needs an endpoint")
    for stand_in in (ModuleType("litellm"), None):  # as a test program may put into its place
        monkeypatch.setitem(sys.modules, "litellm", stand_in)
        litellm_names.cache_clear()
        assert not litellm_names()


# These want a cloud SDK, credentials to sign with, or names of a form of their own before anything is sent.
NOT_TRIED = {
    "bedrock", "clarifai", "fal_ai", "gdc", "infinity", "jina_ai", "langflow", "langgraph", "oci", "ragflow",
    "sagemaker_chat", "sagemaker_nova", "vertex_ai", "vertex_ai_beta", "voyage", "watsonx", "watsonx_text",
}  # fmt: skip
EMBEDDERS = {name for name in LISTED if find_provider(name).embedding_client == "openai"} | {
    "dashscope", "databricks", "gemini", "hosted_vllm", "llamafile", "lm_studio", "openrouter", "ovhcloud",
    "perplexity", "sambanova", "vercel_ai_gateway", "volcengine", "voyage",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own, about its typed dicts
@pytest.mark.parametrize("embedding", [False, True], ids=["chat", "embedding"])
def test_litellm_takes_the_client_that_the_row_names(litellm: Any, llm_network: NetworkGuard, embedding: bool) -> None:
    """Each provider's request uses the given client, and no other connection is opened."""
    import openai

    def answer(request: httpx.Request) -> httpx.Response:
        asked[name].append(str(request.url))
        return httpx.Response(418, json={"error": {"message": "a teapot"}})

    http = httpx.Client(transport=httpx.MockTransport(answer))
    common: dict[str, Any] = {"api_base": "http://127.0.0.1:9/v1", "api_key": "k", "max_retries": 0, "timeout": 5}
    clients = {
        "openai": openai.OpenAI(api_key="k", base_url=common["api_base"], http_client=http, max_retries=0),
        "handler": importlib.import_module("litellm.llms.custom_httpx.http_handler").HTTPHandler(client=http),
    }
    hi = {"input": ["hi"]} if embedding else {"messages": [{"role": "user", "content": "hi"}]}
    asked: dict[str, list[str]] = {name: [] for name in sorted(EMBEDDERS if embedding else {*KNOWN} - NOT_TRIED)}
    for name in asked:
        litellm.model_cost.setdefault(f"{name}/m", {"litellm_provider": name, "mode": "chat"})  # or Ollama is asked
        row = find_provider(name)
        client = clients[(embedding and row.embedding_client) or row.client]
        with pytest.raises(openai.OpenAIError):
            (litellm.embedding if embedding else litellm.completion)(model=f"{name}/m", client=client, **hi, **common)
    http.close()
    assert {name: urls for name, urls in asked.items() if len(urls) != 1} == {}
    assert (llm_network.connects, llm_network.blocked) == ([], [])
