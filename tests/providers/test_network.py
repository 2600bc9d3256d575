"""Proxies and certificates of the environment: their effect, and errors for invalid values."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import faults
import httpx
import pytest
from fault_server import Endpoint, FaultServer
from gateway_kit import MODES as GATEWAY_MODES
from gateway_kit import Attempts, request, target
from manager_kit import Make, model, program

from testronaut_llm import errors
from testronaut_llm.providers import network
from testronaut_llm.providers.network import client_settings, importable, proxy_for
from testronaut_llm.providers.network import problems as environment_problems
from testronaut_llm.testing.network import NetworkGuard

pytestmark = pytest.mark.usefixtures("provider_keys")

ELSEWHERE = "https://models.example.com"
WIRES = ("openai", "azure", "azure v1", "anthropic")

BROKEN: dict[str, tuple[str, str]] = {
    "certificates missing": ("SSL_CERT_FILE", "/no/such/file.pem"),
    "no certificates": ("SSL_CERT_FILE", __file__),
    "folder missing": ("SSL_CERT_DIR", "/no/such/folder"),
    "key log nowhere": ("SSLKEYLOGFILE", "/no/such/folder/keys"),
    "socks": ("ALL_PROXY", "socks://user:hunter2@proxy:1080"),
    "socks in small letters": ("all_proxy", "socks://proxy:1080"),
    "ftp": ("HTTPS_PROXY", "ftp://user:hunter2@proxy"),
    "no port": ("https_proxy", "user:hunter2@proxy:80a"),
    "password with a slash": ("HTTPS_PROXY", "http://user:hunter2/x@proxy:80"),
    "half an address": ("HTTPS_PROXY", "http://[::1"),
    "no host": ("HTTP_PROXY", "http://"),
    "control character": ("HTTPS_PROXY", "http://pro\x01xy:80"),
    "socks without its package": ("ALL_PROXY", "socks5h://user:hunter2@proxy:1080"),
}


@pytest.fixture(autouse=True)
def _no_socksio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acts as if `httpx[socks]` is not installed."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    find = network.importlib.util.find_spec
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda name: None if name == "socksio" else find(name))


@pytest.fixture
def trap(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """A proxy that answers each request itself, named by HTTP_PROXY."""
    proxy = server.plan("proxy", faults.raw(200, b"{}"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    return proxy


@pytest.mark.parametrize(("variable", "value"), BROKEN.values(), ids=BROKEN)
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
    assert [fault for fault in environment_problems() if variable in fault]
    for url in ("http://127.0.0.1:9", "http://localhost:9/v1", "http://[::1]:9"):
        httpx.Client(**client_settings(url)).close()
        asyncio.run(httpx.AsyncClient(**client_settings(url, asynchronous=True)).aclose())


ROUTES = [
    ("", "http://api.corp/", False), ("x, * ", "http://api.corp/", True), ("API.Corp", "http://api.corp/", True),
    ("api.corp", "http://notapi.corp/", False), ("corp", "http://api.corp/", True), (".corp", "http://api.corp/", True),
    ("*.corp", "http://api.corp/", True), ("*.corp", "http://api.corp.example/", False),
    ("other api.corp", "http://api.corp/", True), ("http://api.corp", "http://api.corp/", True),
    ("api.corp:8080", "http://api.corp:8080/", True), ("api.corp:8080", "http://api.corp/", False),
    ("10.0.0.0/8", "http://10.1.2.3/", True), ("10.0.0.0/8", "http://11.1.2.3/", False),
    ("fd00::5", "http://[fd00::5]/", True), ("[fd00::]/8", "http://[fd12::5]/", True),
    ("[fd00::5]:81", "http://[fd00::5]:81/", True), ("[fd00::5]:81", "http://[fd00::5]/", False),
    ("host:80a,[::1,http://[::1,:,xn--,/,api.corp", "http://api.corp/", True),
    ("host:80a,[::1,http://[::1,::1/128", "http://api.corp/", False),
]  # fmt: skip


@pytest.mark.parametrize(("no_proxy", "url", "direct"), ROUTES)
def test_each_form_of_no_proxy(
    trap: Endpoint, network: NetworkGuard, monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, direct: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", no_proxy)

    def get() -> None:
        with httpx.Client(**client_settings(url)) as client:
            client.get(url)

    async def aget() -> None:
        async with httpx.AsyncClient(**client_settings(url, asynchronous=True)) as client:
            await client.get(url)

    for way in (get, lambda: asyncio.run(aget())):
        # Without a proxy there is no network to go to.
        with pytest.raises(httpx.ConnectError) if direct else contextlib.nullcontext():
            way()
    assert len(trap.requests) == (0 if direct else 2)
    assert bool(network.blocked) is direct
    network.blocked.clear()


def test_a_redirect_to_loopback_takes_no_proxy(trap: Endpoint, server: FaultServer) -> None:
    here = server.plan("here", faults.raw(200, b"here"))
    for host in ("127.0.0.1", "localhost"):
        url = here.url.replace("127.0.0.1", host)
        with httpx.Client(**client_settings("http://api.corp", redirects=True)) as client:
            assert client.get(url).content == b"here"
    assert trap.requests == []


PROXIES = [
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


@pytest.mark.parametrize(("environment", "url", "expected"), PROXIES)
def test_which_proxy_serves_a_url(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], url: str | None, expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(proxy_for(url)) == expected


@pytest.mark.parametrize("mode", GATEWAY_MODES)
@pytest.mark.parametrize("url", ["http://models.example.com", ELSEWHERE])
@pytest.mark.parametrize("wire", WIRES)
def test_a_proxy_that_wants_a_password_is_named(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, wire: str, url: str, mode: str
) -> None:
    proxy = server.plan("proxy", faults.raw(407, b"<html>no</html>", "text/html"))
    variable = "HTTPS_PROXY" if url.startswith("https") else "HTTP_PROXY"
    monkeypatch.setenv(variable, proxy.url.replace("://", "://user:hunter2@"))
    attempt = Attempts()
    _, reply = attempt(request(target(wire, url)), mode)
    attempt.close()
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
    rows = {wire.replace(" ", "-"): model(wire, ELSEWHERE) for wire in WIRES}
    clouds = [*rows]
    rows["here"] = model("openai", api("here", faults.good()))
    tasks = {"t": {"models": [*rows], "strategy": "as_listed"}, "e": {"models": ["here"]}}
    (tmp_path / "llm.yaml").write_text(json.dumps({"models": rows, "tasks": tasks}))
    worst = {variable: value for variable, value in BROKEN.values() if "\x01" not in value}
    worst |= {"NO_PROXY": "[::1]", "SSL_CERTIFICATE": "/no/such", "SSL_SECURITY_LEVEL": "junk"}
    worst["OLLAMA_HOST"] = "http://[x"
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
