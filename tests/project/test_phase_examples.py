"""The page on the three phases: its code, run as it stands, with answers by rule in place of models."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from doc_blocks import blocks
from source_tree import ROOT

from testronaut_llm.errors import AllModelsFailedError
from testronaut_llm.testing.fake import FakeLLM

PAGE = ROOT / "docs" / "how-to" / "phases.md"
TREE = {"name": "python", "about": "runs Python", "subcommands": [],
        "options": [{"names": ["-V", "--version"], "meaning": "print the version", "takes_value": False}]}  # fmt: skip
CASE = {"title": "it tells its version", "arguments": ["--version"], "exit_code": 0, "output_has": ["Python 3"]}


@pytest.fixture
def page() -> ModuleType:
    """The code of the page as a module."""
    module = ModuleType("phases_page")
    sys.modules["phases_page"] = module
    exec(compile("\n".join(one.text for one in blocks("python", PAGE)), str(PAGE), "exec"), vars(module))
    return module


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    """A fake over the page's own llm.yaml."""
    (block,) = blocks("yaml", PAGE)
    (tmp_path / "llm.yaml").write_text(block.text)
    return FakeLLM(tmp_path / "llm.yaml")


def test_the_three_phases_hang_together(page: Any, llm: FakeLLM) -> None:
    """A real help text becomes a tree, the tree a plan, its outputs verdicts; each task asks whom the file says."""
    llm.reply(TREE, task="cli_analysis")
    llm.reply([CASE], task="test_generation")
    llm.reply('{"passed": false, "reason": "no version"}', task="result_verification")
    tree = page.analyse(llm, [sys.executable])
    assert tree == page.Command.model_validate(TREE)
    (case,) = page.plan(llm, tree)
    assert case == page.Case.model_validate(CASE)
    assert page.verify(llm, case, "Python 3.11.7\n", 0).passed
    assert page.verify(llm, case, "Ruby", 0) == page.Verdict(passed=False, reason="no version")
    spent = llm.spend().by_task
    assert {name: one.calls for name, one in spent.items()} == {
        "cli_analysis": 1,
        "test_generation": 1,
        "result_verification": 1,
    }


def test_a_plan_that_is_too_long_is_refused(page: Any, llm: FakeLLM) -> None:
    """By each model in turn."""
    llm.reply([CASE] * 3, task="test_generation")
    with pytest.raises(AllModelsFailedError, match="accept"):
        page.plan(llm, page.Command.model_validate(TREE), most=2)
