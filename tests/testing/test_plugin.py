"""The pytest plugin in a project of its own: record, replay, and what fails a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_echo import EchoServer

from testronaut_llm.testing.cassettes import use_cassette

TEST = """
    import httpx, pytest

    def ask(text):
        return httpx.post("{url}/v1", json={{"prompt": text}}, verify=False).json()["prompt"]

    def test_one(cassette):
        assert ask("one") == "one"

    @pytest.mark.parametrize("text", ["a b", "c/d:e"])
    def test_many(cassette, text):
        assert ask(text) == text

    @pytest.mark.cassette("shared/four", recorded_from="the echo server", ignored=["prompt"])
    def test_named(cassette):
        ask("four")
"""


class Project:
    """A project with tests that talk to a server, and pytest runs in it."""

    def __init__(self, pytester: pytest.Pytester, server: EchoServer) -> None:
        self.pytester, self.server = pytester, server
        pytester.makeconftest("pytest_plugins = ['testronaut_llm.testing.plugin']")
        self.write(TEST)

    def write(self, test: str) -> None:
        self.pytester.makepyfile(test_it=test.format(url=self.server.url))

    def run(self, *options: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess("-p", "no:asyncio", "-p", "no:randomly", *options)

    def cassettes(self) -> list[str]:
        folder = self.pytester.path / "cassettes"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _import_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what cassettes need before pytest runs inside pytest, which would import it anew for each run."""
    with use_cassette(tmp_path_factory.mktemp("warm") / "none.yaml"):
        pass


@pytest.fixture
def project(pytester: pytest.Pytester) -> Iterator[Project]:
    with EchoServer() as server:
        yield Project(pytester, server)


@pytest.fixture
def recorded(project: Project) -> Project:
    project.run("--llm-record=once").assert_outcomes(passed=4)
    assert project.server.requests == 4
    return project


def test_records_once_then_replays_without_the_server(recorded: Project) -> None:
    """Each test has a cassette named after it, without characters that a file system refuses, and replays from it."""
    assert recorded.cassettes() == [
        "shared/four.yaml",
        "test_it/test_many-a-b.yaml",
        "test_it/test_many-c-d-e.yaml",
        "test_it/test_one.yaml",
    ]
    result = recorded.run()
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    assert recorded.server.requests == 4


def test_without_a_cassette_it_fails_closed(project: Project) -> None:
    """By default nothing is recorded and no server is asked."""
    result = project.run()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*CassetteMissError*", "*--llm-record=once*"])
    assert project.server.requests == 0


def test_a_changed_prompt_fails_until_it_is_recorded_anew(recorded: Project) -> None:
    """A new prompt never gets the old answer; a refresh takes it in and drops the old one."""
    recorded.write(TEST.replace('ask("one") == "one"', 'ask("uno") == "uno"'))
    recorded.run().assert_outcomes(passed=3, failed=1)
    recorded.run("--llm-record=refresh", "-k", "test_one").assert_outcomes(passed=1, deselected=3)
    recorded.run().assert_outcomes(passed=4)
    assert "prompt: one" not in Path("cassettes/test_it/test_one.yaml").read_text()


def test_an_unplayed_recording_fails(recorded: Project) -> None:
    """A test that no longer asks for what was recorded fails."""
    recorded.write(TEST.replace('assert ask("one") == "one"', "pass"))
    result = recorded.run()
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["*UnplayedRecordingError*test_one.yaml*never asked for: POST /v1*"])


def test_a_failing_test_is_not_blamed_twice_nor_recorded(recorded: Project) -> None:
    """A failure before the call is one failure, and a failure while recording keeps the old cassette."""
    before = Path("cassettes/test_it/test_one.yaml").read_text()
    recorded.write(TEST.replace('assert ask("one") == "one"', "assert 0"))
    recorded.run().assert_outcomes(passed=3, failed=1)
    recorded.write(TEST.replace('ask("one") == "one"', 'ask("uno") == "one"'))
    recorded.run("--llm-record=refresh").assert_outcomes(passed=3, failed=1)
    assert Path("cassettes/test_it/test_one.yaml").read_text() == before


def test_an_orphan_cassette_fails_a_whole_run(recorded: Project) -> None:
    """A cassette that no test uses fails the run and is named; a run of a part of the tests cannot know."""
    recorded.write(TEST.replace("test_one", "test_renamed"))
    Path("cassettes/test_it/test_one.yaml").rename("cassettes/test_it/test_renamed.yaml")
    Path("cassettes/shared/left.yaml").write_text("version: 1\n")
    result = recorded.run()
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*cassettes that no test uses*", "cassettes/shared/left.yaml"])
    assert recorded.run("-k", "test_many").ret == 0
    assert recorded.run("test_it.py").ret == 0


def test_the_whole_session_can_be_shut_off(project: Project) -> None:
    """With `llm_block_network` nothing leaves the machine, not even while tests are collected; recording may."""
    project.pytester.makeini("[pytest]\nllm_block_network = true\n")
    project.write("import socket\nsocket.getaddrinfo('192.0.2.1', 80)\ndef test_it(): pass\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*NetworkBlockedError*192.0.2.1*"])


def test_recording_opens_the_network_and_fixtures_keep_models_in_reach(project: Project) -> None:
    """While recording nothing is watched; and the models that the user has fetched are there under a new home."""
    project.pytester.makeini("[pytest]\nllm_block_network = true\n")
    models = project.pytester.path / "home" / "data" / "models"
    models.mkdir(parents=True)
    (models / "a.gguf").write_text("weights")
    project.write(
        """
        import contextlib, os, pathlib, socket
        def test_it(network, fake_llm):
            with contextlib.suppress(OSError):  # our own suite's guard refuses it in any case
                socket.create_connection(("192.0.2.1", 9))
            home = pathlib.Path(os.environ["TESTRONAUT_LLM_HOME"])
            assert (home / "data" / "models" / "a.gguf").read_text() == "weights"
        """
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TESTRONAUT_LLM_HOME", str(models.parent.parent))
        project.run("--llm-record=once").assert_outcomes(passed=1)
        project.run().assert_outcomes(passed=1, errors=1)


@pytest.fixture(autouse=True)
def _forget_what_inner_sessions_tried(network: object) -> Iterator[None]:
    yield
    network.blocked.clear()  # type: ignore[attr-defined]
