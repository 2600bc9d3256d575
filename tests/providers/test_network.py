"""Proxies and certificates of the environment: their effect, and errors for invalid values."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
from pathlib import Path
from unittest.mock import patch

import faults
import httpx
import pytest
from fault_server import Endpoint, FaultServer
from gateway_kit import WIRES, attempt, request, target
from manager_kit import Make, model, program

from testronaut_llm import errors
from testronaut_llm.providers.network import client_settings, importable, problems, proxy_for
from testronaut_llm.testing.cassettes import NetworkGuard

pytestmark = pytest.mark.usefixtures("provider_keys")

ELSEWHERE = "https://models.example.com"
REMOTE = WIRES[:-1]  # not Ollama

BROKEN = [
    ("SSL_CERT_FILE", "/no/such/file.pem"), ("SSL_CERT_FILE", __file__), ("SSL_CERT_DIR", "/no/such/folder"),
    ("SSLKEYLOGFILE", "/no/such/folder/keys"), ("ALL_PROXY", "socks://user:hunter2@proxy:1080"),
    ("ALL_PROXY", "socks5h://user:hunter2@proxy:1080"), ("HTTPS_PROXY", "ftp://user:hunter2@proxy"),
    ("https_proxy", "user:hunter2@proxy:80a"), ("HTTPS_PROXY", "http://user:hunter2/x@proxy:80"),
    ("HTTPS_PROXY", "http://pro\x01xy:80"), ("HTTP_PROXY", "http://"),
]  # fmt: skip


@pytest.fixture
def trap(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """A proxy that answers each request itself, named by HTTP_PROXY."""
    proxy = server.plan("proxy", faults.raw(200, b"{}"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    return proxy


@pytest.mark.parametrize(("variable", "value"), BROKEN)
def test_a_value_of_no_use_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    for url in (ELSEWHERE, None):
        with pytest.raises(errors.ConnectionFailedError) as caught:
            client_settings(url)
        assert variable in str(caught.value)
        assert "; " in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.verdict is errors.Verdict.NEXT
    assert [fault for fault in problems() if variable in fault]
    for url in ("http://127.0.0.1:9", "http://localhost:9/v1", "http://[::1]:9"):
        httpx.Client(**client_settings(url)).close()
        asyncio.run(httpx.AsyncClient(**client_settings(url, asynchronous=True)).aclose())


ROUTES = [
    ("", "http://api.corp/", False), ("x, * ", "http://api.corp/", True), ("API.Corp", "http://api.corp/", True),
    ("api.corp", "http://notapi.corp/", False), ("x corp", "http://api.corp/", True),
    (".corp", "http://api.corp/", True), ("*.corp", "http://api.corp/", True), ("*.corp", "http://api.corp.x/", False),
    ("http://api.corp", "http://api.corp/", True), ("10.0.0.0/8", "http://10.1.2.3/", True),
    ("api.corp:8080", "http://api.corp:8080/", True), ("api.corp:8080", "http://api.corp/", False),
    ("10.0.0.0/8", "http://11.1.2.3/", False), ("fd00::5", "http://[fd00::5]/", True),
    ("[fd00::]/8", "http://[fd12::5]/", True), ("[fd00::5]:81", "http://[fd00::5]:81/", True),
    ("[fd00::5]:81", "http://[fd00::5]/", False), ("host:80a,[::1,http://[::1,:,xn--,/,corp", "http://api.corp/", True),
    ("host:80a,[::1,http://[::1,::1/128", "http://api.corp/", False),
]  # fmt: skip


@pytest.mark.parametrize(("no_proxy", "url", "direct"), ROUTES)
def test_each_form_of_no_proxy(
    trap: Endpoint, llm_network: NetworkGuard, monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, direct: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)
    ends = pytest.raises(httpx.ConnectError) if direct else contextlib.nullcontext()  # there is no network to go to
    with httpx.Client(**client_settings(url)) as client, ends:
        client.get(url)
    assert (len(trap.requests), bool(llm_network.blocked)) == (not direct, direct)
    llm_network.blocked.clear()


def test_a_redirect_may_lead_to_loopback_or_to_https(trap: Endpoint, server: FaultServer) -> None:
    here = server.plan("here", faults.raw(200, b"here"))
    for host in ("127.0.0.1", "localhost"):
        url = here.url.replace("127.0.0.1", host)
        with httpx.Client(**client_settings("http://api.corp", redirects=True)) as client:
            assert client.get(url).content == b"here"
    assert trap.requests == []
    assert client_settings("http://api.corp", redirects=True)["verify"].cert_store_stats()["x509"]  # for https


PROXIES: list[tuple[dict[str, str], str | None, str]] = [
    ({"HTTPS_PROXY": " a:1 "}, "https://x", "http://a:1 (HTTPS_PROXY)"),
    ({"HTTPS_PROXY": "http://user:hunter2@a:1"}, None, "http://a:1 (HTTPS_PROXY)"),
    ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "https://x", "http://b:1 (https_proxy)"),
    ({"HTTPS_PROXY": "http://a:1", "https_proxy": ""}, "https://x", "None"),
    ({"HTTPS_PROXY": "http://a:1"}, "http://x", "None"),
    ({"ALL_PROXY": "http://c:1", "HTTPS_PROXY": "http://a:1"}, "http://x", "http://c:1 (ALL_PROXY)"),
    ({"ALL_PROXY": "socks://c:1", "HTTP_PROXY": "http://d:1", "HTTPS_PROXY": "http://a:1"}, "https://x",
     "http://a:1 (HTTPS_PROXY)"),
    ({"HTTPS_PROXY": "http://a:1"}, "https://127.0.0.1", "None"),
    ({"HTTPS_PROXY": "socks://a:1"}, "https://x", "None"),
]  # fmt: skip


def test_which_proxy_serves_a_url() -> None:
    for environment, url, expected in PROXIES:
        with patch.dict(os.environ, environment):
            assert str(proxy_for(url)) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("url", ["http://models.example.com", ELSEWHERE])
@pytest.mark.parametrize("wire", REMOTE)
async def test_a_proxy_that_wants_a_password_is_named(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, wire: str, url: str, stream: bool
) -> None:
    proxy = server.plan("proxy", faults.raw(407, b"<html>no</html>", "text/html"))
    variable = "HTTPS_PROXY" if url.startswith("https") else "HTTP_PROXY"
    monkeypatch.setenv(variable, proxy.url.replace("://", "://user:hunter2@"))
    _, reply = await attempt(request(target(wire, url), stream=stream))
    assert isinstance(reply.error, errors.ConnectionFailedError)
    assert f"the proxy {proxy.url} ({variable})" in str(reply.error)
    assert "hunter2" not in str(reply.error)
    assert (reply.error.status, reply.error.verdict) == (407, errors.Verdict.NEXT)


_PROGRAM = """
import os, sys
from testronaut_llm import LLMManager
before = {name: os.environ[name] for name in sys.argv[2:]}
with LLMManager(sys.argv[1]) as llm:
    answer = llm.complete("t", "hi", cache="off")
    print(answer.text, llm.embed("e", ["hi"]).model)
    print(*(f"{one.model} {type(one.error).__name__} {one.cost}" for one in answer.attempts[:-1]), sep="\\n")
