"""The documentation is correct: examples load, generated pages are current, and nothing is left out."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from doc_blocks import PAGES, Block, blocks
from manager_kit import program
from source_tree import ROOT, modules
from typer.main import get_command

import testronaut_llm
from testronaut_llm.cli import app
from testronaut_llm.config.source import load_config


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_example_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if "version: 1" in b.text], ids=str)
def test_an_llm_yaml_example_loads(block: Block, tmp_path: Path) -> None:
    """Every `llm.yaml` example is valid, and its tasks name models that it has."""
    path = tmp_path / "llm.yaml"
    path.write_text(block.text, "utf-8")
    config = load_config(path)
    assert set(yaml.safe_load(block.text)["tasks"]) == set(config.tasks)


WORKED_EXAMPLE = """
import os
from testronaut_llm.config.source import load_config
from testronaut_llm.providers.readiness import readiness
model = load_config("llm.yaml").model("acme")
print(readiness(model).missing)
os.environ["ACME_API_KEY"] = "k"
state = readiness(model)
print(state.ready, state.missing)
"""


def test_the_worked_example_adds_a_provider_that_is_ready_once_its_key_is_set(tmp_path: Path) -> None:
    page = ROOT / "docs" / "how-to" / "add-a-provider.md"
    (example,) = blocks("python", page)
    (config,) = (block for block in blocks("yaml", page) if "acme" in block.text)
    (tmp_path / "llm.yaml").write_text(config.text, "utf-8")
    env = {"PATH": "", "PYTHONPATH": str(ROOT), "TESTRONAUT_LLM_HOME": str(tmp_path)}
    done = program("-c", example.text + WORKED_EXAMPLE, cwd=tmp_path, env=env)
    assert (done.stdout.splitlines(), done.stderr) == (["ACME_API_KEY is not set", "True "], "")


def shown_commands() -> list[tuple[str, str]]:
    usage = re.compile(r"(?:^\$ (?:\S*/)?|`(?:\w+=\S+ )?)testronaut-llm ([^`\n]+)", re.MULTILINE)
    pages = [page for page in PAGES if page.name != "cli.md"]
    return sorted({(page.name, found) for page in pages for found in usage.findall(page.read_text("utf-8"))})


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_a_shown_command_exists_with_its_options(page: str, line: str) -> None:
    command = get_command(app)
    words = shlex.split(line.replace("...", ""))
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert getattr(command, "invoke_without_command", True), f"{page}: no such command: testronaut-llm {line}"
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-") and word != "-"} <= options


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
    """MkDocs checks the pages in docs/."""
    for page in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (ROOT / target).exists(), page.name


def test_the_readme_fits_two_screens() -> None:
    assert (ROOT / "README.md").read_text("utf-8").count("\n") <= 100
