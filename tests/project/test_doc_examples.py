"""The short examples of the pages run unchanged."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import faults
import pytest
import yaml
from doc_blocks import Block, blocks
from fixtures_local import stored
from manager_kit import Api
from ollama_kit import Ollama
from source_tree import ROOT

from testronaut_llm import LLMConfig
from testronaut_llm.cli import main
from testronaut_llm.errors import AllModelsFailedError
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.testing.fake import FakeLLM

pytestmark = pytest.mark.usefixtures("provider_keys")

SHORT = [
    block for name in ("README.md", "docs/index.md", "docs/first-answer.md") for block in blocks("python", ROOT / name)
]
LIST = '[{"flag": "-l", "meaning": "one file a line"}]'
TINY = ("embedded/smollm2-135m", "embedded/tiny-random")
"""The tiny model, which is not downloaded, stands in for the small one."""


@pytest.fixture
def folder(api: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's llm.yaml, whose models are at one endpoint, and the files that the commands read."""
    server = api("a", faults.good(LIST))
    (readme,) = blocks("yaml", ROOT / "README.md")
    settings = yaml.safe_load(readme.text)
    row = {"model": "openai/gpt-4o-mini", "api_base": f"{server.url}/v1", "price": {"input": 1, "output": 2}}
    settings["models"] = {name: {**row, "quality": one["quality"]} for name, one in settings["models"].items()}
    settings["models"]["embedded"] = {**row, "quality": 1}
    (tmp_path / "llm.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "answers.jsonl").write_text("")
    (tmp_path / "prompts.jsonl").write_text('"What does ls do?"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("block", SHORT, ids=str)
def test_a_short_python_example_runs(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the answer, its cost and its model."""
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(block.text, str(block), "exec"), scope)
    printed = capsys.readouterr().out
    assert "-l" in printed
    assert "one file a line" in printed
    assert "sonnet" in printed  # of models that cost the same, the best
    assert "0.000024" in printed


@pytest.mark.usefixtures("folder")
def test_the_example_of_an_estimate_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints a price for three prompts."""
    (block,) = blocks("python", ROOT / "docs" / "how-to" / "estimate.md")
    exec(compile(block.text, str(block), "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    assert "USD for 3 of 3 prompts\n0 cached, 0 refused; enough money: True" in printed


SURFACE = {
    "llm_manager.LLMManager": "complete acomplete stream astream embed aembed classify aclassify batch abatch "
    "answer_each compare acompare route estimate aestimate spend session prune_history dropped_params warm_up close "
    "aclose",
    "options": "EmbedOptions CallOptions ClassifyOptions",
    "records": "Message Route Answer Embeddings",
    "methods.streams": "Stream AsyncStream",
    "methods.classify": "Classification",
    "methods.compare": "Comparison",
    "methods.estimate": "Estimate",
    "errors": "LLMError",
}


@pytest.fixture
def answering() -> Iterator[FakeLLM]:
    """Yields a fake of the models in docstring examples."""
    row = {"model": "openai/fake", "price": {"input": 0, "output": 0}, "quality": 10}
    tasks = ("cli_analysis", "test_generation", "result_verification", "embedding")
    made = {"models": {"fake": row, "other": row}, "tasks": {name: {"models": ["fake"]} for name in tasks}}
    with FakeLLM(config=LLMConfig.model_validate(made)) as llm:
        llm.reply("It lists files.")
        llm.reply(["-a", "-l"], task="test_generation")
        llm.reply("passed", task="result_verification")
        yield llm


@pytest.mark.parametrize("name", [f"{place}.{name}" for place, names in SURFACE.items() for name in names.split()])
def test_the_example_of_a_docstring_runs(name: str, answering: FakeLLM) -> None:
    """Each public class and method shows a call and its result."""
    module = re.split(r"\.[A-Z]", name)[0]
    found: Any = importlib.import_module(f"testronaut_llm.{module}")
    path = name.removeprefix(f"{module}.").split(".")
    scope = {**vars(found), "llm": answering, "asyncio": asyncio, "Decimal": Decimal}
    for step in path:
        found = getattr(found, step)
    example = doctest.DocTestParser().get_doctest(found.__doc__, scope, name, None, None)
    assert example.examples
    report = io.StringIO()
    doctest.DocTestRunner(verbose=False).run(example, out=report.write)
    assert not report.getvalue()


def commands() -> list[str]:
    """Returns each line of a console example that runs the program."""
    lines = [line for block in blocks("console") for line in block.text.splitlines()]
    shown = [line[2:].partition(" #")[0].strip() for line in lines if line.startswith("$ ")]
    return sorted(
        {line.removeprefix(".venv/bin/") for line in shown if "testronaut-llm " in line and "pip " not in line}
    )


LOCAL = ROOT / "docs" / "how-to" / "local-models.md"


@pytest.mark.parametrize("number", [0, 1])
def test_an_example_for_ollama_runs(
    number: int, ollama: Ollama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The examples to chat and to embed run with the `llm.yaml` above them."""
    settings = blocks("yaml", LOCAL)[2 * number].text
    (row,) = yaml.safe_load(settings)["models"].values()
    ollama.name = row["model"].removeprefix("ollama/")
    ollama.capabilities = ["embedding"] if number else ["completion"]
    (tmp_path / "llm.yaml").write_text(settings)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(tmp_path / "llm.yaml"))
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    exec(compile(blocks("python", LOCAL)[number].text, str(LOCAL), "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == ("2\n" if number else "Hello.\n")
    assert len(ollama.loads) == 1


@pytest.mark.usefixtures("tiny_offered")
@pytest.mark.parametrize("line", commands())
def test_a_console_example_runs(
    line: str,
    folder: Path,
    api: Callable[..., Api],
    ollama: Ollama,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each command ends with exit code 0 (`verify` may fail with a random model), without a traceback."""
    ollama.name = "qwen3:8b"
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    line, _, given = line.replace(*TINY).partition(" < ")
    if given:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12 passed")))
    words = shlex.split(line)
    if "classify" in words:
        api("a", faults.good('{"result": "passed"}'))
    if words[1] == "init":
        (folder / "llm.yaml").unlink()
    if TINY[1] in words:
        stored(ModelStore(), tiny_gguf)
    monkeypatch.setattr(sys, "argv", words)
    code: Any = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert code in ((0, 1) if "verify" in words else (0, None)), out + err
    assert "Traceback" not in err


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


def test_the_three_phases_work_together(page: Any, llm: FakeLLM) -> None:
    """A help text becomes a tree, the tree a plan, its outputs verdicts; each task asks its own models."""
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
    """`accept` refuses it for each model in turn."""
    llm.reply([CASE] * 3, task="test_generation")
    with pytest.raises(AllModelsFailedError, match="accept"):
        page.plan(llm, page.Command.model_validate(TREE), most=2)
