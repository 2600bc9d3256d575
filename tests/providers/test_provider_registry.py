"""Rows, endpoints, locality and readiness, all without LiteLLM."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from manager_kit import a_model

from testronaut_llm.errors import ConfigError, LocalModelError
from testronaut_llm.local.ollama_provider import OllamaServer
from testronaut_llm.local.readiness import Probes, Readiness, readiness
from testronaut_llm.providers import provider_registry
from testronaut_llm.providers.provider import Endpoint, Missing, Provider, endpoint_of, is_own_host
from testronaut_llm.providers.provider_registry import is_local, provider_of, register_provider, timeout_of
from testronaut_llm.support.text import is_loopback


def endpoint(reference: str, **fields: Any) -> Endpoint:
    model = a_model(reference, **fields)
    return endpoint_of(model, provider_of(model))


def test_a_misspelt_provider_is_an_error_that_names_the_closest() -> None:
    names = {"opnai": "openai", "antropic": "anthropic", "olama": "ollama", "together": "together_ai", "grok": "groq"}
    for written, closest in names.items():
        with pytest.raises(ConfigError, match=f"unknown provider '{written}': did you mean '{closest}/...'"):
            provider_of(a_model(f"{written}/x"))
    with pytest.raises(ConfigError, match="`model: openai/<name>` with its `api_base:`"):
        provider_of(a_model("qqqqqqqq/x"))
    assert "did you mean 'openai/...'" in readiness(a_model("openia/x")).missing


def test_names_lead_to_rows() -> None:
    for alias, name in provider_registry.ALIASES.items():
        assert provider_of(a_model(f"{alias}/x")) == provider_of(a_model(f"{name}/x"))
    assert provider_of(a_model("ollama/qwen3:8b")).litellm_prefix == "ollama_chat", "`ollama/` is a prompt made by hand"
    row = provider_of(a_model("hyperbolic/x"))
    assert (row.key_variables, row.base_variables) == (("HYPERBOLIC_API_KEY",), ("HYPERBOLIC_API_BASE",))
    assert (row.litellm_prefix, row.key_required, row.local) == ("hyperbolic", True, False)


def test_a_registered_provider_is_ready_like_any_other(own_table: None, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = Provider(name="acme", default_base="https://api.acme.example/v1", key_variables=("ACME_API_KEY",))
    register_provider(acme)
    register_provider(acme)
    assert readiness(a_model("acme/one")).missing == "ACME_API_KEY is not set"
    monkeypatch.setenv("ACME_API_KEY", "acme-key-1")
    assert readiness(a_model("acme/one")).ready
    assert endpoint("acme/one").url == "https://api.acme.example/v1"
    with pytest.raises(ConfigError, match="'openai' is registered already"):
        register_provider(Provider(name="openai", default_base="https://elsewhere.example"))
    with pytest.raises(ConfigError, match="stands before the slash"):
        register_provider(Provider(name="a/b"))


PLUGGED = Provider(name="plugged", default_base="https://plugged.example")
PLUGINS: list[tuple[Any, str]] = [
    (PLUGGED, ""),
    (lambda: PLUGGED, ""),
    (ImportError("no such thing"), r"failed to load \(ImportError: no such thing\)"),
    (Provider(name="other"), "must be a Provider named 'plugged'"),
    ("a string", "got str"),
]


@pytest.mark.parametrize(("brought", "refusal"), PLUGINS)
def test_an_installed_plugin_adds_its_row(
    own_table: None, monkeypatch: pytest.MonkeyPatch, brought: Any, refusal: str
) -> None:
    """A plugin is a row or a function that makes one; its key stays its own if LiteLLM learns the name."""
    load = Mock(side_effect=brought if isinstance(brought, Exception) else None, return_value=brought)
    points = {"testronaut_llm.providers": [SimpleNamespace(name="plugged", value="pkg:row", load=load)]}
    services = {"plugged": {"default_base": "https://elsewhere.example"}}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.get(group, []))
    monkeypatch.setattr(provider_registry, "litellm_services", lambda: services)
    with pytest.raises(ConfigError, match=r"did you mean 'plugged/\.\.\.'"):
        provider_of(a_model("pluged/x"))
    assert not load.called
    with pytest.raises(ConfigError, match=refusal) if refusal else contextlib.nullcontext():
        assert provider_of(a_model("plugged/x")) is PLUGGED


PASTED = [
    ("openai/x", " https://h.example/v1/chat/completions ", "https://h.example/v1"),
    ("anthropic/x", "https://h.example/v1", "https://h.example"),
    ("anthropic/x", "https://h.example/proxy/v1/messages", "https://h.example/proxy"),
    ("azure/x", "https://r.openai.azure.com/openai/v1/", "https://r.openai.azure.com"),
    ("azure/x", "https://r.openai.azure.com/openai/deployments/x/chat?api-version=1", "https://r.openai.azure.com"),
    ("azure/x", "https://gateway.example/openai-team/a", "https://gateway.example/openai-team/a"),
    ("ollama/x", "http://127.0.0.1:11434/v1", "http://127.0.0.1:11434"),
    ("ollama/x", "localhost:11434/api/chat", "http://localhost:11434"),
    ("openai/x", "${NOT_SET}/v1", "${NOT_SET}/v1"),
]


def test_an_endpoint_is_taken_as_people_paste_it() -> None:
    """Path parts that LiteLLM would append again are removed."""
    for reference, written, used in PASTED:
        assert endpoint(reference, api_base=written).url == used


OLLAMA_HOSTS = {
    "0.0.0.0:8080": "http://127.0.0.1:8080", ":11435": "http://127.0.0.1:11435", "box:1/ollama/": "http://box:1/ollama",
    "http://box": "http://box:80", "ollama.com": "https://ollama.com:443", "http://ollama.com": "http://ollama.com:80",
    "[::1]": "http://[::1]:11434", "::": "http://[::1]:11434", "fe80::1%eth0": "http://[fe80::1%eth0]:11434",
    "https://": "https://127.0.0.1:443", "' box:'": "http://box:11434", "  ": "http://127.0.0.1:11434",
}  # fmt: skip


def test_ollama_host_is_read_as_ollama_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for host in OLLAMA_HOSTS:
        monkeypatch.setenv("OLLAMA_HOST", host)
        found[host] = endpoint("ollama/x").url
    assert found == OLLAMA_HOSTS


LOGIN, NO_URL = "holds a user name or password", "is not an http or https URL, its port at most 65535"
NO_URLS = {
    "127.0.0.1:66000": NO_URL, "box:port": NO_URL, "http://user:canary@127.0.0.1": LOGIN, "tcp://box": NO_URL,
    "user:canary@127.0.0.1:11434": LOGIN, "http://h box": NO_URL, "http://h..example": NO_URL, "http://[x": NO_URL,
}  # fmt: skip


@pytest.mark.parametrize("url", NO_URLS)
def test_an_endpoint_of_no_use_is_named_without_repeating_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", url)
    found = readiness(a_model("ollama/x"))
    assert found.missing == f"the endpoint of OLLAMA_HOST {NO_URLS[url]}"
    with pytest.raises(LocalModelError, match=f"OLLAMA_HOST {NO_URLS[url]}; expected a URL such as") as error:
        OllamaServer.of()
    assert "canary" not in f"{error.value} {found}"
    if "://" in url:
        assert readiness(a_model("openai/x", api_base=url)).missing == f"the endpoint of llm.yaml {NO_URLS[url]}"


ENVIRONMENT = {
    "OLLAMA_HOST": "second", "OLLAMA_API_BASE": "http://first:1", "OPENAI_API_VERSION": "preview",
    "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com/", "AZURE_OPENAI_API_KEY": "k",
}  # fmt: skip


def test_the_file_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint("ollama/x").url == "http://127.0.0.1:11434"
    assert endpoint("azure/x").api_version == "v1"
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert endpoint("ollama/x").url == "http://first:1"
    assert endpoint("ollama/x", api_base="http://written:2").url == "http://written:2"
    note = "key from AZURE_OPENAI_API_KEY, endpoint from AZURE_OPENAI_ENDPOINT, api_version preview"
    assert readiness(a_model("azure/x")) == Readiness(ready=True, note=note)
    written = {"api_base": "https://other.openai.azure.com", "api_version": "2025-01-01"}
    assert endpoint("azure/x", **written) == (written["api_base"], "llm.yaml", "2025-01-01")
    assert endpoint("openai/x").api_version is None


OWN_HOSTS = {
    ("https://eu.api.openai.com/v1", "openai"): True, ("https://r.openai.azure.com", "azure"): True,
    ("https://xapi.openai.com", "openai"): False, ("https://api.openai.com.evil.example", "openai"): False,
    ("https://r.azure-api.net", "azure"): False, ("https://anything.example", "embedded"): False,
}  # fmt: skip
LOOPBACK = ("http://localhost:1/v1", "http://LOCALHOST", "http://127.8.9.1:80", "http://[::1]:80")
NOT_LOOPBACK = (
    "http://127.0.0.1.evil.example", "http://localhost@evil.example", "http://127.0.0.1:80@evil.example",
    "http://localhost.evil.example", "http://0.0.0.0", "http://192.168.1.2", "http://[::1", "${VAR}", "",
)  # fmt: skip


def test_a_url_that_only_looks_like_loopback_or_a_providers_host_is_not() -> None:
    assert all(map(is_loopback, LOOPBACK))
    assert not any(map(is_loopback, NOT_LOOPBACK))
    assert {(url, name): is_own_host(url, provider_of(a_model(f"{name}/x"))) for url, name in OWN_HOSTS} == OWN_HOSTS


LAN, HERE = {"api_base": "http://192.168.1.9:11434"}, {"api_base": "http://127.0.0.1:8080/v1"}
LOCAL: list[tuple[str, dict[str, Any], bool, int]] = [
    ("ollama/qwen3:8b", {}, True, 600), ("ollama/qwen3:8b", LAN, False, 600),
    ("ollama/qwen3:8b", {**LAN, "local": True}, True, 600), ("ollama/qwen3:8b", {"local": False}, False, 600),
    ("ollama/gpt-oss:120b-cloud", {"local": True}, False, 600), ("ollama/kimi:cloud", {}, False, 120),
    ("ollama/soundcloud:7b", {}, True, 600), ("embedded/smollm2-135m", {}, True, 600), ("openai/x", HERE, False, 120),
    ("openai/x", {**HERE, "local": True}, True, 600), ("lm_studio/x", {}, False, 120),
]  # fmt: skip


def test_only_a_model_server_on_loopback_is_local_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for reference, fields, local, timeout in LOCAL:
        model = a_model(reference, **fields)
        assert (is_local(model), timeout_of(model)) == (local, timeout), (reference, fields)
    monkeypatch.setenv("OLLAMA_HOST", "gpu-box")
    assert not is_local(a_model("ollama/qwen3:8b"))


def test_what_a_row_lacks_is_named_with_its_fix(own_table: None) -> None:
    for reference in ("azure/x", "hosted_vllm/x", "litellm_proxy/x", "azure_ai/x"):
        found = readiness(a_model(reference))
        assert "needs an endpoint" in found.missing
        assert "`api_base:` in llm.yaml, or set " in found.fix
    register_provider(Provider(name="needy", client="handler", required=("api_version",), key_required=False))
    register_provider(Provider(name="nowhere", key_required=False))
    register_provider(Provider(name="keyless", default_base="https://keyless.example"))
    assert readiness(a_model("needy/x")).fix == "add `api_version:` in llm.yaml"
    assert readiness(a_model("needy/x", api_version="1")).ready
    assert readiness(a_model("nowhere/x")).missing == "nowhere needs an endpoint"
    assert readiness(a_model("keyless/x")).fix == "name its variable in llm.yaml: api_key_env: <VARIABLE>"
    found = readiness(a_model("azure/x", api_base="${MY_BASE}", unset=("MY_BASE",)))
    assert found.missing == "MY_BASE is not set; none of AZURE_API_KEY, AZURE_OPENAI_API_KEY is set"
    assert found.fix == "export MY_BASE='your value'; then export AZURE_API_KEY='your key'"


def test_ollama_behind_the_openai_wire_is_refused_without_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `/v1` cannot set the context length and cuts prompts silently; a given window allows it."""
    found = readiness(a_model("openai/qwen3:8b", api_base="http://localhost:11434/v1"))
    assert "cuts longer prompts silently" in found.missing
    assert "`model: ollama/qwen3:8b`" in found.fix
    assert readiness(a_model("openai/q", api_base="http://localhost:11434/v1", context_window=8192)).ready
    monkeypatch.setenv("OLLAMA_HOST", "box:7777")
    assert not readiness(a_model("openai/q", api_base="http://box:7777/v1")).ready
    assert readiness(a_model("openai/q", api_base="http://box:7778/v1")).ready


def test_providers_that_sign_need_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert readiness(a_model("bedrock/anthropic.claude")).ready
    monkeypatch.delenv("VERTEXAI_PROJECT", raising=False)
    assert "VERTEXAI_PROJECT" in readiness(a_model("vertex_ai/gemini")).missing
    monkeypatch.setenv("VERTEXAI_PROJECT", "p")
    assert readiness(a_model("vertex_ai/gemini")).ready


def test_probes_are_remembered_for_some_seconds(own_table: None) -> None:
    probe, now = Mock(side_effect=[Missing("down", "start it"), None, None, None]), 100.0
    register_provider(Provider(name="probed", default_base="https://p.example", key_required=False, probe=probe))
    probes, one = Probes(remember=5, clock=lambda: now), a_model("probed/one")
    assert readiness(one, probes=probes).missing == "down"
    now = 104.9
    assert readiness(one, probes=probes).fix == "start it"
    assert readiness(a_model("probed/two"), probes=probes).ready
    assert probe.call_count == 2
    now = 105.1
    assert readiness(one, probes=probes).ready
    probes.forget()
    assert readiness(one, probes=probes).ready
    assert probe.call_count == 4
