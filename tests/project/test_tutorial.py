"""The tutorial works as it is written: its files make a project whose test is recorded, replayed, and sees a change."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import faults
import pytest
import yaml
from doc_blocks import blocks
from manager_kit import Api, program
from source_tree import ROOT

from testronaut_llm.config.source import load_config

PAGE = ROOT / "docs" / "tutorial.md"
OPTIONS = '{"--words": "count the words", "--chars": "count the characters", "--upper": "print in capitals"}'
PLAN = '[{"option": "--words", "text": "three little words"}, {"option": "--upper", "text": "three little words"}]'
VERDICT = '{"result": "passed"}'


@pytest.fixture
def project(api: Callable[..., Api], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs a Python program in a folder with the tutorial's files; a server answers in place of the small model."""
    server = api("tutorial", faults.good(OPTIONS), faults.good(PLAN), faults.good(VERDICT))
    tool, checks, test = (block.text for block in blocks("python", PAGE))
    settings = yaml.safe_load(next(block.text for block in blocks("yaml", PAGE) if "version: 1" in block.text))
    price = {"input": 1, "output": 2}
    for row in settings["models"].values():
        row |= {"model": "openai/gpt-4.1-nano", "api_base": f"{server.url}/v1", "local": True, "price": price}
    files = {"tally.py": tool, "checks.py": checks, "test_tally.py": test, "llm.yaml": yaml.safe_dump(settings)}
    (ini,) = blocks("ini", PAGE)
    for name, text in {**files, "pytest.ini": ini.text}.items():
        (tmp_path / name).write_text(text)
    home = {"TESTRONAUT_LLM_HOME": str(tmp_path / "home"), "TESTRONAUT_LLM_CONFIG": str(tmp_path / "llm.yaml")}
    env = {"PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "OPENAI_API_KEY": "sk-made-up", **home}

    def run(*arguments: str) -> tuple[int, str]:
        done = program(*arguments, cwd=tmp_path, env=env)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def pytest_run(project: Callable[..., tuple[int, str]]) -> Callable[..., tuple[int, str]]:
    """Runs the tutorial's test."""
    return lambda *options: project("-m", "pytest", "-q", "-p", "no:cacheprovider", *options)


def test_the_checks_run(project: Callable[..., tuple[int, str]]) -> None:
    """The program prints a line for each case, with the output of the tool and the verdict."""
    code, printed = project("checks.py")
    assert code == 0, printed
    assert "--words | three little words | 3 words | passed " in printed
    assert "--upper | three little words | THREE LITTLE WORDS | passed " in printed


def test_the_test_is_recorded_and_sees_a_change(pytest_run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A replay passes; when the tool prints something else, it fails and names the command that records again."""
    code, printed = pytest_run("--llm-record=once")
    assert code == 0, printed
    assert (tmp_path / "cassettes/test_tally/test_each_option_does_what_the_help_text_says.yaml").exists()
    code, printed = pytest_run()
    assert code == 0, printed
    tool = tmp_path / "tally.py"
    tool.write_text(tool.read_text().replace('"words")', '"word")'))
    code, printed = pytest_run()
    assert code == 1, printed
    assert {"3 words", "3 word"} <= set(re.findall(r"printed: (3 words?)\b", " ".join(printed.split())))
    assert "pytest --llm-record=refresh 'test_tally.py::test_each_option" in printed


def test_the_last_step_changes_models_only(tmp_path: Path) -> None:
    """The `llm.yaml` with a better model has the same tasks, and lists that model first."""
    first, last = (block.text for block in blocks("yaml", PAGE) if "version: 1" in block.text)
    configs = []
    for text in (first, last):
        (tmp_path / "llm.yaml").write_text(text)
        configs.append(load_config(tmp_path / "llm.yaml"))
    assert set(configs[0].tasks) == set(configs[1].tasks)
    assert configs[1].tasks["cli_analysis"].models[0] == "luna"
