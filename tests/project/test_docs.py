"""The documentation is correct: examples load and run, generated pages are current, and nothing is left out."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import io
import re
import runpy
import shlex
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import faults
import pytest
import yaml
from doc_blocks import PAGES, Block, blocks
from fixtures_local import stored
from manager_kit import Make, Run, program
from ollama_kit import Ollama
from source_tree import ROOT, modules
from typer.main import get_command

import testronaut_llm
from testronaut_llm import AllModelsFailedError, LLMConfig, LLMManager, options
from testronaut_llm.cli import app
from testronaut_llm.config.source import load_config
from testronaut_llm.local.model_store import ModelStore
from testronaut_llm.testing import cassettes  # noqa: F401 - pytest forgets what an inner run imports
from testronaut_llm.testing.fake import FakeLLM

pytestmark = pytest.mark.usefixtures("provider_keys")


def test_a_python_example_is_python() -> None:
    for block in blocks("python"):
        compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if "version: 1" in b.text], ids=str)
def test_an_llm_yaml_example_loads(block: Block, tmp_path: Path) -> None:
    (tmp_path / "llm.yaml").write_text(block.text, "utf-8")
    assert set(load_config(tmp_path / "llm.yaml").tasks) == set(yaml.safe_load(block.text)["tasks"])


WORKED_EXAMPLE = """
import os
from testronaut_llm.config.source import load_config
from testronaut_llm.local.readiness import readiness
model = load_config("llm.yaml").model("acme")
print(readiness(model).missing)
os.environ["ACME_API_KEY"] = "k"
print(readiness(model).ready)
"""


def test_the_worked_example_adds_a_provider_that_is_ready_once_its_key_is_set(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "add-a-provider.md"
    (example,) = blocks("python", page)
    (config,) = (block for block in blocks("yaml", page) if "acme" in block.text)
    (tmp_path / "llm.yaml").write_text(config.text, "utf-8")
    env = {"PATH": "", "PYTHONPATH": str(ROOT), "TESTRONAUT_LLM_HOME": str(tmp_path)}
    done = program("-c", example.text + WORKED_EXAMPLE, cwd=tmp_path, env=env)
    assert (done.stdout.splitlines(), done.stderr) == (["ACME_API_KEY is not set", "True"], "")


def test_a_shown_command_exists_with_its_options() -> None:
    usage = re.compile(r"(?:^\$ (?:\S*/)?|`(?:\w+=\S+ )?)testronaut-llm ([^`\n]+)", re.MULTILINE)
    texts = [page.read_text("utf-8") for page in PAGES if page.name != "cli.md"]
    lines = {found for text in texts for found in usage.findall(text)}
    assert lines
    for line in lines:
        command, words = get_command(app), shlex.split(line.replace("...", ""))
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert getattr(command, "invoke_without_command", True), f"no such command: testronaut-llm {line}"
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= options, line


def test_every_own_variable_is_documented() -> None:
    named = re.compile(r"TESTRONAUT_LLM_[A-Z_]+")
    read = {name for module in modules() for name in named.findall(module.text)}
    page = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")
    assert set(named.findall(page)) == read


def test_the_public_names_are_documented() -> None:
    text = " ".join(page.read_text("utf-8") for page in PAGES)
    documented = {module.name for module in modules() if f"::: testronaut_llm.{module.name}\n" in text}
    homes = {name: getattr(testronaut_llm, name).__module__.partition(".")[2] for name in testronaut_llm.__all__}
    assert not [name for name, home in homes.items() if home not in documented and f"`{name}`" not in text]


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in ROOT.glob("*.md"):  # MkDocs checks those in docs/
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (ROOT / target).exists(), page.name


def test_the_readme_fits_two_screens() -> None:
    assert (ROOT / "README.md").read_text("utf-8").count("\n") <= 100


SHORT_PAGES = ("README.md", "docs/index.md", "docs/first-answer.md", "docs/how-to/estimate.md")
TINY = ("embedded/smollm2-135m", "embedded/tiny-random")  # which is not downloaded, in place of the small one


@pytest.fixture
def folder(api: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's llm.yaml, whose models are at one endpoint, and the files that the commands read."""
    server = api("a", faults.good('[{"flag": "-l", "meaning": "one file a line"}]'))
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
@pytest.mark.parametrize("block", blocks("python", *(ROOT / name for name in SHORT_PAGES)), ids=str)
def test_a_short_python_example_runs(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out
    usual = ("-l", "one file a line", "sonnet", "0.000024")  # of models that cost the same, the best
    estimate = ("USD for 3 of 3 prompts\n0 cached, 0 refused; enough money: True",)
    assert all(words in printed for words in (estimate if block.page.name == "estimate.md" else usual)), printed


METHODS = [one for name, one in inspect.getmembers(LLMManager, inspect.isfunction) if not name.startswith("_")]
CLASSES = "Answer AsyncStream CallOptions Classification Comparison EmbedOptions Embeddings Estimate LLMError Message"
PUBLIC = [getattr(testronaut_llm, name) for name in (*CLASSES.split(), "Route", "Stream")]


@pytest.mark.parametrize("documented", [*METHODS, *PUBLIC, options.ClassifyOptions], ids=lambda one: one.__name__)
def test_the_example_of_a_docstring_runs(documented: Any) -> None:
    row = {"model": "openai/fake", "price": {"input": 0, "output": 0}, "quality": 10}
    tasks = ("cli_analysis", "test_generation", "result_verification", "embedding")
    made = {"models": {"fake": row, "other": row}, "tasks": {name: {"models": ["fake"]} for name in tasks}}
    report = io.StringIO()
    with FakeLLM(config=LLMConfig.model_validate(made)) as llm:
        llm.reply("It lists files.")
        llm.reply(["-a", "-l"], task="test_generation")
        llm.reply("passed", task="result_verification")
        scope = {**vars(sys.modules[documented.__module__]), "llm": llm, "asyncio": asyncio, "Decimal": Decimal}
        example = doctest.DocTestParser().get_doctest(documented.__doc__, scope, documented.__name__, None, None)
        assert example.examples
        doctest.DocTestRunner(verbose=False).run(example, out=report.write)
    assert not report.getvalue()


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.text.splitlines()]
    shown = {line[2:].partition(" #")[0].strip().removeprefix(".venv/bin/") for line in lines if line.startswith("$ ")}
    return sorted(line for line in shown if "testronaut-llm " in line and "pip " not in line)


