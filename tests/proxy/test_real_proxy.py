"""The exported configuration in the real LiteLLM proxy, on loopback, in front of the embedded server.

`litellm[proxy]` is large and may live in an environment of its own: TESTRONAUT_LLM_PROXY names its command.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from fault_server import refused
from pydantic import BaseModel

from testronaut_llm import LLMManager
from testronaut_llm.cli import main
from testronaut_llm.errors import AllModelsFailedError, InvalidRequestError, RateLimitError
from testronaut_llm.local.local_provider import Endpoint

PROXY = os.environ.get("TESTRONAUT_LLM_PROXY") or ""
pytestmark = pytest.mark.skipif(
    not shutil.which(PROXY),
    reason="no proxy: pip install 'litellm[proxy]' anywhere, and set TESTRONAUT_LLM_PROXY to its `litellm` command",
)
MASTER = "sk-master-0123456789abcdefghijkl"


class Option(BaseModel):
    flag: str
    meaning: str


ONE_MACHINE = """version: 1
models:
  tiny: {{model: openai/tiny, quality: 3, {reach}}}
  down: {{model: openai/down, api_base: "{down}/v1", price: {{input: 1, output: 2}}}}
  rare: {{model: openai/tiny, limits: {{rpm: 1}}, {reach}}}
tasks:
  default: {{models: [tiny], max_tokens: 300, cache: "off"}}
  unlucky: {{models: [down, tiny], strategy: as_listed, max_tokens: 300, cache: "off", retries: 0}}
  limited: {{models: [rare], max_tokens: 20, allow_truncated: true, cache: "off", retries: 0}}
"""
REACH = 'api_base: "{}", api_key_env: TINY_KEY, price: {{input: 1, output: 2}}, context_window: 8192'


@pytest.fixture(scope="module")
def team(embedded_server: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The llm.yaml of one machine, and the same file with each model behind the proxy."""
    folder = tmp_path_factory.mktemp("team")
    alone, behind, proxy = folder / "llm.yaml", folder / "behind.yaml", folder / "proxy.yaml"
    alone.write_text(ONE_MACHINE.format(reach=REACH.format(embedded_server.api_base), down=refused()))
    with pytest.MonkeyPatch.context() as patch:
        url = refused()
        patch.setenv("TINY_KEY", embedded_server.token)
        patch.setenv("LITELLM_PROXY_API_BASE", url)
        patch.setenv("LITELLM_PROXY_API_KEY", MASTER)
        patch.setattr(sys, "argv", ["testronaut-llm", "export", "litellm-proxy", "-c", str(alone), "--out", str(proxy)])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert embedded_server.token not in proxy.read_text()
        head = [line[3:] for line in proxy.read_text().splitlines() if "{model: litellm_proxy/" in line]
        config = yaml.safe_load(alone.read_text())
        config["models"] |= yaml.safe_load("\n".join(head))
        config["models"]["unlucky"] = config["models"]["tiny"] | {"model": "litellm_proxy/unlucky"}
        config["tasks"]["unlucky"]["models"] = ["unlucky"]
        behind.write_text(yaml.safe_dump(config))
        with _running(proxy, url, {"TINY_KEY": embedded_server.token, "LITELLM_MASTER_KEY": MASTER}):
            yield alone, behind


@contextlib.contextmanager
def _running(config: Path, url: str, keys: dict[str, str]) -> Iterator[None]:
    log = config.with_suffix(".log")
    usual = {"PATH": os.environ["PATH"], "HOME": str(config.parent), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [PROXY, "--config", str(config), "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    with log.open("wb") as said, subprocess.Popen(command, env=usual | keys, stdout=said, stderr=said) as process:
        try:
            until = time.monotonic() + 150  # it imports a lot
            while not _alive(url):
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-4000:]  # noqa: PT018
                time.sleep(0.2)
            yield
        finally:
            process.kill()


def _alive(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health/liveliness", trust_env=False).status_code == 200
    return False


def test_a_moved_row_gives_the_same_answer(team: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line of llm.yaml changed, the same weights answer the same through the proxy, at the same price."""
    question = "What does ls do?"
    with LLMManager(team[0]) as alone, LLMManager(team[1]) as behind:
        here, there = alone.complete(None, question), behind.complete(None, question)
        with behind.stream(None, question) as stream:
            assert "".join(stream) == there.text == here.text
        assert (there.usage.prompt_tokens, there.cost) == (here.usage.prompt_tokens, here.cost)
        assert there.cost
        shaped = [one.complete(None, "Name one option of ls.", schema=Option).parsed for one in (alone, behind)]
        assert shaped[0] == shaped[1]
        # The first model of this task refuses connections: the proxy asks the second, and the caller sees one attempt.
        (attempt,) = (answer := behind.complete("unlucky", question)).attempts
        assert (attempt.error, answer.text) == (None, there.text)
    # A stranger on the network spends nothing; without a database the proxy says so with a 400, not a 401.
    monkeypatch.setenv("LITELLM_PROXY_API_KEY", "sk-wrong-0123456789abcdefghijklm")
    with LLMManager(team[1]) as behind, pytest.raises(InvalidRequestError, match="No connected db"):
        behind.complete(None, "hi")


def test_a_limit_holds_for_all_callers(team: tuple[Path, Path]) -> None:
    """At one request a minute, one of two callers is refused (or of four, at the turn of a minute)."""
    said: list[object] = []
    for number in range(4):
        with LLMManager(team[1]) as one:
            try:
                said.append(one.complete("limited", f"hello {number}").text)
            except AllModelsFailedError as refused:
                said.append(refused.last)
    assert isinstance(said[0], str)
    assert [one for one in said if isinstance(one, RateLimitError)]
