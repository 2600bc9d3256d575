"""The files of the tutorial make a project whose test is recorded, replayed, and detects a change."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import faults
import pytest
import yaml
from doc_blocks import blocks
from manager_kit import Make
from source_tree import ROOT

from testronaut_llm.testing import cassettes, fake, network  # noqa: F401 - pytest forgets what an inner run imports

PAGE = ROOT / "docs" / "tutorial.md"
OPTIONS = '{"--words": "count the words", "--chars": "count the characters", "--upper": "print in capitals"}'
PLAN = '[{"option": "--words", "text": "three little words"}, {"option": "--upper", "text": "three little words"}]'


@pytest.fixture
def project(api: Make, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tutorial's files; a server answers in place of the small model."""
    server = api("tutorial", faults.good(OPTIONS), faults.good(PLAN), faults.good('{"result": "passed"}'))
    tool, checks, test = (block.text for block in blocks("python", PAGE))
    settings = yaml.safe_load(next(block.text for block in blocks("yaml", PAGE) if "version: 1" in block.text))
    price = {"input": 1, "output": 2}
    for row in settings["models"].values():
        row |= {"model": "openai/gpt-4.1-nano", "api_base": f"{server.url}/v1", "local": True, "price": price}
    (ini,) = blocks("ini", PAGE)
    files = {"tally.py": tool, "checks.py": checks, "test_tally.py": test, "llm.yaml": yaml.safe_dump(settings)}
    for name, text in {**files, "pytest.ini": ini.text}.items():
        (pytester.path / name).write_text(text)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(pytester.path / "llm.yaml"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    monkeypatch.syspath_prepend(pytester.path)
    return pytester.path


def test_the_checks_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(project / "checks.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "--words | three little words | 3 words | passed " in printed
    assert "--upper | three little words | THREE LITTLE WORDS | passed " in printed


def test_the_test_is_recorded_and_sees_a_change(project: Path, pytester: pytest.Pytester) -> None:
    def run(*options: str) -> pytest.RunResult:
        scope = "asyncio_default_fixture_loop_scope=function"
        return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", "-o", scope, *options)

    run("--llm-record=once").assert_outcomes(passed=1)
    assert (project / "cassettes/test_tally/test_each_option_does_what_the_help_text_says.yaml").exists()
    run().assert_outcomes(passed=1)
    tool = project / "tally.py"
    tool.write_text(tool.read_text().replace('"words")', '"word")'))
    changed = run()
    changed.assert_outcomes(failed=1)
    printed = " ".join(" ".join(changed.outlines).split())
    assert {"3 words", "3 word"} <= set(re.findall(r"printed: (3 words?)\b", printed))
    assert "pytest --llm-record=refresh 'test_tally.py::test_each_option" in printed
