"""The pytest plugin in a separate project: record, replay without key and server, and failures of a run."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import faults
import pytest
from doc_blocks import blocks
from fixtures_local import stored
from manager_kit import Api, Make
from source_tree import ROOT

from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.support.text import usd
from testronaut_llm.testing import cassettes, fake  # noqa: F401 - for the inner runs, see `pytestmark`
from testronaut_llm.testing.cassettes import NetworkGuard

pytestmark = pytest.mark.usefixtures("api")  # imports LiteLLM first: pytest unloads what an inner run imports
PAGE = ROOT / "docs" / "how-to" / "test-your-code.md"
KEY = "a-real-key-0123456789"
CONFIG = """
version: 1
models:
  cloud: {{model: openai/gpt-a, api_base: "{url}/v1", api_key_env: ACME_API_KEY, price: {{input: 1, output: 2}}}}
  near:  {{model: ollama/qwen3:8b, api_base: "{url}"}}
tasks:
  cli_analysis: {{models: [cloud, near], strategy: as_listed, max_tokens: 100}}
  local: {{models: [near], max_tokens: 100}}
"""
TEST = """
    import httpx, pytest

    def ask(text):
        return httpx.post("{url}/v1", json={"prompt": text}, verify=False).json()["prompt"]

    def test_one(llm_cassette):
        assert ask("one") == "one"

    @pytest.mark.parametrize("text", ["a b", "c/d:e"])
    def test_many(llm_cassette, text):
        assert ask(text) == text

    @pytest.mark.llm_cassette("shared/four", recorded_from="the echo server", ignored=["prompt"])
    def test_named(llm_cassette):
        ask("four")
"""
CALLS = """
    def test_text(llm_manager):
        assert llm_manager.complete("cli_analysis", "What does ls do?").text == "It lists files."

    async def test_async(llm_manager):
        answer = await llm_manager.acomplete("local", "What does ls do?")
        assert answer.text == "It lists files."