LOCAL = ROOT / "docs" / "how-to" / "local-models.md"


@pytest.mark.parametrize("number", [0, 1])
def test_an_example_for_ollama_runs(
    number: int, ollama: Ollama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
    line: str, folder: Path, api: Make, ollama: Ollama, tiny_gguf: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.name = "qwen3:8b"
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    line, _, given = line.replace(*TINY).partition(" < ")
    words = shlex.split(line)[1:]
    if "classify" in words:
        api("a", faults.good('{"result": "passed"}'))
    if words[0] == "init":
        (folder / "llm.yaml").unlink()
    if TINY[1] in words:
        stored(ModelStore(), tiny_gguf)
    code, out, err = run(*words, stdin="12 passed" if given else None)
    assert code in ((0, 1) if "verify" in words else (0,)), out + err  # a random model may not pass `verify`


PAGE = ROOT / "docs" / "how-to" / "phases.md"
OPTION = {"names": ["-V", "--version"], "meaning": "print the version", "takes_value": False}
TREE = {"name": "python", "about": "runs Python", "subcommands": [], "options": [OPTION]}
CASE = {"title": "it tells its version", "arguments": ["--version"], "exit_code": 0, "output_has": ["Python 3"]}


def test_the_three_phases_work_together(tmp_path: Path) -> None:
    page: Any = ModuleType("phases_page")
    sys.modules["phases_page"] = page
    exec(compile("\n".join(one.text for one in blocks("python", PAGE)), str(PAGE), "exec"), vars(page))
    (block,) = blocks("yaml", PAGE)
    (tmp_path / "llm.yaml").write_text(block.text)
    llm = FakeLLM(tmp_path / "llm.yaml")
    llm.reply(TREE, task="cli_analysis")
    llm.reply([CASE], task="test_generation")
    llm.reply('{"passed": false, "reason": "no version"}', task="result_verification")
    tree = page.analyse(llm, [sys.executable])
    assert tree == page.Command.model_validate(TREE)
    (case,) = page.plan(llm, tree)
    assert case == page.Case.model_validate(CASE)
    assert page.verify(llm, case, "Python 3.11.7\n", 0).passed
    assert page.verify(llm, case, "Ruby", 0) == page.Verdict(passed=False, reason="no version")
    spent = {name: one.calls for name, one in llm.spend().by_task.items()}
    assert spent == dict.fromkeys(("cli_analysis", "test_generation", "result_verification"), 1)
    llm.reply([CASE] * 3, task="test_generation")
    with pytest.raises(AllModelsFailedError, match="accept"):
        page.plan(llm, page.Command.model_validate(TREE), most=2)


TUTORIAL = ROOT / "docs" / "tutorial.md"
OPTIONS = '{"--words": "count the words", "--chars": "count the characters", "--upper": "print in capitals"}'
PLAN = '[{"option": "--words", "text": "three little words"}, {"option": "--upper", "text": "three little words"}]'


@pytest.fixture
def project(api: Make, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tutorial's files; a server answers in place of the small model."""
    server = api("tutorial", faults.good(OPTIONS), faults.good(PLAN), faults.good('{"result": "passed"}'))
    tool, checks, test = (block.text for block in blocks("python", TUTORIAL))
    settings = yaml.safe_load(next(block.text for block in blocks("yaml", TUTORIAL) if "version: 1" in block.text))
    price = {"input": 1, "output": 2}
    for row in settings["models"].values():
        row |= {"model": "openai/gpt-4.1-nano", "api_base": f"{server.url}/v1", "local": True, "price": price}
    (ini,) = blocks("ini", TUTORIAL)
    files = {"tally.py": tool, "checks.py": checks, "test_tally.py": test, "llm.yaml": yaml.safe_dump(settings)}
    for name, text in {**files, "pytest.ini": ini.text}.items():
        (pytester.path / name).write_text(text)
    monkeypatch.setenv("TESTRONAUT_LLM_CONFIG", str(pytester.path / "llm.yaml"))
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
