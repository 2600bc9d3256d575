"""The short examples of the pages, run as they stand; those that make up a project have tests of their own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
import yaml
from doc_blocks import Block, blocks
from fixtures_local import stored
from manager_kit import Api
from ollama_kit import Ollama
from source_tree import ROOT

from testronaut_llm.cli import main
from testronaut_llm.local.model_store import ModelStore

pytestmark = pytest.mark.usefixtures("provider_keys")

SHORT = [
    block for name in ("README.md", "docs/index.md", "docs/tutorial.md") for block in blocks("python", ROOT / name)
]
LIST = '[{"flag": "-l", "meaning": "one file a line"}]'
TINY = ("embedded/smollm2-135m", "embedded/tiny-random")
"""A model that nobody has to fetch stands in for the small one."""


@pytest.fixture
def folder(api: Callable[..., Api], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's llm.yaml, whose models are all at one endpoint, and the files that the commands read."""
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
    """It prints the answer, what it cost, and which model gave it."""
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


def commands() -> list[str]:
    """Each line of a console example that runs the program."""
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
    """Each with the `llm.yaml` above it: one to chat, one to embed."""
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


@pytest.mark.parametrize("line", commands())
def test_a_console_example_runs(
    line: str,
    folder: Path,
    ollama: Ollama,
    tiny_gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the exit code 0, and no traceback; a model of random weights may fail the checks of `verify`."""
    ollama.name = "qwen3:8b"
    monkeypatch.setenv("OLLAMA_HOST", ollama.url)
    words = shlex.split(line.replace(*TINY))
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