"""


class Project:
    def __init__(self, pytester: pytest.Pytester, server: Api, test: str) -> None:
        self.pytester, self.server = pytester, server
        pytester.makeconftest("pytest_plugins = ['testronaut_llm.testing.plugin']")
        pytester.makeini("[pytest]\nllm_config = llm.yaml\nasyncio_mode = auto\n")
        (pytester.path / "llm.yaml").write_text(CONFIG.format(url=server.url))
        self.write(test)

    def write(self, test: str) -> None:
        self.pytester.makepyfile(test_it=test.replace("{url}", self.server.url))

    def run(self, *options: str) -> pytest.RunResult:
        scope = "asyncio_default_fixture_loop_scope=function"
        return self.pytester.runpytest_inprocess("-p", "no:randomly", "-o", scope, *options)


@pytest.fixture
def project(pytester: pytest.Pytester, api: Make, llm_network: NetworkGuard) -> Iterator[Project]:
    yield Project(pytester, api("echo", faults.echo), TEST)
    llm_network.blocked.clear()  # of what the inner runs tried


@pytest.fixture
def calls(pytester: pytest.Pytester, api: Make, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("ACME_API_KEY", KEY)
    return Project(pytester, api("api", faults.good("It lists files.", usage=(10, 100))), CALLS)


@pytest.fixture
def recorded(project: Project) -> Project:
    project.run("--llm-record=once").assert_outcomes(passed=4)
    assert len(project.server.requests) == 4
    return project


def test_records_once_then_replays_without_the_server(recorded: Project) -> None:
    folder = recorded.pytester.path / "cassettes"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")) == [
        "shared/four.yaml",
        "test_it/test_many-a-b.yaml",
        "test_it/test_many-c-d-e.yaml",
        "test_it/test_one.yaml",
    ]
    assert "recorded_from: the echo server" in (folder / "shared" / "four.yaml").read_text()
    result = recorded.run()
    result.assert_outcomes(passed=4)
    assert (result.ret, len(recorded.server.requests)) == (0, 4)


def test_without_a_cassette_it_fails_closed(project: Project) -> None:
    result = project.run("-k", "test_one")
    result.assert_outcomes(failed=1, deselected=3)
    lines = result.outlines[next(n for n, line in enumerate(result.outlines) if "__ test_one __" in line) + 1 :]
    assert [line.replace(str(project.pytester.path), "") for line in lines[:4]] == [
        "test_it.py:4: CassetteMissError",
        "POST http://127.0.0.1/v1 is not recorded in /cassettes/test_it/test_one.yaml.",
        "The cassette does not exist.",
        "If the request is right, record it: pytest --llm-record=once 'test_it.py::test_one'",
    ]
    assert "short test summary" in lines[4]
    assert project.server.requests == []


def test_a_changed_prompt_fails_until_it_is_recorded_again(recorded: Project) -> None:
    file = Path("cassettes/test_it/test_one.yaml")
    before = file.read_text()
    recorded.write(TEST.replace('ask("one") == "one"', 'ask("uno") == "one"'))
    recorded.run("--llm-record=refresh").assert_outcomes(passed=3, failed=1)
    assert file.read_text() == before
    recorded.write(TEST.replace('ask("one") == "one"', 'ask("uno") == "uno"'))
    recorded.run().assert_outcomes(passed=3, failed=1)
    recorded.run("--llm-record=refresh", "-k", "test_one").assert_outcomes(passed=1, deselected=3)
    recorded.run().assert_outcomes(passed=4)
    assert "prompt: one" not in file.read_text()


def test_an_unplayed_recording_fails_once(recorded: Project) -> None:
    recorded.write(TEST.replace('assert ask("one") == "one"', "pass"))
    result = recorded.run()
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*UnplayedRecordingError", "*test_one.yaml: recorded but not used: POST /v1*"])
    recorded.write(TEST.replace('assert ask("one") == "one"', "assert 0"))
    recorded.run().assert_outcomes(passed=3, failed=1)


def test_an_orphan_cassette_fails_a_whole_run(recorded: Project) -> None:
    recorded.write(TEST.replace("test_one", "test_renamed"))
    Path("cassettes/test_it/test_one.yaml").rename("cassettes/test_it/test_renamed.yaml")
    Path("cassettes/shared/left.yaml").write_text("version: 1\n")
    result = recorded.run()
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*cassettes that no test uses*", "cassettes/shared/left.yaml"])
    assert recorded.run("-k", "test_many").ret == 0
    assert recorded.run("test_it.py").ret == 0


def test_the_network_is_off_unless_it_records(project: Project) -> None:
    """`llm_block_network` blocks from collection on; with the fixture a swallowed attempt fails the test."""
    swallowed = """
        import contextlib, socket
        def test_it(llm_network):
            with contextlib.suppress(OSError):  # while recording, our own suite's guard refuses it
                socket.create_connection(("192.0.2.1", 80))
    """
    project.write(swallowed)
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tried to connect to other machines*192.0.2.1*"])
    project.pytester.makeini("[pytest]\nasyncio_mode = auto\nllm_block_network = true\n")
    project.run("--llm-record=once").assert_outcomes(passed=1)
    project.write("import socket\nsocket.getaddrinfo('192.0.2.1', 80)\ndef test_it(): pass\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*NetworkBlockedError*192.0.2.1*"])


def test_a_recording_replays_without_key_and_server_and_is_counted(
    calls: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no readiness check and no cache, and counts its cost as recorded."""
    calls.run().assert_outcomes(failed=2)
    assert calls.server.requests == []
    calls.run("--llm-record=once", "--llm-summary=recorded.md").assert_outcomes(passed=2)
    assert sorted(one.path for one in calls.server.asked) == ["/api/chat", "/v1/chat/completions"]
    refreshed = calls.run("--llm-record=refresh", "-k", "test_text", "--llm-summary=no/summary.md")
    assert refreshed.ret == 0
    refreshed.stdout.fnmatch_lines(["--llm-summary: cannot write no/summary.md: No such file*"])
    monkeypatch.delenv("ACME_API_KEY")
    calls.server.plan(faults.error("server_error"))
    result = calls.run("--llm-summary=replayed.md")
    result.assert_outcomes(passed=2)
    assert (result.ret, calls.server.requests) == (0, [])
    text = "".join(path.read_text() for path in Path("cassettes").rglob("*.yaml"))
    assert [word for word in (KEY, "/api/tags") if word in text] == []
    recorded, replayed = (Path(f"{name}.md").read_text() for name in ("recorded", "replayed"))
    assert recorded == replayed
    assert "| 2 | 0 | 0 | $0.0002" in recorded


