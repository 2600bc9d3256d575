"""The fixtures `llm_manager` and `llm_fake` in a project of its own, from the first recording to a keyless replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from doc_blocks import blocks
from fault_server import Endpoint, FaultServer
from fixtures_local import stored
from source_tree import ROOT

from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.testing import offline  # noqa: F401 - for the inner runs, see `_import_once`

PAGE = ROOT / "docs" / "how-to" / "test-your-code.md"
KEY = "a-real-key-0123456789"
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
    def test_text(llm_manager):
        assert llm_manager.complete("cli_analysis", "What does ls do?").text == "It lists files."

    async def test_async(llm_manager):
        answer = await llm_manager.acomplete("local", "What does ls do?")
        assert answer.text == "It lists files."

    def test_fake(llm_fake):
        llm_fake.reply("Made up.")
        answer = llm_fake.complete("cli_analysis", "What does ls do?")
        assert (answer.text, answer.model) == ("Made up.", "cloud")
        assert answer.cost > 0
"""


class Project:
    """A project with an llm.yaml and tests that use the fixtures."""

    def __init__(self, pytester: pytest.Pytester, api: Endpoint) -> None:
        self.pytester, self.api = pytester, api
        pytester.makeini("[pytest]\nllm_config = llm.yaml\nasyncio_mode = auto\n")
        pytester.makepyfile(test_it=TEST)
        (pytester.path / "llm.yaml").write_text(CONFIG.format(url=api.url))

    def run(self, *options: str) -> pytest.RunResult:
        return run(self.pytester, *options)

    @property
    def chats(self) -> list[str]:
        return [one.path for one in self.api.requests if one.path.endswith(("/completions", "/api/chat"))]


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    """A pytest run in this process, with the plugin."""
    pytester.makeconftest("pytest_plugins = ['testronaut_llm.testing.plugin']")
    scope = "asyncio_default_fixture_loop_scope=function"
    return pytester.runpytest_inprocess("-p", "no:randomly", "-o", scope, *options)


@pytest.fixture(scope="module", autouse=True)
def _import_once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the inner runs need is imported before them: pytest forgets what they import."""
    from testronaut_llm import LLMManager
    from testronaut_llm.testing.cassettes import use_cassette
    from testronaut_llm.testing.fake import FakeLLM

    folder = tmp_path_factory.mktemp("warm")
    with (
        pytest.MonkeyPatch.context() as patch,
        FaultServer() as server,
        use_cassette(folder / "warm.yaml", mode="once"),
    ):
        patch.setenv("ACME_API_KEY", KEY)
        patch.setenv("TESTRONAUT_LLM_HOME", str(folder))
        (folder / "llm.yaml").write_text(CONFIG.format(url=_api(server).url))
        with LLMManager(folder / "llm.yaml") as llm:
            for model in ("cloud", "near"):
                llm.complete("cli_analysis", "?", model=model)
        FakeLLM()


def _api(server: FaultServer) -> Endpoint:
    tags = faults.raw(200, b'{"models": [{"name": "llama-a:latest", "model": "llama-a:latest", "digest": "d"}]}')
    good = faults.good("It lists files.", usage=(10, 100))
    return server.plan("api", lambda e: (tags if e.request.path == "/api/tags" else good)(e))


@pytest.fixture
def project(pytester: pytest.Pytester) -> Iterator[Project]:
    with FaultServer() as server:
        yield Project(pytester, _api(server))


def test_a_recording_replays_without_key_and_server(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with a key, replayed without: no key, no server, no question whether it is there. No cache answers."""
    rejected = project.run("-k", "test_text")
    rejected.assert_outcomes(failed=1, deselected=2)
    rejected.stdout.fnmatch_lines(["*CassetteMissError*", "*--llm-record=once*"])
    assert project.api.requests == []
    monkeypatch.setenv("ACME_API_KEY", KEY)
    project.run("--llm-record=once").assert_outcomes(passed=3)
    assert sorted(project.chats) == ["/api/chat", "/v1/chat/completions"]
    project.run("--llm-record=refresh", "-k", "test_text").assert_outcomes(passed=1, deselected=2)
    assert project.chats.count("/v1/chat/completions") == 2
    monkeypatch.delenv("ACME_API_KEY")
    project.api.plan(faults.error("server_error"))
    result = project.run()
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert project.api.requests == []
    text = "".join(path.read_text() for path in Path("cassettes").rglob("*.yaml"))
    assert [word for word in (KEY, "/api/tags") if word in text] == []


@pytest.mark.parametrize(("budget", "passed"), [("0.0009", 2), ("0", 0)])
def test_recording_keeps_to_the_session_budget(
    project: Project, monkeypatch: pytest.MonkeyPatch, budget: str, passed: int
) -> None:
    """All recording together may cost so much and no more, in whatever ledger the user has."""
    monkeypatch.setenv("ACME_API_KEY", KEY)
    project.pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.mark.parametrize("n", range(4))
        def test_text(llm_manager, n):
            llm_manager.complete("cli_analysis", f"What is {n}?", model="cloud")
        """
    )
    result = project.run("--llm-record=once", f"--llm-budget={budget}")
    result.assert_outcomes(passed=passed, failed=4 - passed)
    result.stdout.fnmatch_lines(["*BudgetExceededError*", "*--llm-budget=USD*"])
    assert len(project.chats) == passed


def test_the_examples_of_the_page_hold(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    """By rule at once; recorded from a real llama.cpp, then without it; and without a recording they fail closed.

    A model of random weights, which needs no download, stands in for the small one.
    """
    code, by_rule, recorded = (one.text for one in blocks("python", PAGE))
    (settings,), (ini,) = blocks("yaml", PAGE), blocks("ini", PAGE)
    pytester.makepyfile(explain=code, test_by_rule=by_rule, test_recorded=recorded)
    (pytester.path / "llm.yaml").write_text(settings.text.replace("smollm2-135m", "tiny-random"))
    (pytester.path / "pytest.ini").write_text(ini.text)
    monkeypatch.syspath_prepend(str(pytester.path))
    bare = run(pytester)
    bare.assert_outcomes(passed=3, failed=1)
    bare.stdout.fnmatch_lines(["*--llm-record*"])
    stored(ModelStore(), tiny_gguf)
    run(pytester, "--llm-record=once").assert_outcomes(passed=4)
    (cassette,) = (pytester.path / "cassettes").rglob("*.yaml")
    assert cassette.relative_to(pytester.path).as_posix() in PAGE.read_text("utf-8")
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(pytester.path / "nothing is here"))
    run(pytester).assert_outcomes(passed=4)
