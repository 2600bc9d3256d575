"""The fixtures `llm` and `fake_llm` in a project of its own, from the first recording to a keyless replay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from fault_server import Endpoint, FaultServer

from testronaut_llm import LLMManager
from testronaut_llm.testing import session_budget  # noqa: F401 - for the inner runs, see below
from testronaut_llm.testing.cassettes import use_cassette
from testronaut_llm.testing.fake import FakeLLM

CONFIG = """
version: 1
models:
  cloud: {{model: openai/gpt-a, api_base: "{url}/v1", api_key_env: ACME_API_KEY, price: {{input: 1, output: 2}}}}
  near:  {{model: ollama/llama-a, api_base: "{url}"}}
tasks:
  cli_analysis: {{models: [cloud, near], strategy: as_listed, max_tokens: 100}}
  local: {{models: [near], max_tokens: 100}}
"""
TEST = """
    def test_text(llm):
        assert llm.complete("cli_analysis", "What does ls do?").text == "It lists files."

    async def test_async(llm):
        answer = await llm.acomplete("local", "What does ls do?")
        assert answer.text == "It lists files."

    def test_fake(fake_llm):
        fake_llm.reply("Made up.")
        answer = fake_llm.complete("cli_analysis", "What does ls do?")
        assert (answer.text, answer.model) == ("Made up.", "cloud")
        assert answer.cost > 0
"""


class Project:
    """A project with an llm.yaml and tests that use the fixtures."""

    def __init__(self, pytester: pytest.Pytester, server: FaultServer) -> None:
        self.pytester = pytester
        self.api = _api(server)
        pytester.makeconftest("pytest_plugins = ['testronaut_llm.testing.plugin']")
        pytester.makeini("[pytest]\nllm_config = llm.yaml\nasyncio_mode = auto\n")
        pytester.makepyfile(test_it=TEST)
        (pytester.path / "llm.yaml").write_text(CONFIG.format(url=self.api.url))

    def run(self, *options: str) -> pytest.RunResult:
        scope = "asyncio_default_fixture_loop_scope=function"
        return self.pytester.runpytest_inprocess("-p", "no:randomly", "-o", scope, *options)


@pytest.fixture(scope="module", autouse=True)
def _import_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the inner runs need is imported before them: pytest forgets what they import."""
    folder = tmp_path_factory.mktemp("warm")
    with (
        pytest.MonkeyPatch.context() as patch,
        FaultServer() as server,
        use_cassette(folder / "warm.yaml", mode="once"),
    ):
        patch.setenv("ACME_API_KEY", "a-key")
        patch.setenv("TESTRONAUT_LLM_HOME", str(folder))
        (folder / "llm.yaml").write_text(CONFIG.format(url=_api(server).url))
        with LLMManager(folder / "llm.yaml") as llm:
            for model in ("cloud", "near"):
                llm.complete("cli_analysis", "?", model=model)
                asyncio.run(llm.acomplete("cli_analysis", "??", model=model))
        FakeLLM()


def _api(server: FaultServer) -> Endpoint:
    tags = faults.raw(200, b'{"models": [{"name": "llama-a:latest", "model": "llama-a:latest", "digest": "d"}]}')
    good = faults.good("It lists files.")
    return server.plan("api", lambda e: (tags if e.request.path == "/api/tags" else good)(e))


@pytest.fixture
def project(pytester: pytest.Pytester) -> Iterator[Project]:
    with FaultServer() as server:
        yield Project(pytester, server)


def test_a_recording_replays_without_key_and_server(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded once with a key, replayed for ever without: no key, no server, no question whether it is there."""
    monkeypatch.setenv("ACME_API_KEY", "a-real-key-0123456789")
    project.run("--llm-record=once").assert_outcomes(passed=3)
    recorded = [request.path for request in project.api.requests]
    assert recorded.count("/v1/chat/completions") == 1
    assert recorded.count("/api/chat") == 1
    monkeypatch.delenv("ACME_API_KEY")
    project.api.plan(faults.error("server_error"))
    result = project.run()
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert project.api.requests == []
    text = "".join(path.read_text() for path in Path("cassettes").rglob("*.yaml"))
    assert "0123456789" not in text
    assert "/api/tags" not in text


def test_a_second_run_is_not_answered_by_a_cache(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recording asks the server anew: a cache of another test, or of the user, never answers for it."""
    monkeypatch.setenv("ACME_API_KEY", "a-real-key-0123456789")
    for _ in range(2):
        project.run("--llm-record=refresh", "-k", "test_text").assert_outcomes(passed=1, deselected=2)
    assert [request.path for request in project.api.requests].count("/v1/chat/completions") == 2


def test_recording_keeps_to_the_session_budget(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """All recording together may cost so much and no more; a replay costs nothing and knows no limit."""
    monkeypatch.setenv("ACME_API_KEY", "a-real-key-0123456789")
    project.pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.mark.parametrize("n", range(4))
        def test_text(llm, n):
            llm.complete("cli_analysis", f"What is {n}?", model="cloud")
        """
    )
    project.api.plan(faults.good("x", usage=(10, 100)))
    result = project.run("--llm-record=once", "--llm-budget=0.0009")
    assert 0 < result.parseoutcomes()["passed"] < 4
    result.stdout.fnmatch_lines(["*BudgetExceededError*--llm-budget=USD*"])


def test_a_rejected_recording_names_what_to_do(project: Project) -> None:
    """Without a cassette the fixture fails closed, with the option that records."""
    result = project.run("-k", "test_text")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*CassetteMissError*", "*--llm-record=once*"])
    assert project.api.requests == []


def test_the_fake_needs_no_configuration(pytester: pytest.Pytester) -> None:
    """In a project without llm.yaml the fixture `fake_llm` has one free model."""
    pytester.makeconftest("pytest_plugins = ['testronaut_llm.testing.plugin']")
    pytester.makepyfile(
        "def test_it(fake_llm):\n    fake_llm.reply('x')\n    assert fake_llm.complete(None, '?').cost == 0\n"
    )
    pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:asyncio").assert_outcomes(passed=1)


def test_it_is_there_as_soon_as_the_package_is_installed(pytester: pytest.Pytester) -> None:
    """A project that has the package installed names the fixture and gets it, without a conftest."""
    pytester.makepyfile(
        "def test_it(fake_llm):\n    fake_llm.reply('x')\n    assert fake_llm.complete(None, '?').text == 'x'\n"
    )
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=1)