@pytest.mark.parametrize(("budget", "passed"), [("0.0009", 2), ("0", 0)])
def test_recording_keeps_to_the_session_budget(calls: Project, budget: str, passed: int) -> None:
    """All recordings of a session share it, whatever the ledger of the user holds."""
    calls.write(
        """
        import pytest
        @pytest.mark.parametrize("n", range(4))
        def test_text(llm_manager, n):
            llm_manager.complete("cli_analysis", f"What is {n}?", model="cloud")
        """
    )
    result = calls.run("--llm-record=once", f"--llm-budget={budget}")
    result.assert_outcomes(passed=passed, failed=4 - passed)
    result.stdout.fnmatch_lines(["*BudgetExceededError*", "*--llm-budget=USD*"])
    assert len(calls.server.asked) == passed


def test_a_recording_that_reaches_no_server_costs_nothing(calls: Project) -> None:
    (calls.pytester.path / "llm.yaml").write_text(CONFIG.format(url="http://127.0.0.1:9"))
    calls.write(
        """
        import pytest
        from testronaut_llm import LLMError
        def test_text(llm_manager):
            with pytest.raises(LLMError) as caught:
                llm_manager.complete("cli_analysis", "What is ls?", model="cloud")
            assert {(one.error.code, one.cost) for one in caught.value.attempts} == {("connection_failed", 0)}
        """
    )
    calls.run("--llm-record=once").assert_outcomes(passed=1)


SUMMARY = """
    import pytest
    from testronaut_llm import LLMError, RateLimitError

    def test_cost(llm_fake):
        llm_fake.reply("one")
        assert llm_fake.complete("cli_analysis", "What does ls do?").cost > 0

    def test_failure(llm_fake):
        llm_fake.reply(RateLimitError("slow down", retry_after=1000))
        with pytest.raises(LLMError):
            llm_fake.complete("local", "What does ls do?")
        llm_fake.reply("fine")
        llm_fake.batch("local", ["one", "two", ""])

    def test_both(llm_fake, llm_manager, request):
        request.node.user_properties += [("owner", "a"), ("owner", "b")]

    def test_without():
        pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_calls_are_properties_of_tests_and_a_summary(calls: Project, workers: str) -> None:
    """Under xdist, the process that starts the workers writes the summary."""
    calls.write(SUMMARY)
    Path("summary.md").write_text("# Job\n")
    calls.run("-n", workers, "--junit-xml=junit.xml", "--llm-summary=summary.md").assert_outcomes(passed=4)
    listed = {
        case.get("name"): [(one.get("name"), one.get("value")) for one in case.iter("property")]
        for case in ElementTree.parse("junit.xml").iter("testcase")
    }
    none = [("llm_calls", "0"), ("llm_hits", "0"), ("llm_cost", "0")]  # of each manager of the test
    assert listed["test_both"] == [("owner", "a"), ("owner", "b"), *none, *none]
    assert listed["test_failure"] == [
        *(("llm_calls", "4"), ("llm_hits", "0"), ("llm_cost", "0")),
        *(("llm_failures_rate_limit", "1"), ("llm_failures_invalid_request", "1")),
    ]
    assert listed["test_without"] == []
    counts, (_, cost) = listed["test_cost"][:2], listed["test_cost"][2]
    assert counts == [("llm_calls", "1"), ("llm_hits", "0")]
    assert 0 < float(cost or 0) < 1e-3
    text = Path("summary.md").read_text()
    assert text.startswith("# Job\n### `pytest`")
    assert text.count("### `pytest`") == text.count(f"| 5 | 0 | 2 | {usd(Decimal(cost or 0))} |") == 1
    assert text.count("| rate_limit | 1 |") == 1


def test_the_examples_of_the_page_hold(calls: Project, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path) -> None:
    """They run by rule, recorded from a real llama.cpp of the user, then replayed without it.

    A model of random weights, which needs no download, replaces the small one.
    """
    code, by_rule, recorded = (one.text for one in blocks("python", PAGE))
    (settings,), (ini,) = blocks("yaml", PAGE), blocks("ini", PAGE)
    calls.pytester.makepyfile(explain=code, test_by_rule=by_rule, test_recorded=recorded, test_it="")
    Path("llm.yaml").write_text(settings.text.replace("smollm2-135m", "tiny-random"))
    Path("pytest.ini").write_text(ini.text)
    monkeypatch.syspath_prepend(str(calls.pytester.path))
    stored(ModelStore(), tiny_gguf)
    calls.run("--llm-record=once").assert_outcomes(passed=4)
    (cassette,) = Path("cassettes").rglob("*.yaml")
    assert cassette.as_posix() in PAGE.read_text("utf-8")
    monkeypatch.setenv("TESTRONAUT_LLM_HOME", str(Path("nothing is here").absolute()))
    calls.run().assert_outcomes(passed=4)