print({name: os.environ[name] for name in before} == before)
"""


def test_litellm_is_imported_in_the_worst_environment(api: Make, tmp_path: Path) -> None:
    """The variables that break `import litellm` are hidden meanwhile; a model on loopback answers, no other is paid."""
    rows = {wire.replace(" ", "-"): model(wire, ELSEWHERE) for wire in REMOTE}
    clouds = [*rows]
    rows["here"] = model("openai", api("here", faults.good()))
    tasks = {"t": {"models": [*rows], "strategy": "as_listed"}, "e": {"models": ["here"]}}
    (tmp_path / "llm.yaml").write_text(json.dumps({"models": rows, "tasks": tasks}))
    worst = {**dict(BROKEN), "SSL_CERTIFICATE": "/no/such", "SSL_SECURITY_LEVEL": "junk"}
    worst |= {"NO_PROXY": "[::1]", "OLLAMA_HOST": "http://[x"}
    ran = program("-c", _PROGRAM, tmp_path / "llm.yaml", *worst, env={**os.environ, **worst}, timeout=300)
    said = ["Hello from the fault server. here", *(f"{name} ConnectionFailedError 0" for name in clouds), "True"]
    assert (ran.stdout.splitlines(), ran.returncode) == (said, 0), ran.stderr


def test_a_failed_import_restores_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails.py").write_text("import os\nraise ImportError(os.environ.get('ALL_PROXY'))\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ALL_PROXY", "socks://proxy:1080")
    before = dict(os.environ)
    with pytest.raises(ImportError, match="None"), importable("fails"):
        importlib.import_module("fails")
    with importable("httpx"):
        assert dict(os.environ) == before
